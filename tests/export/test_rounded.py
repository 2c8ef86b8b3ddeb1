"""Rounded networks: their files, in JAX, and many at a time."""

import functools

import numpy as np
import pytest
import tiny_run

import nasjax
from nasjax.export import rounded

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from nasjax.export import hearing, onnx  # noqa: E402


@functools.cache
def _network():
  return nasjax.load_network(tiny_run.finished().out)


def _speech(count, seed=5):
  """Returns features of noise that swells, of several lengths."""
  rng = np.random.default_rng(seed)
  lengths = rng.integers(9_000, 20_000, count)
  samples = [
    (3000 * np.sin(np.arange(n) / 2500) ** 2 * rng.standard_normal(n)).astype(
      np.int16
    )
    for n in lengths
  ]
  return _network().frontend.features(samples, [None] * count)


def test_a_rounded_network_is_its_file(tmp_path):
  network, xs = _network(), _speech(20)
  made = rounded.of(network, xs)
  onnx.save_network(tmp_path / 'int8.onnx', network, xs)
  onnx.save_network(tmp_path / 'float.onnx', network)
  file, whole = (
    hearing.load(tmp_path / f'{name}.onnx', 1) for name in ('int8', 'float')
  )
  rounding, apart = [], []
  for x_tf in _speech(6, 8):
    x_btf, len_b = x_tf[None], np.array([len(x_tf)])
    (ours_btv, _), (theirs_btv, _), (exact_btv, _) = (
      one.logits(x_btf, len_b) for one in (made, file, whole)
    )
    apart.append(np.abs(ours_btv - theirs_btv).mean())
    rounding.append(np.abs(theirs_btv - exact_btv).mean())
  # Most logits are the same: what rounding costs is the same in both.
  assert np.mean(apart) < 0.1 * np.mean(rounding)
  heard = [one.hear(_speech(6, 8)) for one in (made, file)]
  assert [t.text for t in heard[0]] == [t.text for t in heard[1]]
