"""Tests of nasjax/data/timit.py on directories in TIMIT's own format."""

import itertools
import sys

import numpy as np
import pytest
import soundfile

from nasjax.data import corpus, phones, timit
from nasjax.data.synthetic import synthesis

_DIALECTS = {'train': 'DR1', 'validation': 'DR4', 'test': 'DR7'}
# One training speaker, and one of the real lists each; a test speaker who is on
# neither of them, last.
SPEAKERS = {
  'train': ('FCJF0', 'MABC1'),
  'validation': ('FAKS0', 'MRJM4'),
  'test': ('MDAB0', 'FELC0'),
  'unused': ('MZZZ0',),
}


def sphere(samples_n, **fields):
  """Returns a NIST SPHERE file of 16-bit samples, the low byte first."""
  header = {
    'database_id -s5': 'TIMIT',
    'channel_count -i': 1,
    'sample_count -i': len(samples_n),
    'sample_rate -i': 16_000,
    'sample_min -i': int(samples_n.min(initial=0)),
    'sample_max -i': int(samples_n.max(initial=0)),
    'sample_n_bytes -i': 2,
    'sample_byte_format -s2': '01',
    'sample_sig_bits -i': 16,
  }
  header.update({name.replace('__', ' -'): v for name, v in fields.items()})
  lines = ['NIST_1A', '   1024'] + [f'{k} {v}' for k, v in header.items()]
  text = '\n'.join([*lines, 'end_head', ''])
  return text.encode().ljust(1024) + samples_n.astype('<i2').tobytes()


@pytest.fixture(scope='module')
def speech():
  """Fourteen utterances of synthetic speech, with phones and their times."""
  spec = synthesis.Spec(num_utterances=100, seed=5, words=(4, 5))
  return list(itertools.islice(synthesis.synthesise(spec, 'test'), 14))


@pytest.fixture(params=['upper', 'lower'])
def case(request):
  """Changes names to upper or lower case, as copies of TIMIT have them."""
  return str.upper if request.param == 'upper' else str.lower


def lay_out(root, speech, case=str.upper):
  """Writes two utterances and one SA sentence of every speaker.

  Returns:
    {split: {id: utterance of `speech`}} and {id: path without the ending}.
  """
  written, paths = {split: {} for split in SPEAKERS}, {}
  utterances = itertools.cycle(speech)
  for split, speakers in SPEAKERS.items():
    part = case('train' if split == 'train' else 'test')
    dialect = case(_DIALECTS.get(split, 'dr8'))
    for speaker in speakers:
      folder = root / part / dialect / case(speaker)
      folder.mkdir(parents=True)
      for sentence in ('SI1027', 'SX37', 'SA1'):
        utterance = next(utterances)
        stem = folder / case(sentence)
        write(stem, utterance, case)
        if sentence != 'SA1':
          name = f'{speaker}_{sentence}'.lower()
          written[split][name] = utterance
          paths[name] = stem
  return written, paths


def write(stem, utterance, case=str.upper):
  def put(ending, text):
    stem.with_suffix(case(ending)).write_text(text)

  rows = [
    f'{first} {last} {phone}\n'
    for (first, last), phone in zip(utterance.bounds, utterance.phones)
  ]
  put('.phn', ''.join(rows))
  put('.txt', f'0 {len(utterance.audio_t)} {utterance.text} \n')
  put('.wrd', f'0 {len(utterance.audio_t)} word\n')
  stem.with_suffix(case('.wav')).write_bytes(sphere(utterance.audio_t))


def prepared(root, data_dir):
  builder = timit.builder(root, data_dir=data_dir, partial=True)
  corpus.prepare(builder)
  return builder


