"""Tests of nasjax/data/layouts: corpora as they lie, to a loaded corpus."""

import json
import os
import pathlib

import layout_files
import numpy as np
import pytest
import soundfile
from manifests import noise

from nasjax.data import audio, checks, corpus, lexicon, manifest
from nasjax.data.layouts import LAYOUTS, lines, reading


def _make(layout, source, folder=None, subsets=(), words=None, **options):
  read = reading.Reading()
  LAYOUTS[layout](source, read, subsets)
  if words is not None:
    own = lexicon.Lexicon()
    own.read(words, read)
    words = own
  return lines.make(read, source, folder or source, lexicon=words, **options)


def _told(made):
  """Problems by file, line and rule.

  Without characters that what is left of so small a training split lacks.
  """
  return [
    (os.path.basename(p.path), p.line, p.rule)
    for p in made.examined.problems
    if p.rule != 'unknown_phone'
  ]


def _write(made, folder):
  path = folder / 'manifest.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in made.rows))
  return path


@pytest.fixture
def words(tmp_path):
  path = tmp_path / 'cmudict.dict'
  path.write_text(layout_files.LEXICON)
  return path


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_corpus_as_it_lies_is_loaded(tmp_path, words, layout):
  source = layout_files.WRITERS[layout](tmp_path)
  made = _make(layout, source, tmp_path, words=words)
  assert made.examined.problems == []
  path = _write(made, tmp_path)
  assert manifest.check(path) == []
  assert manifest.check(path, targets='characters') == []
  builder = manifest.builder(path, data_dir=tmp_path / 'tfds')
  corpus.prepare(builder)
  loaded = corpus.load(builder)
  assert len(loaded.train.ids) == len(loaded.test.ids) == 6
  assert loaded.symbols == ('AA', 'AH', 'D', 'G', 'N', 'OW', 'T')
  first = min(made.rows, key=lambda row: row['id'])
  recording = audio.read(tmp_path / first['audio_filepath'])
  assert first['duration'] == recording.seconds
  assert not os.path.isabs(first['audio_filepath'])
  assert first['text'].strip('.').lower() == 'go on'
  assert first['phones'] == ['G', 'OW', 'AA', 'N']
  assert first['speaker'] and first['split'] == 'train'


def test_segments_are_stretches_of_recordings(tmp_path):
  source = layout_files.kaldi(tmp_path, segments=True)
  path = source / 'train' / 'segments'
  text = path.read_text().splitlines()
  # One goes to the end, one beyond it, by less than half a second.
  text[2] = text[2].rpartition(' ')[0] + ' -1'
  text[5] = text[5].rpartition(' ')[0] + ' 4.5'
  path.write_text('\n'.join(text))
  made = _make('kaldi', source, tmp_path)
  assert made.examined.problems == []
  rows = {row['id']: row for row in made.rows}
  assert rows['spk0-1'] | {'offset': 1.25, 'duration': 1.0} == rows['spk0-1']
  assert rows['spk0-2']['duration'] == pytest.approx(4.0 - 2.25)
  assert rows['spk3-2']['duration'] == pytest.approx(4.03 - 2.25)
  assert sum('1 segments end after' in note for note in made.notes) == 1
  builder = manifest.builder(
    _write(made, tmp_path), data_dir=tmp_path / 'tfds', targets='characters'
  )
  corpus.prepare(builder)
  heard = {
    e['id'].decode(): e['audio'] for e in builder.as_data_source('train')
  }
  whole = audio.read(tmp_path / 'audio' / 'spk0.wav').samples_n
  np.testing.assert_array_equal(heard['spk0-1'], whole[20_000:36_000])


def test_a_column_of_segments_names_the_channel(tmp_path):
  source = layout_files.kaldi(tmp_path, ('train',), segments=True)
  both = np.stack([noise(4.0, seed=1), noise(4.0, seed=2)], axis=1)
  soundfile.write(tmp_path / 'audio' / 'spk0.wav', both, 16_000)
  made = _make('kaldi', source / 'train')
  assert [p.rule for p in made.examined.problems] == ['stereo'] * 3
  path = source / 'train' / 'segments'
  text = path.read_text().splitlines()
  path.write_text('\n'.join([f'{line} 1' for line in text[:3]] + text[3:]))
  made = _make('kaldi', source / 'train')
  assert made.examined.problems == []
  rows = {row['id']: row for row in made.rows}
  assert rows['spk0-1']['channel'] == 1 and 'channel' not in rows['spk3-1']


