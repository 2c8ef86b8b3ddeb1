"""Tests of nasjax/data/manifest.py."""

import os
import pathlib
import pickle
import shutil
import sys

import manifests
import numpy as np
import pytest
import soundfile
from manifests import found, noise, write

from nasjax.data import checks, corpus, manifest

SPEECH = pathlib.Path(
  os.environ.get(
    'NASJAX_SPEECH_DIR',
    pathlib.Path(__file__).parents[3] / 'shared' / 'data',
  )
)
needs_speech = pytest.mark.skipif(
  not (SPEECH / 'an4' / 'manifest.jsonl').is_file(),
  reason=f'no speech in {SPEECH} (set NASJAX_SPEECH_DIR)',
)


@pytest.fixture
def rows(tmp_path):
  return manifests.good_rows(tmp_path)


def test_symbols_must_occur_in_training(tmp_path, rows):
  rows[9]['phones'] = ['ZH', 'OW', 'XX']
  problems = manifest.check(write(tmp_path, rows))
  assert found(problems) == [(10, 'unknown_phone')]
  assert "'XX' 'ZH'" in problems[0].message
  rows[0]['phones'] = ['ZH', 'XX']
  assert manifest.check(write(tmp_path, rows)) == []


@pytest.mark.parametrize(
  'text, symbols',
  [
    ('\ufeffAA\nB \n', ('AA', 'B')),
    ('# phones of ours\n#phones\nAA\n#\n', ('#', 'AA')),
    ('#0 0\n# 1\nAA 2\n', ('#', 'AA')),
    ('\ufeff\ufeffAA\n\u200bB\n', ('AA', 'B')),
    ('<eps> 0\nAA 1\nB 2\n#0 3\n', ('AA', 'B')),
    ('e\u0301\n\u00e9\n', ('\u00e9',)),
    ('a\n \nb\n', (' ', 'a', 'b')),
    ('AA B\n', ':1: .*more than one symbol'),
    ('\xff\xfe'.encode('latin-1'), 'phones.txt: no UTF-8'),
  ],
)
def test_files_of_symbols(tmp_path, text, symbols):
  path = tmp_path / 'phones.txt'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  options = manifest.Options(alphabet_path=str(path))
  if isinstance(symbols, tuple):
    assert options.alphabet() == symbols
  else:
    with pytest.raises(ValueError, match=symbols):
      options.alphabet()


def test_an_alphabet_restricts_and_defines(tmp_path, rows):
  alphabet = tmp_path / 'phones.txt'
  alphabet.write_text('OW\nN\nG\n\nZH\n')
  path = write(tmp_path, rows)
  problems = manifest.check(path, alphabet_path=alphabet)
  assert found(problems) == [(i, 'unknown_phone') for i in range(1, 13)]
  assert "'AO' not in the alphabet" in problems[0].message
  alphabet.write_text('OW\nN\nG\nAO\nZH\n')
  options = manifest.Options(alphabet_path=str(alphabet))
  examined = manifest.examine(path, options)
  assert examined.problems == []
  assert examined.symbols == ('AO', 'G', 'N', 'OW', 'ZH')
  with pytest.raises(ValueError, match='no alphabet'):
    manifest.check(path, alphabet_path=tmp_path / 'nothing.txt')


def test_dropping_by_rule(tmp_path, rows):
  rows[1]['phones'] = ['G'] * 20
  rows[8]['phones'] = ['ZH']
  path = write(tmp_path, rows)
  drop = ('ctc_infeasible', 'unknown_phone')
  assert found(manifest.check(path)) == [
    (2, 'ctc_infeasible'),
    (9, 'unknown_phone'),
  ]
  assert manifest.check(path, drop=drop) == []
  builder = manifest.builder(path, data_dir=tmp_path / 'tfds', drop=drop)
  corpus.prepare(builder)
  sizes = {n: s.num_examples for n, s in builder.info.splits.items()}
  assert sizes == {'train': 7, 'validation': 1, 'test': 2}
  dropped = builder.info.metadata['dropped']
  assert [':2: ctc_inf' in d or ':9: unknown' in d for d in dropped] == [1, 1]


