"""Conformer-like encoders as ONNX files: logits are those of JAX."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_conformer

from nasjax.models import families
from nasjax.models.conformer import layer

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from nasjax.export import hearing, latency, onnx, quantise, text  # noqa: E402

SPACE, MACRO = tiny_conformer.SPACE, tiny_conformer.MACRO
CHUNKED = dataclasses.replace(tiny_conformer.CHUNKED, stacked=2)
# Every activation, norm, number of taps and heads, and place to halve frames.
CASES = [
  (MACRO, {'activation1': 'relu', 'norm1': 'layer', 'activation2': 'gelu'}),
  (MACRO, {'heads1': 'none', 'kernel2': 'none', 'downsample': '3'}),
  (tiny_conformer.CAUSAL, {'skip2': 'yes', 'downsample': '1', 'kernel1': '3'}),
  (CHUNKED, {'heads1': '1', 'expansion2': '1.5', 'downsample': '2'}),
]


@pytest.fixture(scope='module', autouse=True)
def _registered():
  with tiny_conformer.registered():
    yield


def _made(macro, changes):
  arch = tiny_conformer.arch(**changes)
  network = families.single(SPACE, arch, macro)
  gates = families.gates(SPACE, arch)
  x_btf = np.zeros((1, 9, macro.features), np.float32)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), x_btf, np.array([9]), gates
  )['params']
  rng = np.random.default_rng(1)

  def leaf(path, shape):
    drawn = 0.5 * rng.standard_normal(shape.shape, np.float32)
    return np.abs(drawn) if path[-1].key == 'variance' else drawn

  params = jax.tree_util.tree_map_with_path(leaf, shapes)
  return arch, network, gates, params


def _run(path, x_btf, len_b):
  inputs = {'features': x_btf, 'lengths': len_b.astype(np.int64)}
  return hearing.session(path, 1).run(None, inputs)


@pytest.mark.parametrize('macro, changes', CASES)
def test_logits_are_those_of_the_network(macro, changes, tmp_path):
  arch, network, gates, params = _made(macro, changes)
  rng = np.random.default_rng(3)
  x_btf = rng.standard_normal((3, 37, macro.features), np.float32)
  len_b = np.array([37, 21, 5])
  ours, frames_b = jax.jit(network.apply)(
    {'params': params}, x_btf, len_b, gates
  )
  path = tmp_path / 'a.onnx'
  onnx.save(path, SPACE, arch, macro, params)
  x_btf[2, 5:] = np.nan  # what lies behind an utterance reaches nothing
  theirs, out_b = _run(path, x_btf, len_b)
  np.testing.assert_array_equal(out_b, frames_b)
  valid_bt = np.arange(ours.shape[1]) < out_b[:, None]
  assert np.abs(np.asarray(ours)[valid_bt]).max() > 0.5
  np.testing.assert_allclose(
    theirs[valid_bt], np.asarray(ours)[valid_bt], rtol=0, atol=1e-4
  )
  alone, _ = _run(path, x_btf[1:2, :21], len_b[1:2])
  np.testing.assert_allclose(
    alone[0], theirs[1, : alone.shape[1]], rtol=0, atol=1e-4
  )


def test_eight_bits_are_of_weights_and_leave_attention_alone(tmp_path):
  arch, _, _, params = _made(MACRO, {})
  model = onnx.model(SPACE, arch, MACRO, params)
  kinds = {node.op_type for node in model.graph.node}
  assert not kinds & {'Loop', 'Scan', 'If'} and 'Softmax' in kinds
  rng = np.random.default_rng(4)
  speech = [
    rng.standard_normal((n, MACRO.features), np.float32) for n in (30, 41)
  ]
  small = quantise.static(model, speech)
  inputs = {
    node.name: [source for source in node.input]
    for node in small.graph.node
    if node.op_type == 'MatMul'
  }
  of_weights = [n for n in inputs if n.endswith('/product')]
  assert len(of_weights) < len(inputs)
  for name, sources in inputs.items():
    rounded = [s for s in sources if 'DequantizeLinear' in s]
    assert len(rounded) == (2 if name in of_weights else 0), (name, sources)
  whole, rough = (
    hearing.session(one.SerializeToString(), 1).run(
      None, {'features': speech[0][None], 'lengths': np.array([30])}
    )[0]
    for one in (model, small)
  )
  assert 0 < np.abs(whole - rough).max() < 0.3 * np.abs(whole).max()
  (told,) = (p.value for p in small.metadata_props if p.key == text.KEY)
  assert json.loads(told)['precision'] == quantise.WHAT


def test_parameters_of_another_network_are_refused(tmp_path):
  arch, _, _, params = _made(MACRO, {})
  with pytest.raises(text.ExportError, match='layer0/conv/kernel is missing'):
    lacking = {k: v for k, v in params['layer0'].items() if k != 'conv'}
    onnx.model(SPACE, arch, MACRO, params | {'layer0': lacking})
  assert len(layer.shifts(5, False)) == 5


def test_passes_are_timed_by_either_clock():
  arch = tiny_conformer.arch(skip2='yes')
  for clock in ('wall', 'cpu'):
    watch = latency.Stopwatch(SPACE, MACRO, 40, runs=50, clock=clock)
    median, low, high = watch.time(arch)
    assert 0 < low <= median <= high < 1
    assert len(watch.passes(arch)) == 50