def test_everything_wrong_with_a_kaldi_folder_is_told_at_once(tmp_path):
  source = layout_files.kaldi(tmp_path)
  folder = source / 'train'
  scp = (folder / 'wav.scp').read_text().splitlines()
  scp[0] = 'spk0-0 flac -c -d -s audio/a.flac |'
  scp[1] = 'spk0-1 raw_wav.ark:17'
  scp[2] = 'spk0-2 audio/nothing.wav'
  del scp[4]
  (folder / 'wav.scp').write_text('\n'.join([*scp, 'lonely']))
  text = (folder / 'text').read_text().splitlines()
  del text[5]
  (folder / 'text').write_bytes('\n'.join(text).encode() + b'\nx \xff')
  (source / 'dev' / 'utt2spk').write_text('')
  made = _make('kaldi', source)
  # Folders are read by name: dev, test, train.
  assert _told(made) == [
    *(('text', n, 'missing_field') for n in range(1, 7)),
    ('wav.scp', 1, 'unreadable_audio'),
    ('wav.scp', 2, 'unreadable_audio'),
    # spk3-2 is heard and has no transcript.
    ('wav.scp', 5, 'empty_transcript'),
    ('wav.scp', 6, 'bad_field'),
    ('text', 3, 'missing_file'),
    ('text', 5, 'missing_file'),
    ('text', 6, 'bad_field'),
  ]
  (problem,) = [p for p in made.examined.problems if 'flac' in p.message]
  assert 'not run' in problem.message
  assert 'flac -c -d -s audio/a.flac > spk0-0.wav' in problem.remedy
  assert problem.path == str(folder / 'wav.scp')


def test_what_is_wrong_with_librispeech(tmp_path):
  source = layout_files.librispeech(tmp_path)
  train = source / 'train-clean-100'
  (train / '0' / '9' / '0-9-0001.flac').write_bytes(b'fLaC and no more')
  (train / '0' / '9' / '0-9-0002.flac').unlink()
  path = train / '3' / '9' / '3-9.trans.txt'
  path.write_text(path.read_text().rpartition('\n')[0])
  (source / 'dev-clean' / '6' / '9' / '6-9.trans.txt').unlink()
  made = _make('librispeech', source)
  assert _told(made) == [
    ('9', 0, 'missing_file'),
    ('0-9.trans.txt', 2, 'unreadable_audio'),
    ('0-9.trans.txt', 3, 'missing_file'),
    ('3-9-0002.flac', 0, 'empty_transcript'),
  ]
  rules = ('unreadable_audio', 'missing_file', 'empty_transcript')
  made = _make('librispeech', source, drop=rules)
  # Where a chapter lacks its transcripts there is no utterance to leave out.
  assert _told(made) == [('9', 0, 'missing_file')]
  assert {p['rule'] for p in made.examined.left_out} == set(rules)


def test_subsets(tmp_path):
  source = layout_files.librispeech(tmp_path)
  made = _make('librispeech', source, subsets=['test-clean', 'train-clean-100'])
  # Validation is taken from training, of which there are two speakers.
  splits = made.examined.splits
  assert [len(splits[s]) for s in ('train', 'validation', 'test')] == [3, 3, 6]
  with pytest.raises(ValueError, match='--subsets=dev: there are'):
    _make('librispeech', source, subsets=['dev'])
  with pytest.raises(ValueError, match='name the directory LibriSpeech'):
    _make('librispeech', source / 'dev-clean' / '6')
  (source / 'dev-clean').rename(source / 'more')
  made = _make('librispeech', source)
  assert _told(made) == [('more', 0, 'unknown_split')]


def test_two_speakers_are_too_few_for_three_splits(tmp_path):
  source = layout_files.librispeech(tmp_path)
  made = _make('librispeech', source, subsets=['test-clean'])
  problem = made.examined.problems[-1]
  assert problem.rule == 'shared_speaker' and problem.path == str(source)
  assert '--allow_shared_speakers' in problem.remedy
  made = _make('librispeech', source / 'test-clean', allow_shared_speakers=True)
  assert _told(made) == []
  assert 'test-clean alone is there' in made.notes[0]


@pytest.mark.parametrize(
  ('layout', 'subset'), [('common_voice', 'validated'), ('kaldi', 'all')]
)
def test_splits_are_by_speaker_where_there_are_none(tmp_path, layout, subset):
  source = layout_files.WRITERS[layout](tmp_path, (subset,))
  made, again = _make(layout, source), _make(layout, source)
  assert made.examined.problems == [] and made.rows == again.rows
  splits = {row['split']: set() for row in made.rows}
  for row in made.rows:
    splits[row['split']].add(row['speaker'])
  assert [len(s) for s in splits.values()] == [4, 1, 1]
  assert len(set.union(*splits.values())) == 6
  others = (_make(layout, source, seed=seed).rows for seed in (1, 2, 3))
  assert any(rows != made.rows for rows in others)


