"""Tests of nasjax/data/checks.py: every rule, and all of them at once."""

import json
import shutil
import subprocess
import sys

import manifests
import numpy as np
import pytest
import soundfile
from manifests import found, noise, write

from nasjax.data import checks, corpus, manifest


@pytest.fixture
def rows(tmp_path):
  return manifests.good_rows(tmp_path)


def test_a_good_manifest_has_no_problem(tmp_path, rows):
  path = write(tmp_path, rows)
  assert manifest.check(path) == []
  assert manifest.check(path, targets='characters') == []


# What is done to line 4 (u3.flac, speaker s1), and the rule that this breaks.


def _edit(**fields):
  def edit(folder, row):
    del folder
    row.update(fields)

  return edit


def _without(name):
  def edit(folder, row):
    del folder, row[name]

  return edit


def _audio(samples, rate=16_000, subtype=None, name='audio/new.wav'):
  def edit(folder, row):
    soundfile.write(folder / name, samples, rate, subtype=subtype)
    row.update(audio_filepath=name, duration=len(samples) / rate)

  return edit


def _cut(name, fraction):
  def edit(folder, row):
    soundfile.write(folder / name, noise(), 16_000)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(fraction * len(data))])
    row.update(audio_filepath=name)

  return edit


def _bytes(data):
  def edit(folder, row):
    (folder / 'audio' / 'raw.wav').write_bytes(data)
    row.update(audio_filepath='audio/raw.wav')

  return edit


def _float(value):
  samples = noise().astype(np.float32) / 32768
  samples[77] = value
  return _audio(samples, subtype='FLOAT')


BREAKS = {
  'missing_file': _edit(audio_filepath='audio/nothing.wav'),
  'missing_file: a folder': _edit(audio_filepath='audio'),
  'missing_file: no such user': _edit(audio_filepath='~nobody-here/a.wav'),
  'missing_file: too long': _edit(audio_filepath='a' * 300),
  'empty_audio: no byte': _bytes(b''),
  'empty_audio: no sample': _audio(noise(0.0)),
  'unreadable_audio': _bytes(b'RIFF is not enough'),
  'shorten': _bytes(
    b'NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n'
    + b' ' * 2_000
  ),
  'truncated_audio: wav': _cut('audio/cut.wav', 0.6),
  'truncated_audio: wav, a little': _cut('audio/cut.wav', 0.999),
  'truncated_audio: flac': _cut('audio/cut.flac', 0.6),
  'truncated_audio: declared': _edit(duration=1.2),
  'truncated_audio: offset': _edit(offset=0.5, duration=0.8),
  'duration_mismatch': _edit(duration=0.7),
  'unsupported_rate': _audio(noise(rate=4_000), 4_000),
  'stereo': _audio(np.stack([noise(), noise()], axis=1)),
  'nan_samples: nan': _float(np.nan),
  'nan_samples: infinite': _float(-np.inf),
  'out_of_range': _float(1.5),
  'empty_transcript: phones': _edit(phones=[]),
  'empty_transcript: text': _edit(text='  '),
  'unknown_phone: null': _edit(phones=None),
  'missing_field: phones': _without('phones'),
  'missing_field: audio_filepath': _without('audio_filepath'),
  'missing_field: duration': _without('duration'),
  'missing_field: split': _without('split'),
  'bad_field: phones': _edit(phones=['G', 3]),
  'bad_field: duration': _edit(duration='1.0'),
  'bad_field: nan duration': _edit(duration=float('nan')),
  'duration_mismatch: zero': _edit(duration=0),
  'bad_field: offset': _edit(offset=-1.0),
  'bad_field: past the end': _edit(offset=7.5, duration=0.5),
  'bad_field: a stretch of nothing': _edit(offset=0.5, duration=0),
  'bad_field: half a character': _edit(id='\ud800'),
  'bad_field: half a character in a phone': _edit(phones=['\ud800']),
  'bad_field: a blank in a phone': _edit(phones=['G OW']),
  'bad_field: speaker': _edit(speaker=['s1']),
  'bad_field: text': _edit(text=3.5),
  'unknown_split': _edit(split='evaluation'),
  'shared_speaker': _edit(speaker='s4'),
  'ctc_infeasible': _edit(phones=['G', 'OW'] * 13),
  'ctc_infeasible: repeats': _edit(phones=['G'] * 14),
  'ctc_infeasible: no frame': _audio(noise()[:399]),
}


