"""Trained networks in one's own script: what they hear is what was counted."""

import dataclasses
import functools
import json
import os
import shutil

import jax
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
import tiny_run
import toy_criterion

import nasjax
from nasjax import listening, table
from nasjax.data import audio
from nasjax.data import corpus as corpus_lib
from nasjax.decoding import error_rates
from nasjax.models import families
from nasjax.storage import checkpoints
from nasjax.training import portable

TWICE = [[0, 1], [2, 1, 1], [0, 1, 1, 1]]  # with the seeds 1 and 2


@functools.cache
def _corpus():
  """Returns the corpus of the tiny run, and its builder."""
  record = json.loads((tiny_run.finished().out / 'run.json').read_text())
  builder = tfds.builder_from_directory(record['prepared_corpus'])
  return corpus_lib.load(builder), builder


@functools.cache
def _best():
  return nasjax.load_network(tiny_run.finished().out)


@functools.cache
def _heard():
  return _best().hear(_corpus()[0].test)


def _samples(utterance):
  corpus, builder = _corpus()
  return corpus_lib.audio(builder, 'test', corpus.test.ids[utterance])


def test_the_best_network_makes_the_errors_that_its_row_counts():
  rows = table.open(tiny_run.finished().out).to_arrow().to_pylist()
  best = min(rows, key=lambda row: min(row['val_per']))
  network, corpus = _best(), _corpus()[0]
  assert network.arch.tolist() == best['arch'] and network.notes == ()
  assert network.epoch == best['best_epoch'] and network.seed == best['seed']
  leaves = jax.tree.leaves(network.params)
  assert sum(leaf.size for leaf in leaves) == best['params']
  labels = [heard.labels for heard in _heard()]
  rate = error_rates.per(labels, corpus.test.labels, corpus.fold_v)
  assert rate == best['test_per']
  assert network.symbols == corpus.symbols
  spoken = corpus.test.labels[0]
  classes = [
    corpus.classes[c - 1] for c in error_rates.fold(spoken, corpus.fold_v)
  ]
  assert list(network.folded(spoken)) == classes


def test_a_seed_of_a_cell_makes_the_errors_of_its_row():
  run, corpus = tiny_run.finished().out, _corpus()[0]
  network = nasjax.load_network(run, TWICE, seed=2)
  labels = [heard.labels for heard in network.hear(corpus.test)]
  rate = error_rates.per(labels, corpus.test.labels, corpus.fold_v)
  assert rate == table.open(run).query(TWICE, 'test_per', seed=2)


@pytest.mark.parametrize('utterance', [0, 3])
def test_a_recording_is_heard_as_it_was_in_the_corpus(utterance, tmp_path):
  network, samples_n = _best(), _samples(utterance)
  (x_tf,) = network.frontend.features([samples_n])
  np.testing.assert_array_equal(x_tf, _corpus()[0].test.x_tf(utterance))
  counted = _heard()[utterance]
  heard = network.transcribe(samples_n, 16_000)
  np.testing.assert_array_equal(heard.labels, counted.labels)
  assert heard.text == ' '.join(heard.symbols) and heard.text == counted.text
  assert heard.logprob == pytest.approx(counted.logprob, rel=1e-4)
  # Files of other kinds hold the same samples.
  other_n = np.zeros_like(samples_n)
  soundfile.write(tmp_path / 'mono.flac', samples_n, 16_000)
  soundfile.write(
    tmp_path / 'two.wav', np.stack([other_n, samples_n], 1), 16_000
  )
  for path, channel in (
    (tmp_path / 'mono.flac', None),
    (tmp_path / 'two.wav', 1),
  ):
    found = network.transcribe(path, channel=channel)
    assert (found.text, found.logprob) == (heard.text, heard.logprob)
  floats_n = samples_n / 32768
  assert network.transcribe(floats_n, rate=16_000).logprob == heard.logprob
  # Of another rate it is about as long.
  slow = network.transcribe(floats_n[::2], rate=8_000)
  assert abs(len(slow.alignment) - len(heard.alignment)) <= 1
  assert slow.notes == ('samples: 8000 samples a second, resampled to 16000',)


