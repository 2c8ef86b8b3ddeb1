"""Tests of nasjax/data/librispeech.py, on speech written in its layout."""

import os
import pathlib
import shutil

import numpy as np
import once
import pytest
import soundfile

from nasjax.data import audio, corpus, frontend, librispeech, word_pieces
from nasjax.data.synthetic import librispeech as spoken
from nasjax.data.synthetic import synthesis

pytest.importorskip('sentencepiece', reason="pip install '.[words]'")
SPEC = synthesis.Spec(
  num_utterances=100, grammar='digits', words=(2, 4), snr_db=None, rt60=None
)
PIECES = {'pieces': 20}


@pytest.fixture(scope='module')
def written():
  """A hundred utterances, written once for all tests."""
  root = pathlib.Path(os.environ['NASJAX_TEST_PLACE'], 'librispeech')
  once.text('librispeech.txt', lambda: str(spoken.write(root, SPEC)))
  return root


@pytest.fixture
def root(written, tmp_path):
  """A copy of few utterances, to be spoilt: one chapter a speaker."""
  place = tmp_path / 'corpus'
  for subset in spoken.SUBSETS.values():
    source = written / 'LibriSpeech' / subset
    for speaker in sorted(source.iterdir())[: 3 if 'train' in subset else 2]:
      chapter = min(speaker.iterdir())
      shutil.copytree(
        chapter, place / 'LibriSpeech' / chapter.relative_to(source.parent)
      )
  return place


def _chapter(root, subset='train-clean-100', index=0):
  return sorted((root / 'LibriSpeech' / subset).glob('*/*'))[index]


def _transcript(chapter):
  return chapter / f'{chapter.parent.name}-{chapter.name}.trans.txt'


def _builder(root, tmp_path, **given):
  return librispeech.builder(
    root, data_dir=tmp_path / 'tfds', partial=True, **PIECES | given
  )


def test_what_was_written_is_read(written, tmp_path):
  builder = _builder(written, tmp_path)
  corpus.prepare(builder)
  assert builder.name == 'librispeech'
  texts = {}
  for split, subset in spoken.SUBSETS.items():
    source = synthesis.synthesise(SPEC, split)
    examples = list(builder.as_data_source(split=split))
    for example, utterance in zip(examples, source, strict=True):
      np.testing.assert_array_equal(example['audio'], utterance.audio_t)
      name, text = example['id'].decode(), example['text'].decode()
      assert text == utterance.text.replace(',', '').upper()
      assert name.startswith(example['speaker'].decode() + '-')
      assert word_pieces.joined(t.decode() for t in example['tokens']) == text
      folders = name.rsplit('-', 1)[0].replace('-', '/')
      path = written / 'LibriSpeech' / subset / folders / f'{name}.flac'
      assert path.exists()
      texts[name] = text
  assert len(texts) == 100
  loaded = corpus.load(builder, frontend=frontend.NB_ASR_HAMMING)
  assert loaded.name == 'librispeech' and len(loaded.symbols) == 20
  assert word_pieces.symbols(loaded.pieces) == loaded.symbols
  assert '+nb_asr_hamming-' in loaded.fingerprint
  assert len(set(loaded.train.speakers)) == 6
  for u, one in enumerate(corpus.utterances(builder, 'test')):
    np.testing.assert_array_equal(one.labels, loaded.test.labels[u])
    assert (one.id, one.text) == (loaded.test.ids[u], loaded.test.texts[u])
    assert len(one.samples_n) == loaded.test.samples_u[u]


def test_found_whatever_is_above_it(written, tmp_path):
  # From the folder above, from LibriSpeech/ itself, and from one subset.
  for place in (written, written / 'LibriSpeech'):
    assert set(librispeech.find(place).chapters) == {*spoken.SUBSETS.values()}
  found = librispeech.find(written / 'LibriSpeech' / 'dev-clean')
  assert set(found.chapters) == {'dev-clean'}
  with pytest.raises(librispeech.LibrispeechError, match='no directory'):
    librispeech.find(tmp_path / 'nowhere')
  with pytest.raises(librispeech.LibrispeechError, match='SUBSET/SPEAKER/'):
    librispeech.find(tmp_path)


