"""The builder of the synthetic corpus: prepared, read back, interrupted."""

import pathlib
import sys

import numpy as np
import pytest

from nasjax.data import phones, synthetic_timit
from nasjax.data.synthetic import synthesis

_SMALL = synthesis.Spec(num_utterances=100, grammar='small', words=(3, 5))


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A prepared corpus with the calls of its progress bar."""
  calls = []
  folder = tmp_path_factory.mktemp('corpora')
  corpus = synthetic_timit.prepare(
    folder, _SMALL, progress=lambda *call: calls.append(call)
  )
  return folder, corpus, calls


def test_what_is_prepared_is_read_back(prepared):
  _, corpus, calls = prepared
  assert calls == [(n, 100) for n in range(1, 101)]
  for split in synthesis.SPLITS:
    utterances = list(synthesis.synthesise(_SMALL, split, workers=1))
    source = corpus.as_data_source(split)
    assert len(source) == len(utterances)
    for example, utterance in zip(source, utterances):
      assert sorted(example) == [
        *('audio', 'id', 'speaker', 'text', 'token_samples', 'tokens'),
      ]
      assert example['audio'].dtype == np.int16
      np.testing.assert_array_equal(example['audio'], utterance.audio_t)
      assert example['token_samples'].dtype == np.int32
      np.testing.assert_array_equal(example['token_samples'], utterance.bounds)
      assert [t.decode() for t in example['tokens']] == list(utterance.phones)
      for name in ('id', 'text', 'speaker'):
        assert example[name].decode() == getattr(utterance, name)
  assert 'tensorflow' not in sys.modules


def test_metadata_are_read_back(prepared):
  folder, _, _ = prepared
  metadata = synthetic_timit.builder(folder, _SMALL).info.metadata
  assert metadata['alphabet'] == list(phones.PHONES_61)
  assert metadata['train_map'] == phones.FOLD_61_TO_48
  assert metadata['score_map'] == phones.FOLD_48_TO_39
  assert metadata['fingerprint'] == _SMALL.fingerprint()


def test_a_corpus_is_prepared_once_and_quietly(prepared, capfd):
  folder, corpus, _ = prepared
  calls = []

  def files():
    folder = pathlib.Path(corpus.data_dir)
    return {p: p.stat().st_mtime_ns for p in folder.iterdir()}

  before = files()
  again = synthetic_timit.prepare(
    folder, _SMALL, progress=lambda *call: calls.append(call)
  )
  assert files() == before
  assert calls == []
  assert len(again.as_data_source('test')) == 20
  captured = capfd.readouterr()
  assert captured.out == captured.err == ''


def test_an_interrupted_corpus_is_made_anew(tmp_path, capfd):
  def interrupt(done, total):
    del total
    if done == 30:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    synthetic_timit.prepare(tmp_path, _SMALL, progress=interrupt)
  assert not synthetic_timit.builder(tmp_path, _SMALL).data_path.exists()
  corpus = synthetic_timit.prepare(tmp_path, _SMALL)
  assert len(corpus.as_data_source('train')) == 60
  captured = capfd.readouterr()
  assert captured.out == captured.err == ''


def test_a_damaged_corpus_is_reported(tmp_path):
  path = synthetic_timit.builder(tmp_path, _SMALL).data_path
  path.mkdir(parents=True)
  with pytest.raises(OSError, match='delete it'):
    synthetic_timit.prepare(tmp_path, _SMALL)


def test_a_builder_needs_a_spec(tmp_path):
  with pytest.raises(ValueError, match='use synthetic_timit.builder'):
    synthetic_timit.SyntheticTimit(data_dir=str(tmp_path))


def test_at_least_one_worker(tmp_path):
  with pytest.raises(ValueError, match='workers is 0'):
    synthetic_timit.prepare(tmp_path, _SMALL, workers=0)