@pytest.mark.parametrize('name', BREAKS)
def test_every_rule(tmp_path, rows, name):
  rule = name.partition(':')[0]
  BREAKS[name](tmp_path, rows[3])
  problems = manifest.check(write(tmp_path, rows))
  # A speaker in two splits shows where the second split begins.
  line = 9 if rule == 'shared_speaker' else 4
  assert found(problems) == [(line, rule)]
  (problem,) = problems
  assert problem.path == str(tmp_path / 'manifest.jsonl')
  assert problem.remedy == checks.REMEDIES[rule]
  assert f'manifest.jsonl:{line}: {rule}: ' in str(problem)


def test_every_rule_is_tested_here():
  tested = {name.partition(':')[0] for name in BREAKS}
  apart = {
    'malformed_json',
    'duplicate_id',
    'duplicate_audio',
    'empty_split',
    'unknown_word',  # of layouts, which have lexicons
    *checks.LENGTHS,
    # Of words and sub-words (test_word_pieces.py), and of another layout
    # (test_librispeech.py).
    *('digits', 'small_vocabulary', 'missing_transcript', 'malformed_line'),
    *('wrong_id', 'misplaced_file', 'wrong_subset'),
  }
  assert tested | apart == set(checks.REMEDIES)


def test_the_longest_feasible_transcript_passes(tmp_path, rows):
  # 16,000 samples: 98 frames, 49, 25 time steps.
  assert checks.ctc_frames(16_000) == 25
  rows[3]['phones'] = ['G'] * 13
  rows[5]['phones'] = ['G', 'OW'] * 12 + ['G']
  assert manifest.check(write(tmp_path, rows)) == []


@pytest.mark.parametrize('line', ['{"audio', '[1]', '3', '"x"', '\x00'])
def test_malformed_lines(tmp_path, rows, line):
  path = write(tmp_path, rows)
  path.write_text(path.read_text() + '\n' + line + '\n')
  problems = manifest.check(path)
  assert found(problems) == [(14, 'malformed_json')]  # 13 is blank: no matter


def test_bytes_that_are_no_utf8(tmp_path, rows):
  path = write(tmp_path, rows)
  path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
  assert found(manifest.check(path)) == [(13, 'malformed_json')]


def test_duplicate_ids_and_defaults(tmp_path, rows):
  (tmp_path / 'more').mkdir()
  shutil.copy(tmp_path / 'audio/u5.flac', tmp_path / 'more/u3.flac')
  rows[5]['audio_filepath'] = 'more/u3.flac'  # the same stem, no id: allowed
  rows[0]['id'] = rows[7]['id'] = 17
  rows[1]['id'] = 'u8'  # the stem of line 9
  path = write(tmp_path, rows)
  assert found(manifest.check(path)) == [(8, 'duplicate_id')]
  utterances, _ = checks.parse(path, 'phones')
  ids = [u.id for u in utterances]
  assert ids == (
    ['17', 'u8', 'u2', 'u3-4', 'u4', 'u3-6', 'u6', '17']
    + ['u8-9', 'u9', 'u10', 'u11']
  )


