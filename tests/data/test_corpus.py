"""Tests of nasjax/data/corpus.py on small corpora of real builders."""

import errno
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from nasjax.data import corpus, features, frontend, manifest, phones

# Samples of each utterance, so that frames end within blocks and at their ends.
LENGTHS = [400, 16_000, 8_123, 1_999, 24_000, 560, 5_000, 12_345, 31_999, 4_000]


def samples(i):
  rng = np.random.default_rng(i)
  tone = np.sin(np.arange(LENGTHS[i]) * rng.uniform(0.05, 1.0))
  x = 0.2 * tone + 0.01 * rng.normal(size=tone.size)
  return (32768 * x).astype(np.int16)


@pytest.fixture(scope='module')
def builder(tmp_path_factory):
  """A prepared manifest: 7 utterances to train, 2 and 1 to judge by."""
  folder = tmp_path_factory.mktemp('corpora') / 'toy'
  folder.mkdir()
  with (folder / 'manifest.jsonl').open('w') as file:
    for i, length in enumerate(LENGTHS):
      soundfile.write(folder / f'u{i}.wav', samples(i), 16_000)
      tokens = ['K', 'A', 'T'] if length >= 5_000 else ['S']
      row = {
        'id': f'u{i}',
        'audio_filepath': f'u{i}.wav',
        'duration': length / 16_000,
        'text': f'word {i}',
        'phones': tokens,
        'split': (['train'] * 7 + ['val', 'test', 'test'])[i],
      }
      row['speaker'] = f'{row["split"]}{i % 2}'
      file.write(json.dumps(row) + '\n')
  toy = manifest.builder(
    folder / 'manifest.jsonl', data_dir=folder / 'prepared'
  )
  corpus.prepare(toy)
  return toy


@pytest.fixture(scope='module')
def loaded(builder):
  return corpus.load(builder)


def test_utterances(builder, loaded):
  assert loaded.train.ids == tuple(f'u{i}' for i in range(7))
  assert loaded.validation.ids == ('u7',)
  assert loaded.test.ids == ('u8', 'u9')
  assert loaded.test.texts == ('word 8', 'word 9')
  assert loaded.test.speakers == ('test0', 'test1')
  assert loaded.train.samples_u.tolist() == LENGTHS[:7]
  assert loaded.train.samples_u.dtype == np.int64
  assert loaded.train.frames_u.tolist() == [
    features.num_frames(n) for n in LENGTHS[:7]
  ]
  np.testing.assert_array_equal(
    loaded.train.offset_u, [0, *np.cumsum(loaded.train.frames_u)[:-1]]
  )
  assert loaded.train.frames_u.dtype == loaded.train.offset_u.dtype == np.int32
  assert len(loaded.train.features) == loaded.train.frames_u.sum()
  assert loaded.train.audio_seconds == pytest.approx(sum(LENGTHS[:7]) / 16_000)


def test_labels_and_alphabet(loaded, builder):
  assert loaded.symbols == ('A', 'K', 'S', 'T')
  assert loaded.fold_v.tolist() == [0, 1, 2, 3, 4]
  assert loaded.fold_v.dtype == np.int32
  assert loaded.classes == loaded.symbols
  assert [x.tolist() for x in loaded.train.labels[:3]] == [
    [3],
    [2, 1, 4],
    [2, 1, 4],
  ]
  assert loaded.train.labels[0].dtype == np.int32
  assert loaded.name == 'toy'
  assert loaded.fingerprint == builder.info.metadata['fingerprint']
  assert loaded.frontend == frontend.NB_ASR


def test_features_are_normalised_log_mels(loaded):
  batch = np.zeros((len(LENGTHS), max(LENGTHS)), np.int16)
  for i, length in enumerate(LENGTHS):
    batch[i, :length] = samples(i)
  x_btf, frames_b = features.log_mel(batch, np.array(LENGTHS))
  raw = [np.asarray(x_tf)[:n] for x_tf, n in zip(x_btf, frames_b)]
  training = np.concatenate(raw[:7]).astype(np.float64)
  np.testing.assert_allclose(loaded.mean_f, training.mean(0), atol=1e-5)
  np.testing.assert_allclose(loaded.variance_f, training.var(0), rtol=1e-4)
  scale = np.sqrt(training.var(0) + 1e-3)
  for split, numbers in (
    (loaded.train, range(7)),
    (loaded.validation, [7]),
    (loaded.test, [8, 9]),
  ):
    assert split.features.dtype == np.float32
    for u, i in enumerate(numbers):
      expected = (raw[i] - training.mean(0)) / scale
      np.testing.assert_allclose(split.x_tf(u), expected, atol=1e-4)