def test_one_recording_on_two_lines(tmp_path, rows):
  rows[5]['audio_filepath'] = rows[1]['audio_filepath']
  rows[5]['duration'] = rows[1]['duration']
  path = write(tmp_path, rows)
  problems = manifest.check(path)
  assert (6, 'duplicate_audio') in found(problems)
  named = [p for p in problems if p.rule == 'duplicate_audio']
  assert len(named) == 1 and 'line 2 already' in named[0].message


def test_dropping_keeps_the_first_of_two(tmp_path, rows):
  rows[0]['id'] = rows[7]['id'] = 'twice'
  del rows[3]['split']
  path = write(tmp_path, rows)
  assert found(manifest.check(path)) == [
    (4, 'missing_field'),
    (8, 'duplicate_id'),
  ]
  builder = manifest.builder(
    path,
    data_dir=tmp_path / 'tfds',
    drop=['missing_field', 'duplicate_id'],
  )
  examples = read_back(builder, 'train')
  assert sorted(examples) == ['twice', 'u1', 'u2', 'u4', 'u5', 'u6']
  np.testing.assert_array_equal(examples['twice']['audio'], noise(seed=0))


@pytest.mark.parametrize(
  'options, words',
  [
    ({'targets': 'letters'}, 'letters'),
    ({'drop': ('stereos',)}, 'stereos'),
    ({'drop': ('shared_speaker',)}, 'shared_speaker'),
    ({'drop': 'stereo'}, 'tuple'),
  ],
)
def test_options_that_mean_nothing(tmp_path, rows, options, words):
  with pytest.raises(ValueError, match=words):
    manifest.check(write(tmp_path, rows), **options)


def test_no_manifest(tmp_path):
  path = tmp_path / 'nothing.jsonl'
  for drop in ((), ('missing_file',)):
    problems = manifest.check(path, drop=drop)
    assert found(problems) == [(0, 'missing_file')]
  for place in (path, tmp_path):
    with pytest.raises(manifest.ManifestError, match='no manifest'):
      manifest.builder(place, data_dir=tmp_path)


# Splits.


def utterances(splits, per_speaker=5, shared=False):
  """Makes utterances: `splits` is the split of each speaker."""
  made = []
  for s, split in enumerate(splits):
    for i in range(per_speaker):
      made.append(
        checks.Utterance(
          line=len(made) + 1,
          id=f's{s}_{i}',
          audio=pathlib.Path('x'),
          start=None,
          seconds=1.0,
          text='',
          tokens=('A', 'B'),
          speaker='' if shared is None else f's{0 if shared else s}',
          split=split,
        )
      )
  return made


def speakers(split):
  return {u.speaker for u in split}