def test_equal_recordings_are_found_whatever_they_are_called(tmp_path, rows):
  shutil.copy(tmp_path / 'audio/u3.flac', tmp_path / 'copy.flac')
  (tmp_path / 'link.flac').symlink_to(tmp_path / 'audio/u3.flac')
  rows[5]['audio_filepath'] = 'copy.flac'
  rows[6]['audio_filepath'] = 'link.flac'
  rows[7]['audio_filepath'] = 'audio/../audio/u3.flac'
  problems = manifest.check(write(tmp_path, rows))
  assert found(problems) == [(n, 'duplicate_audio') for n in (6, 7, 8)]
  assert 'has the samples of' in problems[0].message


def test_equal_samples_are_found_in_more_bits(tmp_path, rows):
  soundfile.write(tmp_path / 'x.flac', noise(seed=0) / 32768, 16_000, 'PCM_24')
  rows[11]['audio_filepath'] = 'x.flac'
  (problem,) = manifest.check(write(tmp_path, rows))
  assert (problem.line, problem.rule) == (12, 'duplicate_audio')
  assert 'line 1, train; this one is test' in problem.message


def test_people_and_ids_have_one_name(tmp_path, rows):
  rows[0]['speaker'] = rows[1]['speaker'] = 'Jos\u00e9'
  rows[11]['speaker'] = ' Jose\u0301'
  rows[2]['id'], rows[3]['id'] = '\u00e9', 'e\u0301 '
  rows[4]['split'] = ' Train '
  problems = manifest.check(write(tmp_path, rows))
  assert found(problems) == [(4, 'duplicate_id'), (12, 'shared_speaker')]


def test_ids_that_are_made_up_are_free(tmp_path, rows):
  (tmp_path / 'more').mkdir()
  shutil.copy(tmp_path / 'audio/u5.flac', tmp_path / 'more/u3.flac')
  rows[5]['audio_filepath'] = 'more/u3.flac'
  rows[0]['id'] = 'u3-6'  # what line 6 would be called
  utterances, problems = checks.parse(write(tmp_path, rows), 'phones')
  assert not problems and len({u.id for u in utterances}) == len(rows)


def test_one_manifest_a_split(tmp_path, rows):
  paths = []
  for name in ('train', 'validation', 'test'):
    own = [dict(r) for r in rows if checks.SPLITS[r['split']] == name]
    for row in own:
      del row['split']
    paths.append(tmp_path / f'my_{name[:5]}.json')
    paths[-1].write_text(''.join(json.dumps(row) + '\n' for row in own))
  paths[1] = paths[1].rename(tmp_path / 'my_dev.json')
  whole = manifest.examine(write(tmp_path, rows), manifest.Options())
  found_ = manifest.examine(paths, manifest.Options())
  assert not found_.problems
  assert manifest.fingerprint(found_) == manifest.fingerprint(whole)
  # Faults name the file, and lines as they are counted there.
  lines = paths[2].read_text().splitlines()
  first = json.loads(paths[0].read_text().splitlines()[1])
  lines.append(json.dumps(first | {'id': 'again'}))
  paths[2].write_text('\n'.join(lines))
  (problem, *_) = [
    p for p in manifest.check(paths) if p.rule == 'duplicate_audio'
  ]
  assert (problem.path, problem.line) == (str(paths[2]), len(lines))
  assert 'line 2 of my_train.json' in problem.message
  missing = manifest.check([*paths[:2], tmp_path / 'no.json'])
  assert found(missing) == [(0, 'missing_file')]


def test_files_without_a_split_are_not_divided_anew(tmp_path, rows):
  for row in rows:
    del row['split']
  paths = [
    write(tmp_path, some, name)
    for name, some in (('train.json', rows[:8]), ('cv.json', rows[8:]))
  ]
  (problem, *rest) = manifest.check(paths)
  assert (problem.path, problem.line) == (str(paths[1]), 0)
  assert 'neither on its lines nor in its name' in problem.message and not rest
  with pytest.raises(ValueError, match='given twice'):
    manifest.check([paths[0], tmp_path / 'audio' / '..' / 'train.json'])


