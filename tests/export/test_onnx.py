"""Exported networks: logits are those of JAX, files tell the rest."""

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
import pytest
import soundfile
import tiny_run

import nasjax
from nasjax.data import audio
from nasjax.models import families, macros
from nasjax.spaces import SPACES

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import onnx as onnx_lib  # noqa: E402

from nasjax.export import hearing, onnx, text  # noqa: E402

SPACE = SPACES['nb_asr']
# Groups of two and three channels, strides of 4, 1 and 2.
ODD = dataclasses.replace(
  macros.TINY,
  name='odd',
  filters=(16, 24, 16),
  cells=(1, 1, 1),
  strides=(4, 1, 2),
  features=12,
  outputs=7,
)
# Together every operation, every skip, and nodes that nothing reaches.
CELLS = [
  [[0, 1], [2, 1, 1], [0, 1, 1, 1]],
  [[1, 0], [3, 1, 0], [4, 0, 0, 1]],
  [[5, 0], [2, 0, 1], [5, 0, 0, 0]],
]
TDNN = SPACES['st_nas']
NARROW = macros.Tdnn('narrow', width=8, outputs=7, features=12)


def _made(cell, macro=ODD, space=SPACE):
  """Returns an architecture, its network and parameters, none of them zero."""
  arch = space.parse(cell)
  network = families.single(space, arch, macro)
  x_btf = np.zeros((1, 9, macro.features), np.float32)
  gates = families.gates(space, arch)
  shapes = jax.eval_shape(
    network.init, jax.random.key(0), x_btf, np.array([9]), gates
  )['params']
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes
  )
  return arch, network, gates, params


def _run(path, x_btf, len_b):
  inputs = {'features': x_btf, 'lengths': len_b.astype(np.int64)}
  return hearing.session(path, 1).run(None, inputs)


@functools.cache
def _network():
  return nasjax.load_network(tiny_run.finished().out)


@functools.cache
def _speech():
  """Returns a second of int16 noise that swells, at 16 kHz."""
  rng = np.random.default_rng(2)
  loud_n = 3000 * np.sin(np.arange(24_000) / 2500) ** 2
  return (loud_n * rng.standard_normal(24_000)).astype(np.int16)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A file of the tiny run's best network."""
  path = tmp_path_factory.mktemp('exported') / 'tiny.onnx'
  onnx.save_network(path, _network())
  return path


@pytest.mark.parametrize(
  'space, macro, cell',
  [(SPACE, ODD, cell) for cell in CELLS] + [(TDNN, NARROW, [0, 1, 2, 3, 1, 2])],
  ids=['linear', 'convolutions', 'zero', 'tdnn'],
)
def test_logits_are_those_of_the_network(space, macro, cell, tmp_path):
  arch, network, gates, params = _made(cell, macro, space)
  rng = np.random.default_rng(3)
  x_btf = rng.standard_normal((3, 37, macro.features), np.float32)
  len_b = np.array([37, 20, 5])
  x_btf[2, 5:] = np.nan  # what lies behind an utterance reaches nothing
  ours, frames_b = jax.jit(network.apply)(
    {'params': params}, np.nan_to_num(x_btf), len_b, gates
  )
  size = onnx.save(tmp_path / 'a.onnx', space, arch, macro, params)
  assert size == (tmp_path / 'a.onnx').stat().st_size
  theirs, out_b = _run(tmp_path / 'a.onnx', x_btf, len_b)
  np.testing.assert_array_equal(out_b, frames_b)
  valid_bt = np.arange(ours.shape[1]) < out_b[:, None]
  assert np.abs(np.asarray(ours)).max() > 0.5
  np.testing.assert_allclose(
    theirs[valid_bt], np.asarray(ours)[valid_bt], rtol=0, atol=1e-4
  )
  # Alone and without padding it is the same.
  alone, _ = _run(tmp_path / 'a.onnx', x_btf[1:2, :20], len_b[1:2])
  np.testing.assert_allclose(
    alone[0], theirs[1, : alone.shape[1]], rtol=0, atol=1e-4
  )


def test_standard_operators_alone(tmp_path):
  arch, _, _, params = _made(CELLS[0])
  model = onnx.model(SPACE, arch, ODD, params)
  assert {node.domain for node in model.graph.node} == {''}
  kinds = {node.op_type for node in model.graph.node}
  assert not kinds & {'Loop', 'Scan', 'If'} and 'LSTM' in kinds
  (told,) = (p.value for p in model.metadata_props if p.key == text.KEY)
  assert json.loads(told)['symbols'] is None
  path = tmp_path / 'mute.onnx'
  onnx.save(path, SPACE, CELLS[0], ODD, params)  # as people write it
  with pytest.raises(text.ExportError, match='tells no features'):
    hearing.load(path)


