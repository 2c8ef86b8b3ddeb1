"""Conformer-like encoders as files: logits are those of JAX."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_conformer

from nasjax.models import common, families
from nasjax.spaces import conformer

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from nasjax.export import hearing, onnx, text  # noqa: E402

SPACE = tiny_conformer.SPACE
STACKED = dataclasses.replace(tiny_conformer.MACRO, stacked=3)
# Between them every activation, norm and mode, and what may be left out.
CASES = {
  'largest': (tiny_conformer.MACRO, conformer.largest(SPACE)),
  'chunked': (
    tiny_conformer.CHUNKED,
    tiny_conformer.arch(
      activation1='gelu', norm2='layer', activation2='relu', downsample='2',
      heads1='1', kernel2='3',
    ),
  ),
  'causal': (tiny_conformer.CAUSAL, tiny_conformer.arch(norm1='layer')),
  'stacked': (
    STACKED,
    tiny_conformer.arch(
      heads1='none', skip2='yes', downsample='1', activation1='gelu'
    ),
  ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope='module')
def _registered():
  with tiny_conformer.registered():
    yield


def _made(macro, arch):
  """Returns a network and its parameters, none of which is 0."""
  single = families.single(SPACE, arch, macro)
  shapes = jax.eval_shape(
    lambda key: common.initial_params(single, key, ()), jax.random.key(0)
  )
  rng = np.random.default_rng(1)

  def drawn(path, leaf):
    value = 0.3 * rng.standard_normal(leaf.shape, np.float32)
    return abs(value) + 0.5 if path[-1].key == 'variance' else value

  return single, jax.tree_util.tree_map_with_path(drawn, shapes)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[] if name == 'chunked' else pytest.mark.slow)
    for name in CASES
  ],
)
def test_logits_are_those_of_the_network(name, tmp_path):
  macro, arch = CASES[name]
  single, params = _made(macro, arch)
  rng = np.random.default_rng(3)
  x_btf = rng.standard_normal((3, 37, macro.features), np.float32)
  len_b = np.array([37, 20, 5])
  x_btf[2, 5:] = np.nan  # what lies behind an utterance reaches nothing
  ours, frames_b = jax.jit(single.apply)(
    {'params': params}, np.nan_to_num(x_btf), len_b, ()
  )
  path = tmp_path / 'a.onnx'
  onnx.save(path, SPACE, arch, macro, params)
  session = hearing.session(path, 1)

  def run(x_btf, len_b):
    given = {'features': x_btf, 'lengths': len_b.astype(np.int64)}
    return session.run(None, given)

  theirs, out_b = run(x_btf, len_b)
  np.testing.assert_array_equal(out_b, frames_b)
  valid_bt = np.arange(ours.shape[1]) < out_b[:, None]
  assert np.ptp(np.asarray(ours)[valid_bt]) > 0.5
  np.testing.assert_allclose(
    theirs[valid_bt], np.asarray(ours)[valid_bt], rtol=0, atol=1e-4
  )
  # Alone and without padding it is the same.
  alone, _ = run(x_btf[1:2, :20], len_b[1:2])
  np.testing.assert_allclose(
    alone[0], theirs[1, : alone.shape[1]], rtol=0, atol=1e-4
  )
  model = onnx.model(SPACE, arch, macro, params)
  assert {node.domain for node in model.graph.node} == {''}
  kinds = {node.op_type for node in model.graph.node}
  assert not kinds & {'Loop', 'Scan', 'If'}


def test_parameters_of_another_network_are_refused():
  macro, arch = CASES['largest']
  _, params = _made(macro, arch)
  with pytest.raises(text.ExportError, match='layer0/attention/query/kernel'):
    onnx.model(SPACE, tiny_conformer.arch(heads1='1'), macro, params)


@pytest.mark.slow
def test_eight_bits_leave_attention_in_float(tmp_path):
  macro, arch = CASES['largest']
  _, params = _made(macro, arch)
  rng = np.random.default_rng(4)
  x_btf = rng.standard_normal((4, 40, macro.features), np.float32)
  paths = tmp_path / 'float.onnx', tmp_path / 'int8.onnx'
  onnx.save(paths[0], SPACE, arch, macro, params)
  onnx.save(paths[1], SPACE, arch, macro, params, calibration=list(x_btf))
  given = {'features': x_btf, 'lengths': np.full(4, 40)}
  whole, eight = (hearing.session(p, 1).run(None, given)[0] for p in paths)
  apart = np.abs(whole - eight)
  assert 0 < apart.max() < 0.1 * np.ptp(whole)