def test_round_trip(tmp_path, speech, case):
  written, _ = lay_out(tmp_path / 'TIMIT', speech, case)
  assert written['test'] and written['unused']
  builder = prepared(tmp_path, tmp_path / 'tfds')
  for split in ('train', 'validation', 'test'):
    examples = {
      e['id'].decode(): e for e in builder.as_data_source(split=split)
    }
    assert sorted(examples) == sorted(written[split])
    for name, utterance in written[split].items():
      example = examples[name]
      np.testing.assert_array_equal(example['audio'], utterance.audio_t)
      np.testing.assert_array_equal(example['token_samples'], utterance.bounds)
      tokens = tuple(token.decode() for token in example['tokens'])
      assert tokens == utterance.phones and len(tokens) > 5
      assert example['text'].decode() == utterance.text
      assert example['speaker'].decode() == name.split('_')[0]
  metadata = builder.info.metadata
  assert tuple(metadata['alphabet']) == phones.PHONES_61
  assert metadata['train_map'] == phones.FOLD_61_TO_48
  assert metadata['score_map'] == phones.FOLD_48_TO_39
  assert metadata['name'] == 'timit'
  assert not {'tensorflow', 'torch'} & set(sys.modules)


def test_both_cases_have_one_fingerprint(tmp_path, speech):
  prints = []
  for case in (str.upper, str.lower):
    root = tmp_path / case('timit')
    lay_out(root, speech, case)
    builder = prepared(root, tmp_path / 'tfds')
    prints.append(builder.info.metadata['fingerprint'])
  assert prints[0] == prints[1]
  path = root / 'train' / 'dr1' / 'fcjf0' / 'si1027.phn'
  path.write_text(path.read_text().replace(' h#', ' pau', 1))
  again = prepared(root, tmp_path / 'tfds')
  assert again.data_dir != builder.data_dir
  assert again.info.metadata['fingerprint'] != prints[0]


@pytest.mark.parametrize(
  'ending', ['.RIFF.WAV', '.WAV.wav', '.riff.wav', '.wav', '.wav.WAV']
)
def test_a_converted_copy_is_read_instead(tmp_path, speech, ending):
  _, paths = lay_out(tmp_path / 'corpus', speech)
  stem = paths['faks0_si1027']
  copy = speech[0].audio_t[::-1]  # something else, to see which one is read
  soundfile.write(f'{stem}{ending}', copy, 16_000, format='WAV')
  builder = prepared(tmp_path / 'corpus', tmp_path / 'tfds')
  assert builder.info.splits['validation'].num_examples == 4
  np.testing.assert_array_equal(
    corpus.audio(builder, 'validation', 'faks0_si1027'), copy
  )


def test_only_converted_copies(tmp_path, speech):
  written, paths = lay_out(tmp_path / 'corpus', speech)
  for name, stem in paths.items():
    wav = stem.with_suffix('.WAV')
    if wav.exists() and 'mzzz0' not in name:
      samples = soundfile.read(wav, dtype='int16')[0]
      wav.unlink()
      soundfile.write(f'{stem}.RIFF.WAV', samples, 16_000, format='WAV')
  builder = prepared(tmp_path / 'corpus', tmp_path / 'tfds')
  for name, utterance in written['test'].items():
    np.testing.assert_array_equal(
      corpus.audio(builder, 'test', name), utterance.audio_t
    )


def test_big_endian_and_no_sentence_files(tmp_path, speech):
  written, paths = lay_out(tmp_path / 'corpus', speech)
  stem = paths['mdab0_sx37']
  utterance = written['test']['mdab0_sx37']
  swapped = sphere(utterance.audio_t.byteswap(), sample_byte_format__s2='10')
  stem.with_suffix('.WAV').write_bytes(swapped)
  stem.with_suffix('.TXT').unlink()
  splits, problems = timit.find(tmp_path / 'corpus')
  assert not problems
  (found,) = [u for u in splits['test'] if u.id == 'mdab0_sx37']
  assert found.text == 'word'
  stem.with_suffix('.WRD').unlink()
  splits, _ = timit.find(tmp_path / 'corpus')
  (found,) = [u for u in splits['test'] if u.id == 'mdab0_sx37']
  assert found.text == ''
  builder = prepared(tmp_path / 'corpus', tmp_path / 'tfds')
  np.testing.assert_array_equal(
    corpus.audio(builder, 'test', 'mdab0_sx37'), utterance.audio_t
  )