def test_subsets_by_name_and_by_pattern(root, tmp_path):
  second = root / 'LibriSpeech' / 'train-clean-360'
  shutil.move(_chapter(root, index=1).parent, second / '900')
  (chapter,) = (second / '900').iterdir()
  for path in list(chapter.iterdir()):
    path.rename(chapter / f'900-{path.name.split("-", 1)[1]}')
  lines = _transcript(chapter).read_text().splitlines()
  lines = [f'900-{line.split("-", 1)[1]}\n' for line in lines]
  _transcript(chapter).write_text(''.join(lines))
  found = librispeech.find(root)
  subsets = librispeech.SUBSETS | {'train': ('train-clean-*',)}
  assert librispeech.choose(found, subsets) == (
    {
      'train-clean-100': 'train',
      'train-clean-360': 'train',
      'dev-clean': 'validation',
      'test-clean': 'test',
    },
    [],
  )
  both = librispeech.examine(root, subsets, **PIECES)
  one = librispeech.examine(root, **PIECES)
  assert not both.problems and not one.problems
  assert (len(one.splits['train']), len(both.splits['train'])) == (10, 15)


def test_subsets_that_are_not_there(root, tmp_path):
  """Told with all that is wrong with those that are."""
  transcript = _transcript(_chapter(root, 'dev-clean'))
  transcript.write_text('\n' + transcript.read_text())
  wrong = {
    'train': ('train-clean-*', 'train-other-500'),
    'validation': ('dev-*', 'test-*'),
    'test': ('test-clean',),
  }
  builder = _builder(root, tmp_path, subsets=wrong)
  with pytest.raises(librispeech.LibrispeechError) as error:
    corpus.prepare(builder)
  lines = str(error.value).splitlines()
  assert [p.rule for p in error.value.problems] == [
    'wrong_subset', 'wrong_subset', 'malformed_line'
  ]  # fmt: skip
  assert f'{root}:0: wrong_subset: train: there is no train-other-5' in lines[1]
  assert 'there are dev-clean, test-clean, train-clean-100' in lines[1]
  assert 'test-clean is in validation and in test' in lines[2]
  assert 'an empty line' in lines[3]
  with pytest.raises(librispeech.LibrispeechError, match='named for test'):
    corpus.prepare(
      _builder(root, tmp_path, subsets=librispeech.SUBSETS | {'test': ()})
    )


def test_a_part_is_not_taken_for_the_whole(root, tmp_path, monkeypatch):
  builder = librispeech.builder(root, data_dir=tmp_path / 'tfds', **PIECES)
  with pytest.raises(librispeech.LibrispeechError) as error:
    corpus.prepare(builder)
  for line in (
    'train-clean-100 utterances: 15 of 28539  <-- differs',
    'dev-clean utterances: 10 of 2703  <-- differs',
    'test-clean speakers: 2 of 40  <-- differs',
    '--partial_librispeech',
  ):
    assert line in str(error.value)
  # What has the numbers is the whole; what is no subset has none.
  counts = dict.fromkeys(spoken.SUBSETS.values(), (10, 2))
  counts['train-clean-100'] = 15, 3
  monkeypatch.setattr(librispeech, 'COUNTS', counts)
  corpus.prepare(
    librispeech.builder(root, data_dir=tmp_path / 'tfds', **PIECES)
  )
  (root / 'LibriSpeech' / 'test-clean').rename(root / 'LibriSpeech' / 'mine')
  subsets = librispeech.SUBSETS | {'test': ('mine',)}
  builder = librispeech.builder(
    root, data_dir=tmp_path / 'tfds', subsets=subsets, **PIECES
  )
  with pytest.raises(librispeech.LibrispeechError, match='mine: 10 utt.* no s'):
    corpus.prepare(builder)