def test_alignments_go_through_the_labels():
  network = _best()
  for decoder in ('greedy', 'beam'):
    heard = network.transcribe(_samples(0), 16_000, decoder=decoder)
    assert (heard.logprob is None) == (decoder == 'greedy')
    changes = np.diff(heard.alignment, prepend=0) != 0
    kept = heard.alignment[changes & (heard.alignment > 0)]
    np.testing.assert_array_equal(kept, heard.labels)
    assert [span[0] for span in heard.spans] == list(heard.symbols)
    assert len(heard.logprobs_tv) == len(heard.alignment)
    ends = [second for _, *span in heard.spans for second in span]
    assert ends == sorted(ends) and heard.frame_seconds == 0.04
    assert all(s <= len(heard.alignment) * 0.04 for s in ends)
    if decoder == 'greedy':
      best_t = heard.logprobs_tv.argmax(1)
      np.testing.assert_array_equal(heard.alignment, best_t)


def test_module_and_numbers_are_there_for_other_scripts():
  network = _best()
  (x_tf,) = network.frontend.features([_samples(0)])
  logits_btv, _ = network.module.apply(
    {'params': network.params}, x_tf[None], np.array([len(x_tf)]), network.gates
  )
  heard = _heard()[0]
  np.testing.assert_allclose(
    jax.nn.log_softmax(logits_btv[0]), heard.logprobs_tv, atol=1e-4
  )
  fitted, corpus = network.frontend, _corpus()[0]
  np.testing.assert_array_equal(fitted.mean_f, corpus.mean_f)
  np.testing.assert_array_equal(fitted.variance_f, corpus.variance_f)
  assert fitted.window_k.shape == (400,) and fitted.filters_nf.shape == (
    201,
    80,
  )
  # Macro networks that no dict has come back from their values.
  macro = dataclasses.replace(network.macro, name='own', lstm=3)
  values = json.loads(json.dumps(dataclasses.asdict(macro)))
  assert families.macro(network.space, values) == macro


def test_a_cell_is_named_as_text_by_its_name_or_as_another_encoding():
  run = tiny_run.finished().out
  kept = listening.networks(run)
  assert len(kept) == 4 and len({k.label for k in kept}) == 4
  found = listening._of_cell(run, kept, [], str(TWICE))
  assert [k.seed for k in found] == [1, 2]
  name = 'linear, conv5, linear [[0,0],[1,0,0],[0,0,0,0]]'
  (one,) = listening._of_cell(run, kept, [], name)
  assert one.arch.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


_MISTAKES = {
  'seeds': ({'cell': TWICE}, 'with seeds 1, 2; name one, as seed=1'),
  'no seed': ({'cell': TWICE, 'seed': 9}, 'no seed 9; it has 1, 2'),
  'no recipe': ({'recipe': 'e40'}, "no recipe 'e40'; it has tiny"),
  'no cell': (
    {'cell': [[0, 1], [2, 1, 1], [0, 1, 1, 0]]},
    'nearest are linear, conv5d2, linear [[0,1],[2,1,1],[0,1,1,1]]; ',
  ),
  'no name': ({'cell': 'linear'}, 'there are linear, '),
  'malformed': ({'cell': [[0, 1]]}, 'want 3 nodes'),
  'search': ({'search': 'darts'}, 'has no one-shot search'),
}


@pytest.mark.parametrize('name', _MISTAKES)
def test_what_a_run_does_not_have_is_one_line(name):
  given, told = _MISTAKES[name]
  run = tiny_run.finished().out
  with pytest.raises(ValueError) as caught:
    nasjax.load_network(run, **given)
  assert told in str(caught.value) and '\n' not in str(caught.value)
  assert str(run) in str(caught.value)


def test_what_is_no_run_is_one_line(tmp_path):
  for path, told in (
    (tmp_path, 'keeps no network'),
    (tmp_path / 'absent', 'is not there'),
    (__file__, 'is a file'),
  ):
    with pytest.raises(ValueError, match=told):
      nasjax.load_network(path)