def test_what_holds_for_a_whole_file_is_told_once(tmp_path, rows):
  path = write(tmp_path, rows)
  path.write_text(path.read_text(), 'utf-16')
  (problem,) = manifest.check(path)
  assert problem.rule == 'malformed_json' and 'none of its' in problem.message
  path.write_text(json.dumps(rows, indent=1))
  assert found(manifest.check(path)) == [(1, 'malformed_json')]
  for row in rows:
    row['phones'] = None
  (problem,) = manifest.check(write(tmp_path, rows))
  assert '--targets=characters' in problem.message
  for row in rows:
    del row['text']
  (problem,) = manifest.check(write(tmp_path, rows), targets='characters')
  assert 'no text on any of its 12 lines' in problem.message


def test_what_becomes_of_recordings_is_noted(tmp_path, rows):
  x = noise(rate=8_000) / 32768
  x[5] = 1.01
  soundfile.write(tmp_path / 'x.wav', x, 8_000, subtype='FLOAT')
  rows[9]['audio_filepath'] = 'x.wav'
  (tmp_path / 'phones.txt').write_text('G\nOW\nAO\nN\nZH\n')
  path = write(tmp_path, rows)
  options = manifest.Options(alphabet_path=str(tmp_path / 'phones.txt'))
  notes = manifest.examine(path, options).notes
  assert [note.partition(':')[0] for note in notes] == [
    'clipped in validation',
    'resampled in validation',
    '1 of 5 symbols of the alphabet occur in no training utterance',
  ]
  assert '1 samples beyond full scale, of 1 of 2' in notes[0]
  assert manifest.examine(path, manifest.Options()).notes == notes[:2]


def test_a_loud_recording_is_scaled_by_its_remedy(tmp_path, rows):
  _float(1.5)(tmp_path, rows[3])
  path = write(tmp_path, rows)
  (problem,) = manifest.check(path)
  words = problem.remedy.partition('python -c ')[2].strip('"')
  good = str(tmp_path / 'good.wav')
  words = words.replace('BAD', str(tmp_path / 'audio/new.wav'))
  words = words.replace('GOOD.wav', good)
  subprocess.run([sys.executable, '-c', words], check=True)
  rows[3]['audio_filepath'] = good
  assert manifest.check(write(tmp_path, rows)) == []
  assert np.abs(soundfile.read(good)[0]).max() > 0.99


def test_lengths_and_what_was_left_out(tmp_path, rows):
  rows[3] |= {'offset': 0.0, 'duration': 0.3}
  rows[4]['duration'] = 0.2  # a wrong duration as well
  path = write(tmp_path, rows)
  options = manifest.Options(
    min_seconds=0.25, max_seconds=5, drop=('duration_mismatch',)
  )
  found_ = manifest.examine(path, options)
  assert not found_.problems
  assert {(p['rule'], p['utterances']) for p in found_.left_out} == {
    ('duration_mismatch', 1)
  }
  options = manifest.Options(min_seconds=0.35)
  found_ = manifest.examine(path, options)
  assert sum(p['utterances'] for p in found_.left_out) == 2
  assert found_.left_out[0]['minutes'] > 0
  with pytest.raises(ValueError, match='leaves nothing above'):
    manifest.Options(min_seconds=2, max_seconds=1)


