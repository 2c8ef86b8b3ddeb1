"""Files that take samples: the front end is the network's; sherpa-onnx."""

import dataclasses
import difflib
import functools

import jax
import numpy as np
import pytest
import tiny_run

import nasjax

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from nasjax.export import hearing, onnx, text, waves  # noqa: E402


@functools.cache
def _network():
  """The tiny run's network; what it is not sure of it says, though."""
  network = nasjax.load_network(tiny_run.finished().out)
  head = network.params['head']
  bias_v = head['bias'] - 8 * (np.arange(len(head['bias'])) == 0)
  head = {'kernel': 4 * head['kernel'], 'bias': bias_v}
  return dataclasses.replace(network, params=network.params | {'head': head})


@functools.cache
def _recordings():
  rng = np.random.default_rng(4)
  swell_n = np.sin(np.arange(30_000) / 2500) ** 2
  noises = [swell_n[:n] * rng.standard_normal(n) for n in (30_000, 17_321)]
  return [(3000 * noise_n).astype(np.int16) for noise_n in noises]


def _made():
  network = _network()
  return onnx.model(
    *(network.space, network.arch, network.macro, network.params),
    text.of_network(network),
  )


def _logprobs(samples_n):
  """Returns what the network says of samples, log probabilities."""
  network = _network()
  (x_tf,) = network.frontend.features([samples_n])
  logits_btv, _ = jax.jit(network.module.apply)(
    {'params': network.params}, x_tf[None], np.array([len(x_tf)]), network.gates
  )
  return np.asarray(jax.nn.log_softmax(logits_btv[0]))


def test_samples_give_what_features_give(tmp_path):
  path = tmp_path / 'wave.onnx'
  path.write_bytes(waves.model(_made(), 1 / 4).SerializeToString())
  run = hearing.session(path, 1)
  for samples_n in _recordings():
    given = 4 * samples_n.astype(np.float32) / 32768
    (found_btv,) = run.run(None, {'samples': given[None]})
    np.testing.assert_allclose(
      found_btv[0], _logprobs(samples_n), rtol=0, atol=1e-2
    )
  told = text.read(
    run.get_modelmeta().custom_metadata_map[text.KEY], path
  )[0]  # fmt: skip
  assert told['symbols'] == list(_network().symbols)
  assert set(told['inputs']) == {'samples'}
  with pytest.raises(text.ExportError, match='takes samples'):
    hearing.load(path)


def test_what_tokens_cannot_say_is_refused():
  assert waves.tokens(('a', ' ', 'b')) == '<blk> 0\na 1\n▁ 2\nb 3\n'
  assert waves.tokens(('a', '|')) == '<blk> 0\na 1\n▁ 2\n'
  for symbols in (('a', 'b c'), ('a', 'a'), ('<blk>',)):
    with pytest.raises(text.ExportError, match='cannot stand in tokens'):
      waves.tokens(symbols)
  with pytest.raises(text.ExportError, match='no recording with sound'):
    waves.usual_level([np.zeros(900, np.int16)])


@pytest.mark.slow
def test_sherpa_onnx_loads_the_file_as_it_is(tmp_path):
  package = pytest.importorskip('sherpa_onnx')
  network = _network()
  for name, calibration in (
    ('float32', None),
    ('int8', network.frontend.features(_recordings())),
  ):
    made = _made()
    if calibration:
      from nasjax.export import quantise

      made = quantise.static(made, calibration)
    path = waves.sherpa(tmp_path / name, network, made, _recordings())
    recogniser = package.OfflineRecognizer.from_omnilingual_asr_ctc(
      model=str(path), tokens=str(path.with_name('tokens.txt'))
    )
    for samples_n in _recordings():
      stream = recogniser.create_stream()
      stream.accept_waveform(16_000, samples_n.astype(np.float32) / 32768)
      recogniser.decode_stream(stream)
      heard = list(stream.result.tokens)
      if name == 'float32':
        # Of the loudness that sherpa-onnx gives it.
        level = waves.usual_level(_recordings())
        centred_n = samples_n / 32768 - np.mean(samples_n / 32768)
        own_n = level * centred_n / np.sqrt(np.var(centred_n) + 1e-5)
        labels = _logprobs(np.round(32768 * own_n).astype(np.int16)).argmax(-1)
        change = np.diff(labels, prepend=0) != 0
        wanted = [network.symbols[v - 1] for v in labels[change & (labels > 0)]]
        assert heard == wanted
      assert heard and set(heard) <= set(network.symbols)


@pytest.mark.slow
def test_onnx_asr_loads_the_files_as_they_are(tmp_path):
  package = pytest.importorskip('onnx_asr')
  from nasjax.export import quantise

  network, place = _network(), tmp_path / 'own'
  calibration = network.frontend.features(_recordings())
  models = {'': _made(), 'int8': quantise.static(_made(), calibration)}
  explained = waves.onnx_asr(place, network, models, _recordings())
  assert 0.3 < explained < 1
  assert sorted(path.name for path in place.iterdir()) == [
    'config.json', 'model.int8.onnx', 'model.onnx', 'vocab.txt',
  ]  # fmt: skip
  for quantization in (None, 'int8'):
    recogniser = package.load_model(
      'nemo-conformer-ctc', place, quantization=quantization
    ).with_timestamps()
    samples_n = _recordings()[1]
    full = samples_n.astype(np.float32) / 32768
    heard = recogniser.recognize(full, sample_rate=16_000).tokens
    assert heard and set(heard) <= set(network.symbols)
    # Much of it is what the network itself hears.
    labels = _logprobs(samples_n).argmax(-1)
    change = (np.diff(labels, prepend=0) != 0) & (labels > 0)
    own = [network.symbols[v - 1] for v in labels[change]]
    matcher = difflib.SequenceMatcher(a=heard, b=own, autojunk=False)
    assert matcher.ratio() > 0.5
  # It tells networks from features by the file.
  with pytest.raises(text.ExportError, match='takes samples'):
    hearing.load(place / 'model.onnx')