def test_older_unfinished_and_broken_checkpoints_are_one_line(tmp_path):
  out = tiny_run.finished().out
  shutil.copytree(out / 'checkpoints', tmp_path / 'checkpoints')
  # A cell is named where no table tells the best one.
  with pytest.raises(ValueError, match='no table says which is best'):
    nasjax.load_network(tmp_path)
  network = nasjax.load_network(tmp_path, TWICE, 1)
  older, epoch = network.place, network.place / '2'
  shutil.rmtree(epoch / 'default')
  names = sorted(path.name for path in older.iterdir())
  with pytest.raises(ValueError, match='cannot be restored'):
    nasjax.load_network(tmp_path, TWICE, 1)
  # Who reads sets nothing aside.
  assert sorted(path.name for path in older.iterdir()) == names
  shutil.rmtree(epoch)
  with pytest.raises(ValueError, match='has no checkpoint'):
    nasjax.load_network(tmp_path, TWICE, 1)
  (older / portable.NAME).unlink()
  with pytest.raises(ValueError, match='has no seed 1; it has 2'):
    nasjax.load_network(tmp_path, TWICE, 1)
  shutil.copytree(out / 'table', tmp_path / 'table')
  (note,) = nasjax.load_network(tmp_path).notes
  assert note.startswith('of all but 1 more shards, which tell nothing: ')
  with pytest.raises(ValueError, match='; 1 more shards, .* older'):
    nasjax.load_network(tmp_path, [0, 0, 1, 0, 0, 0, 0, 0, 0])
  for path in tmp_path.rglob(portable.NAME):
    path.unlink()
  with pytest.raises(ValueError, match='command of the run again'):
    nasjax.load_network(tmp_path)


@pytest.mark.parametrize('diverged, epoch', [(1, 0), (2, 1)])
def test_a_network_that_diverged_says_so(monkeypatch, diverged, epoch):
  last = checkpoints.last

  def changed(place):
    found, state, about = last(place)
    state['diverged_epoch'] = np.full(2, diverged)
    state['best_epoch'] = np.full(2, epoch)
    return found, state, about

  monkeypatch.setattr(checkpoints, 'last', changed)
  run = tiny_run.finished().out
  if epoch:
    (note,) = nasjax.load_network(run, TWICE, 1).notes
    assert note.endswith(f'diverged in epoch {diverged}')
    return
  with pytest.raises(
    ValueError, match='has no weights: it diverged in epoch 1'
  ):
    nasjax.load_network(run, TWICE, 1)


@pytest.mark.parametrize(
  ('given', 'told'),
  [
    ({'audio': 'absent.wav'}, 'no file absent.wav'),
    ({'audio': __file__}, 'test_listening.py'),
    ({'audio': np.zeros(9_000, np.int16)}, 'rate=None'),
    ({'audio': np.zeros(9_000, np.int64), 'rate': 16_000}, 'type int64'),
    ({'audio': np.zeros((2, 9_000)), 'rate': 16_000}, 'one channel'),
    ({'audio': np.full(9_000, np.nan), 'rate': 16_000}, 'not a finite'),
    ({'audio': np.full(9_000, 30_000.0), 'rate': 16_000}, 'reach 3e'),
    ({'audio': np.zeros(9), 'rate': 16_000}, 'no frame'),
    ({'audio': np.zeros(0), 'rate': 16_000}, 'there is none'),
    ({'audio': np.zeros(9_000), 'rate': 10}, '10 samples a second'),
    ({'audio': 'a.wav', 'rate': 16_000}, 'says its rate itself'),
    ({'audio': np.zeros(9_000), 'rate': 16_000, 'channel': 1}, 'for files'),
    ({'audio': 'a.wav', 'decoder': 'best'}, "decoder='best'"),
    (
      {'audio': 'a.wav', 'decoder': 'greedy', 'beam_width': 2},
      'without effect',
    ),
  ],
)
def test_what_cannot_be_heard_is_one_line(given, told):
  with pytest.raises(ValueError) as caught:
    _best().transcribe(**given)
  assert told in str(caught.value) and '\n' not in str(caught.value)