def _spoil(root):
  """Breaks every rule once; returns (path, line, rule) of each fault."""
  first, second = _chapter(root), _chapter(root, index=1)
  text, other = _transcript(first), _transcript(second)
  names = [f'{first.parent.name}-{first.name}-{i:04d}' for i in range(5)]
  flacs = sorted(second.glob('*.flac'))
  lines = text.read_text().splitlines()
  lines[0] = 'X' + lines[0]  # 0: malformed, and its audio has no line
  lines[1] = names[1]  # 1: empty
  lines[2] = f'{names[2]} ROOM 12'  # 2: digits
  lines.append(lines[3])  # 3: twice
  text.write_text('\n'.join(lines))
  (first / f'{names[4]}.flac').unlink()  # 4: no audio
  data = flacs[0].read_bytes()
  flacs[0].write_bytes(data[: len(data) // 2])
  soundfile.write(flacs[1], np.ones(16_000, np.int16), 8_000)
  third = other.read_text().splitlines()
  third[2] = '7-8-0002 ' + third[2].split(' ', 1)[1]
  other.write_text('\n'.join(third[:4]) + '\n')  # 4: no line
  stray = second.parent / 'stray.flac'
  shutil.copy(flacs[3], stray)
  stray.write_bytes(stray.read_bytes())
  return [
    (text, 1, 'malformed_line'),
    (text, 2, 'empty_transcript'),
    (text, 3, 'digits'),
    (text, 5, 'missing_file'),
    (text, 6, 'duplicate_id'),
    (first / f'{names[0]}.flac', 0, 'missing_transcript'),
    (other, 1, 'truncated_audio'),
    (other, 2, 'unsupported_rate'),
    (other, 3, 'wrong_id'),
    (other, 3, 'missing_file'),
    (flacs[2], 0, 'missing_transcript'),
    (flacs[4], 0, 'missing_transcript'),
    (stray, 0, 'misplaced_file'),
    (stray, 0, 'duplicate_audio'),
  ]


def test_all_damage_in_one_pass(root, tmp_path):
  expected = _spoil(root)
  builder = _builder(root, tmp_path)
  with pytest.raises(librispeech.LibrispeechError) as error:
    corpus.prepare(builder)
  problems = error.value.problems
  found = [(p.path, p.line, p.rule) for p in problems]
  assert sorted(found) == sorted((str(p), n, r) for p, n, r in expected)
  told = str(error.value)
  assert f'{len(expected)} problems' in told
  assert all(str(problem) in told for problem in problems)
  for words in (
    'does not begin with SPEAKER-CHAPTER-NUMBER',
    "'1' in '12' is no letter",
    'line 4 of ',
    '8000 samples a second, not 16000',
    "id '7-8-0002' stands in the folder of speaker",
    'has no line in',
  ):
    assert words in told
  # Each is skipped where it is named, and counted.
  rules = {rule for _, _, rule in expected}
  part = librispeech.examine(root, **PIECES, drop=rules - {'digits'})
  assert [p.rule for p in part.problems] == ['digits']
  builder = _builder(root, tmp_path, drop=rules)
  corpus.prepare(builder)
  metadata = builder.info.metadata
  assert builder.info.splits['train'].num_examples == 7
  assert sum(part['utterances'] for part in metadata['left_out']) == 12
  assert len(metadata['dropped']) == len(expected)


def test_a_flac_with_a_broken_frame(root):
  chapter = _chapter(root)
  path = min(chapter.glob('*.flac'))
  data = bytearray(path.read_bytes())
  assert audio.flac_mismatch(audio.read(path), path) is None
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  found = librispeech.examine(root, **PIECES)
  (problem,) = found.problems
  assert problem.rule in ('unreadable_audio', 'truncated_audio')
  assert (problem.path, problem.line) == (str(_transcript(chapter)), 1)


def test_a_speaker_in_two_splits(root):
  chapter = _chapter(root, 'test-clean')
  target = root / 'LibriSpeech' / 'train-clean-100' / chapter.parent.name
  shutil.move(chapter, target / chapter.name)
  shutil.copytree(target, chapter.parent, dirs_exist_ok=True)
  rules = {p.rule for p in librispeech.examine(root, **PIECES).problems}
  assert rules == {'duplicate_id', 'shared_speaker'}


def test_a_split_of_which_nothing_is_left(root):
  for path in (root / 'LibriSpeech' / 'dev-clean').rglob('*.flac'):
    path.write_bytes(b'')
  found = librispeech.examine(root, **PIECES, drop=['empty_audio'])
  assert [p.rule for p in found.problems] == ['empty_split']
  assert found.splits['validation'] == [] and len(found.splits['train']) == 15


def test_targets(root, tmp_path):
  with pytest.raises(ValueError, match='phones.*word_pieces'):
    librispeech.builder(root, data_dir=tmp_path, targets='phones')
  characters = librispeech.examine(root, targets='characters')
  assert ' ' in characters.symbols and characters.model is None
  assert 'E' in characters.symbols
  prints = {
    librispeech.examine(root, **PIECES, piece_model=kind).model
    for kind in word_pieces.KINDS
  }
  assert len(prints) == 2


def test_whatever_changes_is_prepared_anew(root, tmp_path):
  names = {_builder(root, tmp_path).builder_config.name for _ in range(2)}
  assert len(names) == 1
  names.add(_builder(root, tmp_path, pieces=19).builder_config.name)
  names.add(_builder(root, tmp_path, digits='spell').builder_config.name)
  path = min(_chapter(root).glob('*.flac'))
  soundfile.write(path, np.ones(16_000, np.int16), 16_000)
  names.add(_builder(root, tmp_path).builder_config.name)
  assert len(names) == 4


def test_written_whole_or_not_at_all(written, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='there already'):
    spoken.write(written, SPEC)

  def fail(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(spoken.soundfile, 'write', fail)
  with pytest.raises(KeyboardInterrupt):
    spoken.write(tmp_path / 'new', SPEC)
  assert list((tmp_path / 'new').iterdir()) == []