@pytest.mark.parametrize('batch_seconds', [0.01, 0.37, 1.0])
def test_blocks_change_nothing(builder, loaded, batch_seconds):
  other = corpus.load(builder, batch_seconds=batch_seconds)
  for split in ('train', 'validation', 'test'):
    np.testing.assert_allclose(
      getattr(other, split).features,
      getattr(loaded, split).features,
      atol=1e-5,
    )


def test_loading_again_gives_the_same_bits(builder, loaded):
  again = corpus.load(builder)
  for split in ('train', 'validation', 'test'):
    np.testing.assert_array_equal(
      getattr(again, split).features, getattr(loaded, split).features
    )


def test_progress(builder):
  calls = []
  corpus.load(builder, progress=lambda done, total: calls.append((done, total)))
  assert calls == [(i, 20) for i in range(1, 21)]


def test_audio(builder):
  for i, split in ((3, 'train'), (7, 'validation'), (9, 'test')):
    found = corpus.audio(builder, split, f'u{i}')
    np.testing.assert_array_equal(found, samples(i))
    assert found.dtype == np.int16
  with pytest.raises(ValueError, match="'u7'"):
    corpus.audio(builder, 'train', 'u7')
  with pytest.raises(ValueError, match="'dev'"):
    corpus.audio(builder, 'dev', 'u7')


def test_preparing_is_quiet_and_done_once(builder, capfd, tmp_path):
  path = builder.builder_config.manifest_path
  fresh = manifest.builder(path, data_dir=tmp_path)
  with pytest.raises(ValueError, match='not prepared'):
    corpus.load(fresh)
  with pytest.raises(ValueError, match='not prepared'):
    corpus.audio(fresh, 'test', 'u9')
  corpus.prepare(fresh)
  written = sorted(p.stat().st_mtime_ns for p in tmp_path.rglob('*.json'))
  corpus.prepare(fresh)
  corpus.prepare(manifest.builder(path, data_dir=tmp_path))
  assert written == sorted(
    p.stat().st_mtime_ns for p in tmp_path.rglob('*.json')
  )
  captured = capfd.readouterr()
  assert captured.out == captured.err == ''


def test_reading_needs_only_the_directory(builder, loaded):
  with corpus.quiet():
    found = tfds.builder_from_directory(builder.data_dir)
  again = corpus.load(found)
  assert again.symbols == loaded.symbols
  np.testing.assert_array_equal(again.test.features, loaded.test.features)


# A builder whose contents the tests choose.