def test_both_sides_of_a_telephone_call(tmp_path, rows):
  both = np.stack([noise()[::-1], noise() // 2], 1)
  soundfile.write(tmp_path / 'call.wav', both, 16_000)
  rows[3] |= {'audio_filepath': 'call.wav', 'channel': 0, 'id': 'a'}
  rows[4] |= {'audio_filepath': 'call.wav', 'channel': 'B', 'id': 'b'}
  assert manifest.check(write(tmp_path, rows)) == []
  rows[3]['channel'], rows[4]['channel'] = 1, 'left'
  (problem,) = manifest.check(write(tmp_path, rows))
  assert problem.rule == 'bad_field' and "'left'" in problem.message


def test_names_and_phones_in_either_form_of_unicode(tmp_path, rows):
  shutil.move(tmp_path / 'audio/u3.flac', tmp_path / 'u\u0308.flac')
  rows[3]['audio_filepath'] = '\u00fc.flac'
  rows[3]['phones'] = ['G', ' e\u0301 ']
  rows[4]['phones'] = ['G', '\u00e9']
  utterances, problems = checks.parse(write(tmp_path, rows), 'phones')
  assert not problems and utterances[3].audio.exists()
  assert utterances[3].tokens == utterances[4].tokens == ('G', '\u00e9')
  # Every part of a path, and every letter, in a form of its own.
  (tmp_path / 'e\u0301').mkdir()
  shutil.move(tmp_path / 'u\u0308.flac', tmp_path / 'e\u0301' / 'u\u0308\u00fc')
  rows[3]['audio_filepath'] = '\u00e9/\u00fcu\u0308'
  rows[3]['phones'] = ['G', '\ufeff\u00e9\u200b']
  assert manifest.check(write(tmp_path, rows)) == []


def test_manifests_of_others(tmp_path, rows, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for row in rows:
    row['audio_filename'] = '~/' + row.pop('audio_filepath')
    row['duration'] = round(row['duration'] + 0.05, 2)
    del row['phones']
    row['text'] = 'go on'
  problems = manifest.check(write(tmp_path, rows))
  assert found(problems)[0] == (0, 'missing_field')
  assert '--targets=characters' in problems[0].message
  assert {p.rule for p in problems[1:]} <= {'empty_split'}
  path = write(tmp_path, rows)
  assert manifest.check(path, targets='characters') == []
  strict = manifest.check(path, targets='characters', duration_tolerance=0.01)
  assert {p.rule for p in strict} == {'truncated_audio'}


def test_empty_splits(tmp_path, rows):
  for row in rows:
    row['split'] = 'test'
  problems = manifest.check(write(tmp_path, rows))
  assert found(problems) == [(0, 'empty_split')] * 2
  assert {p.message for p in problems} == {
    'no utterance for train',
    'no utterance for validation',
  }
  assert found(manifest.check(write(tmp_path, []))) == [(0, 'empty_split')] * 3


def test_everything_is_reported_in_one_pass(tmp_path, rows):
  _edit(audio_filepath='audio/nothing.wav')(tmp_path, rows[0])
  _edit(phones=['G'] * 20, speaker='s5')(tmp_path, rows[2])
  _cut('audio/cut.flac', 0.5)(tmp_path, rows[3])
  _edit(text='', phones=None)(tmp_path, rows[6])
  _float(np.nan)(tmp_path, rows[9])
  path = write(tmp_path, rows)
  path.write_text(path.read_text() + '{\n')
  expected = [
    (1, 'missing_file'),
    (3, 'ctc_infeasible'),
    (4, 'truncated_audio'),
    (7, 'empty_transcript'),
    (7, 'unknown_phone'),
    (10, 'nan_samples'),
    (11, 'shared_speaker'),
    (13, 'malformed_json'),
  ]
  assert sorted(found(manifest.check(path))) == expected
  builder = manifest.builder(path, data_dir=tmp_path / 'tfds')
  with pytest.raises(manifest.ManifestError) as error:
    corpus.prepare(builder)
  assert sorted(found(error.value.problems)) == expected
  text = str(error.value)
  assert text.startswith('8 problems: ')
  assert '1 nan_samples' in text.splitlines()[0]
  for line, rule in expected:
    assert f'{path}:{line}: {rule}: ' in text
  assert not builder.data_path.exists()


def test_the_error_text_is_short():
  problems = [
    checks.problem('m.jsonl', i, 'stereo', 'two channels') for i in range(70)
  ]
  lines = checks.summary(problems).splitlines()
  assert lines[0] == '70 problems: 70 stereo'
  assert len(lines) == 52 and lines[-1] == '... and 20 more'
