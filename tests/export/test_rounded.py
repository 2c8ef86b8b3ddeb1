"""Rounded networks: their files, in JAX, and many at a time."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_conformer
import tiny_run

import nasjax
from nasjax.export import rounded, text
from nasjax.layers import eight_bits
from nasjax.models import families, macros
from nasjax.spaces import SPACES
from nasjax.training import recipes

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from nasjax.export import hearing, latency, onnx  # noqa: E402


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


@pytest.mark.slow
def test_members_of_a_program_round_as_their_files(tmp_path):
  """Two time-delay networks of one program, the taps of each its own."""
  space = SPACES['st_nas']
  macro = macros.Tdnn('narrow', width=8, outputs=7, features=12)
  archs = [
    space.parse(cell) for cell in ([0, 1, 2, 3, 1, 2], [1, 0, 2, 3, 0, 2])
  ]
  assert len({families.signature(space, arch) for arch in archs}) == 1
  module = families.network(space, archs[0], macro, recipes.E5)
  gates_p = families.stack([families.gates(space, arch) for arch in archs])
  rng = np.random.default_rng(1)
  xs = [rng.standard_normal((n, 12), np.float32) for n in (37, 20, 33)]
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), xs[0][None], np.array([37]),
    families.gates(space, archs[0]),
  )['params']  # fmt: skip
  params_p = jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal((2, *leaf.shape), np.float32), shapes
  )
  members = rounded.Members(space, macro, module, recipes.E5, params_p, gates_p)
  steps_p = members.steps(xs)
  heard = members.hear(xs, steps_p)
  assert len(heard.int8_pu) == 2 and len(heard.int8_pu[0]) == 3
  run = jax.jit(dataclasses.replace(module, precision='int8').apply)
  for p, arch in enumerate(archs):
    params, gates, steps = jax.tree.map(
      lambda leaf_p, p=p: leaf_p[p], (params_p, gates_p, steps_p)
    )
    onnx.save(
      tmp_path / 'a.onnx', space, arch, macro,
      families.unpack(space, arch, params), calibration=xs,
    )  # fmt: skip
    x_btf, len_b = xs[0][None], np.array([37])
    ours_btv, _ = run(
      {'params': params, eight_bits.STEPS: steps}, x_btf, len_b, gates
    )
    theirs_btv, _ = hearing.session(tmp_path / 'a.onnx', 1).run(
      None, {'features': x_btf, 'lengths': len_b}
    )
    apart = np.abs(np.asarray(ours_btv) - theirs_btv)
    assert np.median(apart) < 1e-4 * np.abs(theirs_btv).max()
    assert apart.max() < 0.02 * np.abs(theirs_btv).max()


@pytest.mark.slow
def test_a_rounded_conformer_is_its_file(tmp_path):
  space, macro = tiny_conformer.SPACE, tiny_conformer.MACRO
  with tiny_conformer.registered():
    arch = tiny_conformer.arch(downsample='2')
    module = families.single(space, arch, macro)
    params = latency.drawn(space, arch, macro)
    params = jax.tree.map(lambda leaf: 5 * leaf, params)
    rng = np.random.default_rng(1)
    shape = macro.features
    xs = [rng.standard_normal((n, shape), np.float32) for n in (37, 20, 33)]
    gates = families.gates(space, arch)
    params_p, gates_p = jax.tree.map(
      lambda leaf: np.asarray(leaf)[None], (params, gates)
    )
    members = rounded.Members(
      space, macro, module, recipes.E5, params_p, gates_p
    )
    steps = jax.tree.map(lambda leaf_p: leaf_p[0], members.steps(xs))
    onnx.save(tmp_path / 'a.onnx', space, arch, macro, params, None, xs)
    x_btf, len_b = xs[0][None], np.array([37])
    run = jax.jit(dataclasses.replace(module, precision='int8').apply)
    variables = {'params': params, eight_bits.STEPS: steps}
    ours_btv, _ = run(variables, x_btf, len_b, gates)
    theirs_btv, _ = hearing.session(tmp_path / 'a.onnx', 1).run(
      None, {'features': x_btf, 'lengths': len_b}
    )
  apart = np.abs(np.asarray(ours_btv) - theirs_btv)
  assert np.median(apart) < 1e-3 * np.abs(theirs_btv).max()
  assert apart.max() < 0.05 * np.abs(theirs_btv).max()


@pytest.mark.slow
def test_every_weight_of_a_rounded_network_is_trained():
  space, macro = SPACES['st_nas'], macros.Tdnn('narrow', width=8, outputs=7)
  arch = space.parse([0, 1, 2, 3, 1, 2])
  gates = families.gates(space, arch)
  x_btf = jax.random.normal(jax.random.key(0), (2, 24, macro.features))
  len_b = np.array([24, 17])
  network = families.single(space, arch, macro)
  params = jax.jit(network.init)(jax.random.key(1), x_btf, len_b, gates)
  own = dataclasses.replace(network, precision='int8')

  @jax.jit
  @jax.grad
  def grads(params):
    logits_btv, _ = own.apply(params, x_btf, len_b, gates)
    return jax.nn.logsumexp(logits_btv, -1).sum()

  for leaf in jax.tree.leaves(grads(params)):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_what_does_not_round_is_refused():
  space = SPACES['darts_asr']
  with pytest.raises(text.ExportError, match='darts_asr have no eight bits'):
    rounded.Members(space, None, None, recipes.E5, {}, {})
  with pytest.raises(text.ExportError, match='no utterance to calibrate'):
    rounded.of(_network(), [])