def test_two_channels_are_asked_about(tmp_path):
  soundfile.write(tmp_path / 'two.wav', np.zeros((9_000, 2)), 16_000)
  with pytest.raises(audio.AudioError, match='channel=0'):
    _best().transcribe(tmp_path / 'two.wav')


def test_an_unknown_speaker_is_normalised_by_the_recording_and_told():
  network = _best()
  statistics = network.frontend.mean_f, network.frontend.variance_f
  fitted = network.frontend._replace(
    frontend=dataclasses.replace(
      network.frontend.frontend, normalise='speaker'
    ),
    mean_f=None,
    variance_f=None,
    speakers={('test', 'anna'): statistics},
  )
  by_speaker = dataclasses.replace(network, frontend=fitted)
  known = by_speaker.transcribe(_samples(0), 16_000, speaker='anna')
  assert (
    known.notes == ()
    and known.logprob == _best().transcribe(_samples(0), 16_000).logprob
  )
  for speaker, told in (('anne', "'anne' is not of the"), (None, 'nobody')):
    found = by_speaker.transcribe(_samples(0), 16_000, speaker=speaker)
    (note,) = found.notes
    assert told in note and 'normalised by the recording itself' in note
    assert found.logprob != known.logprob


def test_words_come_out_where_units_know_of_them():
  network = _best()
  symbols = [' ', *network.symbols[1:]]
  units = network.units._replace(symbols=tuple(symbols))
  heard = dataclasses.replace(network, units=units).transcribe(
    _samples(0), 16_000
  )
  assert heard.text == ' '.join(''.join(heard.symbols).split())


def test_a_criterion_of_labels_alone_gives_labels_alone():
  toy_criterion.register()
  network = _best()
  even = dataclasses.replace(network.recipe, loss='even')
  heard = dataclasses.replace(network, recipe=even).transcribe(
    _samples(0), 16_000
  )
  assert heard.alignment is None and heard.logprob is None
  # It knows of no blank: there is a label in each frame that was not repeated.
  assert 0 not in heard.labels and len(heard.labels) == len(heard.symbols) > 0


# The command.


def test_the_launcher_prints_what_it_heard(tmp_path):
  place = tmp_path / 'one.wav'
  soundfile.write(place, _samples(0), 16_000)
  run = f'--run={tiny_run.finished().out}'
  cache = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'
  status, output, errors = tiny_run.forked(
    *(run, cache, str(place), 'absent.wav', f'--json={tmp_path}/heard.json'),
    '--align',
    launcher='transcribe',
  )
  first, *spans = output.splitlines()
  heard = _heard()[0]
  assert first == f'{place}: {heard.text}' and len(spans) == len(heard.labels)
  assert status == 1 and errors.splitlines() == [
    f'transcribe.py: hears with {_best().label}',
    'transcribe.py: no file absent.wav',
    'transcribe.py: 1 of 2 recordings were not heard',
  ]
  (record,) = json.loads((tmp_path / 'heard.json').read_text())
  assert record['text'] == heard.text
  assert [span[0] for span in record['spans']] == list(heard.symbols)


def test_the_launcher_lists_networks_and_tells_mistakes():
  run = f'--run={tiny_run.finished().out}'
  cache = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'
  tries = [
    (run, cache, '--list'),
    (run, cache),
    ('a.wav',),
    (run, cache, f'--cell={TWICE}', 'a.wav'),
    ('--run=', 'a.wav'),
  ]
  listed, *mistakes = (
    tiny_run.forked(*flags, launcher='transcribe') for flags in tries
  )
  assert listed[0] == 0 and str(TWICE).replace(', ', ',') in listed[1]
  assert len(listed[1].splitlines()) == 4
  told = ('no recording', '--run is empty', 'seeds 1, 2', '--run is empty')
  for (status, _, errors), words in zip(mistakes, told, strict=True):
    (line,) = errors.strip().splitlines()
    assert status == 1 and words in line