@pytest.mark.parametrize('count', [2, 5, 30])
def test_validation_is_taken_by_speaker(count):
  given = utterances(['train'] * count + ['test'] * 2)
  splits = manifest.assign(given, seed=0)
  assert len(splits['test']) == 10
  assert len(splits['train']) + len(splits['validation']) == 5 * count
  assert len(splits['validation']) == 5 * max(1, count // 10)
  assert not speakers(splits['train']) & speakers(splits['validation'])
  # The order of the lines plays no part, the seed does.
  again = manifest.assign(reversed(given), seed=0)
  assert again == splits
  if count == 30:
    other = manifest.assign(given, seed=1)
    assert speakers(other['validation']) != speakers(splits['validation'])


@pytest.mark.parametrize('shared', [True, None])
def test_validation_is_taken_by_id_without_separate_speakers(shared):
  given = utterances(['train'] * 10 + ['test'], shared=shared)
  splits = manifest.assign(given, seed=0)
  assert [len(s) for s in splits.values()] == [45, 5, 5]
  assert manifest.assign(given, seed=1) != splits


def test_two_splits_are_taken_where_lines_name_none():
  splits = manifest.assign(utterances([''] * 20), seed=3)
  assert [len(s) for s in splits.values()] == [80, 10, 10]
  held = speakers(splits['validation']), speakers(splits['test'])
  assert not held[0] & held[1] and not speakers(splits['train']) & set().union(
    *held
  )
  few = manifest.assign(utterances([''] * 2, per_speaker=10), seed=0)
  assert [len(s) for s in few.values()] == [16, 2, 2]  # by id


def test_symbols_stay_in_training():
  given = utterances(['train'] * 20 + ['test'])
  rare = [u._replace(tokens=('C',)) if u.speaker != 's7' else u for u in given]
  rare[0] = rare[0]._replace(tokens=('A', 'B'))
  # Only s7 and one utterance of s0 hold A and B: one of the two must stay.
  for seed in range(20):
    splits = manifest.assign(rare, seed)
    symbols = {t for u in splits['train'] for t in u.tokens}
    assert symbols == {'A', 'B', 'C'}
    assert len(splits['validation']) == 10


def test_one_utterance_cannot_be_split(tmp_path, rows):
  problems = manifest.check(write(tmp_path, rows[:1]))
  assert [p.message for p in problems] == [
    'no utterance for validation',
    'no utterance for test',
  ]


def test_a_transducer_s_transcripts_may_be_longer_than_frames(tmp_path, rows):
  rows[1]['phones'] = ['G'] * 60
  path = write(tmp_path, rows)
  assert found(manifest.check(path)) == [(2, 'ctc_infeasible')]
  assert manifest.check(path, allow_infeasible=True) == []
  builder = manifest.builder(
    path, data_dir=tmp_path / 'tfds', allow_infeasible=True
  )
  told = read_back(builder, 'train')
  assert max(len(row['tokens']) for row in told.values()) == 60
  # Another corpus by name; whoever asks for nothing of it finds his own again.
  assert 'infeasible' in manifest.Options(allow_infeasible=True).told()
  assert 'infeasible' not in manifest.Options().told()
  # Without any frame there is nothing to say anything in.
  short = tmp_path / rows[1]['audio_filepath']
  soundfile.write(short, noise(300 / 16_000), 16_000)
  rows[1]['duration'] = 300 / 16_000
  path = write(tmp_path, rows)
  assert (2, 'ctc_infeasible') in found(
    manifest.check(path, allow_infeasible=True)
  )


def test_speakers_may_be_shared_if_allowed(tmp_path, rows):
  for row in rows:
    row['speaker'] = 'one'
  path = write(tmp_path, rows)
  assert found(manifest.check(path)) == [(9, 'shared_speaker')]
  assert manifest.check(path, allow_shared_speakers=True) == []


# Preparing and reading back.


def read_back(builder, split):
  corpus.prepare(builder)
  return {e['id'].decode(): e for e in builder.as_data_source(split=split)}


def test_round_trip(tmp_path, rows):
  rows[0].update(text='Ünï go', id='ünï', phones='G  OW', extra=[1])
  rows[2]['audio_filepath'] = str(tmp_path / 'audio' / 'u2.wav')
  del rows[4]['speaker'], rows[4]['text']
  builder = manifest.builder(write(tmp_path, rows), data_dir=tmp_path / 'tfds')
  examples = read_back(builder, 'train')
  assert list(examples) == sorted(
    ['ünï', 'u1', 'u2', 'u3', 'u4', 'u5', 'u6', 'u7']
  )
  for i, name in enumerate(['ünï', 'u1', 'u2', 'u3']):
    example = examples[name]
    np.testing.assert_array_equal(example['audio'], noise(seed=i))
    assert example['audio'].dtype == np.int16
    assert example['token_samples'].shape == (0, 2)
  assert examples['ünï']['text'].decode() == 'Ünï go'
  assert examples['ünï']['tokens'] == [b'G', b'OW']
  assert examples['u1']['tokens'] == [b'G', b'OW', b'AO', b'N']
  assert examples['u1']['speaker'] == b's0'
  assert examples['u4']['speaker'] == examples['u4']['text'] == b''
  metadata = builder.info.metadata
  assert metadata['alphabet'] == ['AO', 'G', 'N', 'OW']
  assert metadata['train_map'] == metadata['score_map']
  assert metadata['dropped'] == []
  assert not {'tensorflow', 'torch'} & set(sys.modules)


def test_characters(tmp_path, rows):
  rows[0]['text'] = ' e\u0301 a\t\n b'
  for row in rows[1:]:
    row['text'] = 'a b \u00e9'
    row['phones'] = None
  builder = manifest.builder(
    write(tmp_path, rows), data_dir=tmp_path / 'tfds', targets='characters'
  )
  examples = read_back(builder, 'train')
  tokens = [token.decode() for token in examples['u0']['tokens']]
  assert tokens == ['\u00e9', ' ', 'a', ' ', 'b']
  assert builder.info.metadata['alphabet'] == [' ', 'a', 'b', '\u00e9']


def test_segments_of_one_file(tmp_path, rows):
  soundfile.write(tmp_path / 'long.flac', noise(9.0, seed=5), 16_000)
  for i, row in enumerate(rows[:8]):
    row.update(audio_filepath='long.flac', offset=1.0 + i, duration=0.75)
  builder = manifest.builder(write(tmp_path, rows), data_dir=tmp_path / 'tfds')
  examples = read_back(builder, 'train')
  assert list(examples) == [f'long-{line}' for line in range(1, 9)]
  for i, example in enumerate(examples.values()):
    first = 16_000 * (1 + i)
    np.testing.assert_array_equal(
      example['audio'], noise(9.0, seed=5)[first : first + 12_000]
    )


def test_changes_make_another_directory_and_fingerprint(tmp_path, rows):
  def prepare(**options):
    builder = manifest.builder(
      path, data_dir=tmp_path / 'tfds', allow_shared_speakers=True, **options
    )
    corpus.prepare(builder)
    return builder.data_dir, builder.info.metadata['fingerprint']

  path = write(tmp_path, rows)
  first = prepare()
  assert prepare() == first
  seen = [first]
  samples = noise(seed=1)
  samples[99] += 1
  soundfile.write(tmp_path / 'audio/u1.flac', samples, 16_000)
  seen.append(prepare())
  rows[3]['phones'] = ['G', 'OW', 'AO']
  path = write(tmp_path, rows)
  seen.append(prepare())
  rows[4]['speaker'] = 's5'
  path = write(tmp_path, rows)
  seen.append(prepare())
  seen.append(prepare(targets='characters'))
  directories, fingerprints = zip(*seen)
  assert len(set(directories)) == len(set(fingerprints)) == len(seen)


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path, rows):
  path = write(tmp_path, rows)
  copy = tmp_path / 'elsewhere'
  shutil.copytree(tmp_path / 'audio', copy / 'audio')
  lines = path.read_text().splitlines()
  (copy / 'corpus.jsonl').write_text('\n'.join(reversed(lines)))
  examined = [
    manifest.examine(p, manifest.Options())
    for p in (path, copy / 'corpus.jsonl')
  ]
  prints = [manifest.fingerprint(e) for e in examined]
  assert prints[0] == prints[1]
  assert manifest.title(copy / 'corpus.jsonl') == 'corpus'
  assert manifest.title(copy / 'manifest.jsonl') == 'elsewhere'