def test_other_networks_and_parameters_are_refused(tmp_path):
  path = tmp_path / 'a.onnx'
  arch, _, _, params = _made(CELLS[0])
  other = SPACES['todm']
  with pytest.raises(
    text.UnsupportedError, match='todm cannot .* nb_asr, st_nas'
  ):
    macro = next(iter(families.family(other).macros.values()))
    onnx.save(path, other, other.parse([0] * len(other.sizes)), macro, {})
  with pytest.raises(text.ExportError, match='lstm/bias is missing'):
    onnx.save(path, SPACE, arch, ODD, {**params, 'lstm': {
      name: leaf for name, leaf in params['lstm'].items() if name != 'bias'
    }})  # fmt: skip
  with pytest.raises(text.ExportError, match=r'shape \(16, 7\), \(16, 9\)'):
    onnx.save(path, SPACE, arch, ODD.with_outputs(9), params)
  with pytest.raises(text.ExportError, match='no directory'):
    onnx.save(tmp_path / 'none' / 'a.onnx', SPACE, arch, ODD, params)
  with pytest.raises(text.ExportError, match='is a directory; name a file'):
    onnx.save(tmp_path, SPACE, arch, ODD, params)
  diverged = jax.tree.map(lambda leaf: leaf * np.nan, params)
  with pytest.raises(text.ExportError, match='is not finite; take a network'):
    onnx.save(path, SPACE, arch, ODD, diverged)
  for x in (np.ones((9, 5), np.float32), np.ones(12, np.float32)):
    with pytest.raises(text.ExportError, match=r'want \(frames, 12\)'):
      onnx.save(path, SPACE, arch, ODD, params, calibration=[x])
  assert not list(tmp_path.iterdir())


def test_a_file_tells_features_and_alphabet(exported):
  network, found = _network(), hearing.load(exported)
  told = found.about
  assert told['blank'] == 0 and told['symbols'] == list(network.symbols)
  assert told['reduction'] == 4 and told['nasjax'] == nasjax.__version__
  features = told['features']
  assert (features['sample_rate'], features['hop']) == (16_000, 160)
  np.testing.assert_array_equal(features['mean'], network.frontend.mean_f)
  assert found.recipe == network.recipe and found.macro == network.macro
  # Written again it is the same, byte for byte.
  first = exported.read_bytes()
  onnx.save_network(exported, network)
  assert exported.read_bytes() == first


def test_a_file_hears_what_its_network_hears(exported, tmp_path):
  network, found = _network(), hearing.load(exported, 1)
  path = tmp_path / 'a.wav'
  soundfile.write(path, _speech(), 16_000)
  heard, wanted = found.transcribe(path), network.transcribe(path)
  assert heard.text == wanted.text and heard.notes == ()
  np.testing.assert_allclose(
    heard.logprobs_tv, wanted.logprobs_tv, rtol=0, atol=1e-4
  )
  soundfile.write(path, _speech(), 22_050)
  slower = found.transcribe(path)
  assert '22050 samples a second, resampled to 16000' in slower.notes[0]
  soundfile.write(path, _speech()[:0], 16_000)
  with pytest.raises(audio.AudioError):
    found.transcribe(path)
  with pytest.raises(ValueError, match='knows no speakers'):
    found.transcribe(path, speaker='f01')


def _without_text(path, told=None):
  """Writes the file anew, with another text or none."""
  model = onnx_lib.load(path)
  del model.metadata_props[:]
  if told is not None:
    onnx_lib.helper.set_model_props(model, {text.KEY: told})
  place = path.with_name('other.onnx')
  onnx_lib.save(model, place)
  return place


def test_files_without_our_text_are_refused(exported):
  for told, said in (
    (None, 'has no text of nasjax'),
    ('{', 'damaged'),
    ('[]', 'damaged'),
    ('{"format": 9, "nasjax": "3.0"}', 'format 9, this code reads 1'),
    ('{"format": 1}', 'damaged'),
  ):
    with pytest.raises(text.ExportError, match=said):
      hearing.load(_without_text(exported, told))
  whole = hearing.load(exported).about
  for changes in (
    *({'lack': name} for name in ('space', 'arch', 'recipe', 'classes')),
    *({'space': []}, {'macro': None}, {'arch': [1]}, {'symbols': ['a']}),
  ):
    told = {k: v for k, v in whole.items() if k != changes.get('lack')}
    with pytest.raises(text.ExportError, match='damaged|unknown here'):
      hearing.load(_without_text(exported, json.dumps(told | changes)))
  broken = exported.with_name('broken.onnx')
  broken.write_bytes(exported.read_bytes()[:500])
  with pytest.raises(text.ExportError, match='cannot be run by ONNX Runtime'):
    hearing.load(broken)
  with pytest.raises(text.ExportError, match='no file'):
    hearing.load(exported.with_name('none.onnx'))


def test_eight_bits_are_smaller_and_close(exported, tmp_path):
  network, path = _network(), tmp_path / 'int8.onnx'
  xs = network.frontend.features([_speech(), _speech()[::-1].copy()])
  size = onnx.save_network(path, network, xs)
  assert size < 0.6 * exported.stat().st_size
  whole, found = hearing.load(exported, 1), hearing.load(path, 1)
  assert found.about['precision'].startswith('int8')
  x_btf, len_b = xs[0][None], np.array([len(xs[0])])
  float_btv, _ = whole.logits(x_btf, len_b)
  int8_btv, _ = found.logits(x_btf, len_b)
  apart = np.abs(int8_btv - float_btv).max()
  assert 0 < apart < 0.05 * np.abs(float_btv).max()
  kinds = [node.op_type for node in onnx_lib.load(path).graph.node]
  assert kinds.count('QuantizeLinear') == kinds.count('MatMul')
  with pytest.raises(text.ExportError, match='no utterance to calibrate'):
    onnx.save_network(path, network, [])


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  arch, _, _, params = _made(CELLS[0])
  for name, call in (
    ('onnx', lambda: onnx.save(tmp_path / 'a', SPACE, arch, ODD, params)),
    ('onnxruntime', lambda: hearing.load(tmp_path / 'a')),
  ):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(text.ExportError, match=f'package {name} is not .*pip'):
      call()