def _replace(ending, data):
  return lambda stem: stem.with_suffix(ending).write_bytes(data)


def _sphere(samples=80_000, cut=None, **fields):
  return _replace('.WAV', sphere(np.ones(samples, np.int16), **fields)[:cut])


FAULTS = {
  'empty_audio': (_replace('.WAV', b''), 'no byte'),
  'shorten': (
    _sphere(cut=9000, sample_coding__s26='pcm,embedded-shorten-v2.00'),
    'sph2pipe -f rif',
  ),
  'truncated_audio': (_sphere(cut=9000), 'before its header says'),
  'truncated_audio by phones': (_sphere(900), 'phones up'),
  'unsupported_rate': (_sphere(sample_rate__i=8000), '8000 samples a second'),
  'stereo': (_sphere(channel_count__i=2), '2 channels'),
  'missing_file': (lambda s: s.with_suffix('.PHN').unlink(), 'no PHN'),
  'missing_file, audio': (lambda s: s.with_suffix('.WAV').unlink(), 'no WAV'),
  'unknown_phone': (_replace('.PHN', b'0 9 h#\n9 20 zz\n'), "'zz'"),
  'bad_field': (_replace('.PHN', b'0 9 h#\n9 t\n'), "'9 t'"),
  'bad_field, order': (_replace('.PHN', b'0 9 h#\n9 8 t\n'), '9 to 8'),
  'empty_transcript': (_replace('.PHN', b'\n'), 'no phone'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_faults_are_reported_with_their_file(tmp_path, speech, name):
  _, paths = lay_out(tmp_path / 'corpus.v1', speech)
  edit, words = FAULTS[name]
  stem = paths['felc0_si1027']
  edit(stem)
  builder = timit.builder(
    tmp_path / 'corpus.v1', data_dir=tmp_path / 'tfds', partial=True
  )
  with pytest.raises(timit.TimitError, match='^1 problem: ') as error:
    corpus.prepare(builder)
  (problem,) = error.value.problems
  assert problem.rule == name.split(',')[0].split(' ')[0]
  assert problem.path.startswith(f'{stem}.')
  assert words in str(problem)
  assert str(problem) in str(error.value)
  of_a_line = problem.rule in ('unknown_phone', 'bad_field')
  assert problem.line == (2 if of_a_line else 0)


def test_all_faults_in_one_pass(tmp_path, speech):
  _, paths = lay_out(tmp_path / 'corpus', speech)
  for stem in paths.values():
    stem.with_suffix('.WAV').write_bytes(b'')  # a conversion in place gone bad
  builder = timit.builder(
    tmp_path / 'corpus', data_dir=tmp_path / 'tfds', partial=True
  )
  with pytest.raises(timit.TimitError, match='12 problems: 12 empty_audio'):
    corpus.prepare(builder)


def test_two_copies_are_not_read_twice(tmp_path, speech):
  lay_out(tmp_path / 'one', speech)
  lay_out(tmp_path / 'two', speech, str.lower)
  _, problems = timit.find(tmp_path)
  assert len(problems) == 12
  assert {p.rule for p in problems} == {'duplicate_id'}
  assert all(str(tmp_path / 'two') in p.message for p in problems)
  splits, problems = timit.find(tmp_path / 'two')
  assert not problems and sum(map(len, splits.values())) == 12


def test_no_directory_and_no_match(tmp_path):
  for partial in (True, False):
    with pytest.raises(timit.TimitError, match='no directory .*nowhere'):
      timit.builder(tmp_path / 'nowhere', data_dir=tmp_path, partial=partial)
    with pytest.raises(timit.TimitError, match='TRAIN|TEST/DR1..8'):
      timit.builder(tmp_path, data_dir=tmp_path, partial=partial)


def test_a_part_needs_every_split(tmp_path, speech):
  lay_out(tmp_path / 'corpus', speech)
  builder = timit.builder(
    tmp_path / 'corpus' / 'TRAIN', data_dir=tmp_path / 'tfds', partial=True
  )
  with pytest.raises(timit.TimitError, match='no .* for validation, test'):
    corpus.prepare(builder)


def test_a_part_is_not_taken_for_the_whole(tmp_path, speech):
  lay_out(tmp_path / 'corpus', speech)
  builder = timit.builder(tmp_path / 'corpus', data_dir=tmp_path / 'tfds')
  with pytest.raises(timit.TimitError) as error:
    corpus.prepare(builder)
  text = str(error.value)
  for line in (
    'train utterances: 4 of 3696',
    'train speakers: 2 of 462',
    'validation utterances: 4 of 400',
    'validation speakers: 2 of 50',
    'test utterances: 4 of 192',
    'test speakers: 2 of 24',
    'partial=True',
  ):
    assert line in text
  assert 'of 15057' in text and 'of 7215' in text


def whole_corpus(spare=0):
  """Makes utterances with the numbers of the real corpus."""
  people = {
    'train': [
      f'm{a}{b}{c}9' for a, b, c in itertools.product('abcdefgh', repeat=3)
    ][:462],
    'validation': timit.VALIDATION_SPEAKERS,
    'test': timit.TEST_SPEAKERS,
  }
  scored = {'train': 8 * 462 * 3, 'validation': 15_057 + spare, 'test': 7_215}
  splits = {}
  for split, speakers in people.items():
    names = [f'{s}_sx{i}' for s in speakers for i in range(8)]
    shares = np.full(len(names), scored[split] // len(names))
    shares[: scored[split] % len(names)] += 1
    splits[split] = [
      timit.Utterance(name, name[:5], None, '', ('q', *['aa'] * count, 'q'), ())
      for name, count in zip(names, shares)
    ]
  return splits


def test_counts():
  assert timit.count_report(whole_corpus()) == ''
  report = timit.count_report(whole_corpus(spare=-1))
  assert 'validation phones: 15056 of 15057  <-- differs' in report
  assert report.count('differs') == 1
  splits = whole_corpus()
  splits['train'].pop()
  report = timit.count_report(splits)
  assert 'train utterances: 3695 of 3696  <-- differs' in report
  assert report.count('differs') == 1


def test_what_has_the_counts_is_the_whole(tmp_path, speech, monkeypatch):
  lay_out(tmp_path / 'corpus', speech)
  splits, _ = timit.find(tmp_path / 'corpus')
  monkeypatch.setattr(timit, 'COUNTS', timit.counts(splits))
  builder = timit.builder(tmp_path / 'corpus', data_dir=tmp_path / 'tfds')
  corpus.prepare(builder)
  assert builder.builder_config.name.startswith('whole-')
  # Another directory of that data_dir is not answered with this one's speech.
  lay_out(tmp_path / 'other', speech[:-1])
  other = timit.builder(tmp_path / 'other', data_dir=tmp_path / 'tfds')
  with pytest.raises(timit.TimitError, match='want|found|count'):
    corpus.prepare(other)
  phones_61 = [p for u in splits['test'] for p in u.phones]
  scored = phones.fold(
    phones.fold(phones_61, phones.FOLD_61_TO_48), phones.FOLD_48_TO_39
  )
  assert timit.COUNTS['test']['phones'] == len(scored)


def test_speaker_lists():
  validation, test = timit.VALIDATION_SPEAKERS, timit.TEST_SPEAKERS
  assert (len(set(validation)), len(set(test))) == (50, 24)
  assert not set(validation) & set(test)
  # As in TIMIT, a third of the core test set are women: one a dialect region.
  assert sum(s[0] == 'f' for s in test) == 8