def test_the_error_survives_pickling():
  problem = checks.problem('m', 1, 'stereo', 'two')
  error = manifest.ManifestError('text', [problem])
  copy = pickle.loads(pickle.dumps(error))
  assert str(copy) == 'text' and copy.problems == (problem,)


# Speech of people.


@needs_speech
def test_an4_is_clean():
  path = SPEECH / 'an4' / 'manifest.jsonl'
  examined = manifest.examine(path, manifest.Options())
  assert examined.problems == []
  sizes = {name: len(split) for name, split in examined.splits.items()}
  assert sizes['test'] == 130
  assert sizes['train'] + sizes['validation'] == 948
  assert 80 <= sizes['validation'] <= 95
  voices = [speakers(split) for split in examined.splits.values()]
  assert sum(map(len, voices)) == len(set().union(*voices)) == 84
  assert len(examined.symbols) == 33


@needs_speech
def test_digits_share_speakers_and_two_are_too_short():
  path = SPEECH / 'fsdd' / 'manifest.jsonl'
  options = manifest.Options(allow_shared_speakers=True)
  examined = manifest.examine(path, options)
  assert found(examined.problems) == [
    (1998, 'ctc_infeasible'),
    (2074, 'ctc_infeasible'),
  ]
  assert [len(s) for s in examined.splits.values()] == [2430, 270, 300]
  shared = checks.shared_speakers(checks.parse(path, 'phones')[0], path)
  assert {p.rule for p in shared} == {'shared_speaker'} and len(shared) == 6