def test_tables_of_common_voice(tmp_path):
  source = layout_files.common_voice(tmp_path)
  path = source / 'train.tsv'
  text = path.read_text().splitlines()
  text[1] = text[1].replace('Go on.', '"""Go,"" on"')
  text[2] += '\tmore'
  text[3] = text[3].rpartition('\t')[0]  # no votes: left out at the end
  text[4] = 'speaker'
  path.write_text('\n'.join(text))
  made = _make('common_voice', tmp_path)
  assert _told(made) == [
    ('train.tsv', 3, 'bad_field'),
    ('train.tsv', 5, 'bad_field'),
  ]
  (first,) = [r for r in made.rows if r['id'] == 'common_voice_en_0']
  assert first['text'] == '"Go," on'
  plain = _make('common_voice', tmp_path, plain_text=True)
  assert {r['text'] for r in plain.rows} >= {'go on', "don't go"}
  path.write_text(path.read_text().replace('sentence\t', 'text\t', 1))
  assert _told(_make('common_voice', source)) == [
    ('train.tsv', 1, 'missing_field'),
    ('en', 0, 'empty_split'),
  ]
  with pytest.raises(ValueError, match='no clips/'):
    _make('common_voice', source / 'clips')


@pytest.mark.skipif(
  'MP3' not in soundfile.available_formats(), reason='libsndfile before 1.1'
)
def test_mp3_is_read_and_what_that_means_is_said(tmp_path):
  source = layout_files.common_voice(tmp_path, suffix='.mp3')
  made = _make('common_voice', source)
  assert made.examined.problems == []
  (note,) = [n for n in made.notes if n.startswith('MP3')]
  assert 'ffmpeg -i common_voice_en_' in note
  for row in made.rows:
    heard = audio.read(source / row['audio_filepath'])
    assert row['duration'] == pytest.approx(heard.seconds, abs=1e-6)
  path = source / 'clips' / 'common_voice_en_0.mp3'
  path.write_bytes(b'\x00\x00\x00 ftypM4A ' + bytes(range(256)))
  made = _make('common_voice', source)
  assert _told(made) == [('train.tsv', 2, 'unreadable_audio')]
  assert 'ffmpeg -i BAD' in made.examined.problems[0].remedy
  # What the remedy makes is taken in its place.
  soundfile.write(path.with_suffix('.flac'), noise(), 16_000)
  assert _make('common_voice', source).examined.problems == []


def test_words_that_the_lexicon_lacks(tmp_path, words):
  source = layout_files.kaldi(tmp_path)
  path = source / 'train' / 'text'
  path.write_text(path.read_text().replace('go on', 'go abba', 1))
  made = _make('kaldi', source, words=words)
  (problem,) = made.examined.problems
  assert str(problem).startswith(f'{path}:1: unknown_word: ')
  assert "['abba']" in problem.message
  assert problem.remedy == checks.REMEDIES['unknown_word']
  made = _make('kaldi', source, words=words, unknown_words='spell')
  (row,) = [r for r in made.rows if r['id'] == 'spk0-0']
  assert ' '.join(row['phones']) == 'G OW EY B IY B IY EY'
  made = _make('kaldi', source, words=words, unknown_words='leave_out')
  assert made.examined.problems == [] and len(made.rows) == 17
  (left,) = made.examined.left_out
  assert left['rule'] == 'unknown_word' and left['utterances'] == 1
  assert left['minutes'] == pytest.approx(1 / 60, abs=1e-3)


def test_an_utterance_too_short_for_its_phones_is_told(tmp_path, words):
  source = layout_files.librispeech(tmp_path)
  path = source / 'train-clean-100' / '0' / '9' / '0-9.trans.txt'
  path.write_text(path.read_text().replace('GO ON', 'GO ON ' * 20, 1))
  made = _make('librispeech', source, words=words)
  assert _told(made) == [('0-9.trans.txt', 1, 'ctc_infeasible')]


def test_one_recording_under_two_names_is_told_with_both_files(tmp_path):
  source = layout_files.kaldi(tmp_path)
  copied = tmp_path / 'audio' / 'spk0-0.wav'
  (tmp_path / 'audio' / 'spk9-1.wav').write_bytes(copied.read_bytes())
  made = _make('kaldi', source)
  (problem,) = made.examined.problems
  assert problem.rule == 'duplicate_audio' and problem.line == 1
  assert problem.path == str(source / 'train' / 'text')
  assert 'line 5 of text, validation; this one is train' in problem.message


def test_paths_outside_the_folder_are_absolute(tmp_path):
  source = layout_files.librispeech(tmp_path / 'corpus')
  made = _make('librispeech', source, pathlib.Path(tmp_path / 'elsewhere'))
  assert all(os.path.isabs(row['audio_filepath']) for row in made.rows)