class Chosen(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Holds what its configuration's `tags` say, as JSON."""

  VERSION = tfds.core.Version('1.0.0')
  code_path = None

  def _info(self):
    chosen = json.loads(self.builder_config.tags[0])
    return tfds.core.DatasetInfo(
      builder=self,
      features=corpus.example_features(),
      metadata=tfds.core.MetadataDict(chosen['metadata']),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    splits = json.loads(self.builder_config.tags[0])['splits']
    return {n: self._generate_examples(rows) for n, rows in splits.items()}

  def _generate_examples(self, rows):
    for name, tokens, length in rows:
      yield (
        name,
        {
          'id': name,
          'audio': np.arange(length).astype(np.int16),
          'tokens': tokens,
          'token_samples': np.zeros((0, 2), np.int32),
          'text': '',
          'speaker': 'é',
        },
      )


def choose(tmp_path, metadata, **splits):
  """Prepares a corpus; `splits` replaces splits, or takes them away."""
  rows = {
    'train': [('a', ['h#', 'ix', 'q', 'b'], 800), ('b', ['q'], 400)],
    'validation': [('c', ['pau', 'h#'], 900)],
    'test': [('x', ['h#', 'q', 'ao', 'zh'], 999)],
    **splits,
  }
  rows = {name: split for name, split in rows.items() if split is not None}
  text = json.dumps({'metadata': metadata, 'splits': rows})
  config = tfds.core.BuilderConfig(name='chosen', tags=[text])
  with corpus.quiet():
    made = Chosen(data_dir=tmp_path, config=config, file_format='array_record')
  corpus.prepare(made)
  return made


def timit_metadata():
  return {
    'alphabet': phones.PHONES_61,
    'train_map': phones.FOLD_61_TO_48,
    'score_map': phones.FOLD_48_TO_39,
    'fingerprint': 'f',
  }


def test_folding_to_48_and_39(tmp_path):
  loaded = corpus.load(choose(tmp_path, timit_metadata()))
  assert loaded.symbols == phones.PHONES_48
  assert loaded.classes == phones.PHONES_39
  assert loaded.name == 'chosen' and loaded.fingerprint == 'f'
  for symbol, number in phones.class_ids(phones.PHONES_48).items():
    folded = loaded.classes[loaded.fold_v[number] - 1]
    assert folded == phones.FOLD_48_TO_39[symbol]
  assert loaded.fold_v[0] == 0 and loaded.fold_v.min() == 0
  assert len(loaded.fold_v) == 49 and loaded.fold_v.max() == 39

  def spell(labels):
    return [loaded.symbols[i - 1] for i in labels]

  assert spell(loaded.train.labels[0]) == ['sil', 'ix', 'b']
  assert loaded.train.labels[1].shape == (0,)
  assert spell(loaded.validation.labels[0]) == ['sil', 'sil']
  assert spell(loaded.test.labels[0]) == ['sil', 'ao', 'zh']
  assert loaded.test.speakers == ('é',)


@pytest.mark.parametrize(
  'splits, words',
  [
    ({'test': None}, r"no split \['test'\]"),
    ({'validation': []}, '"validation": No examples'),
    ({'test': [('x', ['b'], 399)]}, "'x' has 399 samples"),
    ({'validation': [('x', ['b', 'zz', 'B'], 400)]}, r"'x'.*\['B', 'zz'\]"),
  ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, splits, words):
  with pytest.raises(ValueError, match=words):
    corpus.load(choose(tmp_path, timit_metadata(), **splits))


def test_metadata_must_be_complete(tmp_path):
  metadata = timit_metadata()
  del metadata['score_map']
  with pytest.raises(ValueError, match=r"no metadata \['score_map'\]"):
    corpus.load(choose(tmp_path, metadata))
  metadata['score_map'] = {**phones.FOLD_48_TO_39}
  del metadata['score_map']['vcl']
  with pytest.raises(ValueError, match=r"\['vcl'\]"):
    corpus.load(choose(tmp_path / 'other', metadata))


HOLDER = """
import pathlib, sys
from nasjax.data import corpus, manifest
toy = manifest.builder(sys.argv[1], data_dir=sys.argv[2])
with corpus.preparing(toy) as wanted:
  assert wanted
  leaving = pathlib.Path(toy.data_dir).parent / 'incomplete.ABC123_1.0.0'
  leaving.mkdir()
  print('in', flush=True)
  sys.stdin.readline()
  toy.download_and_prepare()
"""


@pytest.mark.parametrize('end', ['killed', 'done'])
def test_who_prepares_is_waited_for(builder, tmp_path, end):
  """And what it leaves goes when it is dead, not before."""
  path = builder.builder_config.manifest_path
  toy = manifest.builder(path, data_dir=tmp_path)
  other = pathlib.Path(toy.data_dir).parents[1] / 'other'
  dead = other / 'incomplete.XYZ789_1.0.0'
  dead.mkdir(parents=True)
  leaving = pathlib.Path(toy.data_dir).parent / 'incomplete.ABC123_1.0.0'
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLDER, path, tmp_path],
    cwd=pathlib.Path(__file__).parents[2],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  said = []

  def say(line):
    said.append(line)
    assert leaving.exists()
    # Nor does one go who prepares another corpus.
    corpus.prepare(builder_of_others)
    assert leaving.exists()
    if end == 'killed':
      holder.kill()
    else:
      print(file=holder.stdin, flush=True)

  builder_of_others = manifest.builder(path, data_dir=tmp_path, seed=1)
  with holder:
    assert holder.stdout.readline() == 'in\n'
    assert not dead.exists()
    corpus.prepare(toy, say)
  (line,) = said
  assert 'another run prepares' in line and str(leaving.parent) in line
  assert (
    toy.info.metadata['fingerprint'] == builder.info.metadata['fingerprint']
  )
  assert toy.info.splits['train'].num_examples == 7
  corpus.prepare(manifest.builder(path, data_dir=tmp_path))
  assert not leaving.exists()


def test_a_prepared_corpus_may_lie_where_nothing_can_be_written(
  builder, tmp_path, monkeypatch
):
  """On a share that several machines read, say."""
  path = builder.builder_config.manifest_path
  corpus.prepare(manifest.builder(path, data_dir=tmp_path))
  # Another version of the corpus, whose preparation was killed.
  other = manifest.builder(path, data_dir=tmp_path, seed=1)
  leaving = pathlib.Path(other.data_dir).parent / 'incomplete.ABC123_1.0.0'
  leaving.mkdir(parents=True)

  def refuse(*_):
    raise OSError(errno.EROFS, 'Read-only file system')

  with monkeypatch.context() as patch:
    patch.setattr(corpus.os, 'open', refuse)
    patch.setattr(pathlib.Path, 'mkdir', refuse)
    toy = manifest.builder(path, data_dir=tmp_path)
    corpus.prepare(toy)
    assert toy.info.splits['train'].num_examples == 7
  corpus.prepare(toy)
  assert not leaving.exists()


@pytest.mark.parametrize(
  'encoding, within',
  [('float32', 1e-4), ('bfloat16', 0.02), ('uint8', 0.026)],
)
def test_features_in_files_are_those_in_memory(
  builder, loaded, tmp_path, monkeypatch, encoding, within
):
  """But for rounding; computed once, and read from there ever after."""
  found = corpus.load(builder, encoding=encoding, place=tmp_path)
  assert found.fingerprint == f'{loaded.fingerprint}+{encoding}'
  np.testing.assert_allclose(found.mean_f, loaded.mean_f, rtol=1e-5)
  np.testing.assert_allclose(found.variance_f, loaded.variance_f, rtol=1e-4)
  for name in ('train', 'validation', 'test'):
    one, other = getattr(found, name), getattr(loaded, name)
    for field in ('ids', 'speakers', 'texts'):
      assert getattr(one, field) == getattr(other, field)
    np.testing.assert_array_equal(one.samples_u, other.samples_u)
    for u, labels in enumerate(other.labels):
      np.testing.assert_array_equal(one.labels[u], labels)
      x_tf, expected = one.x_tf(u), other.x_tf(u)
      if encoding == 'uint8':
        expected = expected.clip(-6.4, 6.35)
      assert x_tf.dtype == np.float32
      np.testing.assert_allclose(
        x_tf, expected, rtol=within * (encoding != 'uint8'), atol=within
      )
  assert not isinstance(found.train.features, np.ndarray)
  assert isinstance(found.test.features, np.ndarray)

  def never(*arguments):
    raise AssertionError('computed again')

  monkeypatch.setattr(frontend, 'log_mel_blocks', never)
  again = corpus.load(builder, encoding=encoding, place=tmp_path)
  np.testing.assert_array_equal(again.train.x_tf(3), found.train.x_tf(3))


def test_files_of_features_appear_whole_or_not_at_all(
  builder, tmp_path, monkeypatch
):
  kept = frontend.log_mel_blocks

  def broken(*arguments):
    for block in kept(*arguments):
      if broken.count == 2:  # of the second look at training
        raise OSError('no space')
      broken.count += 1
      yield block

  broken.count = 0
  monkeypatch.setattr(frontend, 'log_mel_blocks', broken)
  with pytest.raises(OSError, match='no space'):
    corpus.load(builder, encoding='uint8', place=tmp_path)
  assert not list((tmp_path / 'features').iterdir())
  monkeypatch.setattr(frontend, 'log_mel_blocks', kept)
  found = corpus.load(builder, encoding='uint8', place=tmp_path)
  (path,) = (tmp_path / 'features').iterdir()
  with (path / 'train.bin').open('ab') as file:
    file.write(b'x')
  with pytest.raises(
    ValueError, match='no whole frames of 80 features; remove'
  ):
    corpus.load(builder, encoding='uint8', place=tmp_path)
  assert len(found.train.features) == found.train.frames_u.sum()


def test_front_ends_that_want_whole_speakers_are_not_kept_in_files(
  builder, tmp_path
):
  with pytest.raises(ValueError, match='front end st_nas wants whole speakers'):
    corpus.load(
      builder, frontend=frontend.ST_NAS, encoding='uint8', place=tmp_path
    )


def test_a_corpus_larger_than_memory_is_prepared(
  builder, tmp_path, monkeypatch
):
  """TFDS would go another way, with TensorFlow, for more than so many bytes."""
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 1)
  path = builder.builder_config.manifest_path
  toy = manifest.builder(path, data_dir=tmp_path)
  held = []

  class Watched(corpus._OnDisk):
    def _add_to_mem_buffer(self, hkey, data):
      super()._add_to_mem_buffer(hkey, data)
      held.append(sum(map(sys.getsizeof, self._mem_buffer[-1])))

  monkeypatch.setattr(corpus, '_OnDisk', Watched)
  corpus.prepare(toy)
  assert len(held) == 10 and max(held) < 200
  for name in ('train', 'validation', 'test'):
    one, other = (list(b.as_data_source(split=name)) for b in (builder, toy))
    assert [u['id'] for u in one] == [u['id'] for u in other]
    for first, second in zip(one, other, strict=True):
      np.testing.assert_array_equal(first['audio'], second['audio'])
  assert not list(tmp_path.rglob('*.tmp'))
