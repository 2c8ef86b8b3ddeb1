"""The launcher that makes manifests, as its users meet it."""

import json
import pathlib

import layout_files
import tiny_run as launcher

from nasjax.data import manifest


def _tried(*tries):
  return launcher.tried(
    tries, 'make_manifest', ('nasjax.data.manifest', 'numpy', 'rich')
  )


def test_a_manifest_appears_whole_or_not_at_all(tmp_path):
  source = layout_files.librispeech(tmp_path)
  words = tmp_path / 'cmudict.dict'
  words.write_text(layout_files.LEXICON)
  few = tmp_path / 'few.dict'
  few.write_text('go G OW1\non AA1 N\n')
  own = (f'--source={source}', '--layout=librispeech')
  places = {n: tmp_path / f'{n}.jsonl' for n in ('good', 'bad', 'left', 'text')}
  record, missing = tmp_path / 'told.json', tmp_path / 'missing.txt'
  good, bad, left, text = _tried(
    [*own, f'--out={places["good"]}', f'--lexicon={words}'],
    [
      *own, f'--out={places["bad"]}', f'--lexicon={few}',
      f'--missing={missing}', f'--json={record}',
    ],
    [
      *own, f'--out={places["left"]}', f'--lexicon={few}',
      '--unknown_words=leave_out',
    ],
    [*own, f'--out={tmp_path}', '--plain_text'],
  )  # fmt: skip
  assert good[0] == 0 and good[2] == '' and 'train: 6 utterances' in good[1]
  assert '7 symbols' in good[1] and 'benchmark.py' in good[1]
  assert manifest.check(places['good']) == []
  assert bad[0] == 1 and not places['bad'].exists()
  assert 'unknown_word' in bad[2] and 'Traceback' not in bad[2]
  assert "2 words that the lexicon lacks: and (9), don't (4)" in bad[2]
  assert missing.read_text() == "and\ndon't\n"
  told = json.loads(record.read_text())
  assert told['manifest'] is None
  assert told['missing_words'] == {'and': 9, "don't": 4}
  assert {p['rule'] for p in told['problems']} >= {'unknown_word'}
  assert left[0] == 0 and 'unknown_word' in left[1]
  assert manifest.check(places['left']) == []
  assert text[0] == 0 and '--targets=characters' in text[1]
  rows = (tmp_path / 'manifest.jsonl').read_text().splitlines()
  assert json.loads(rows[0])['text'].islower()


def test_mistakes_are_one_line(tmp_path):
  source = layout_files.kaldi(tmp_path)
  out, empty = f'--out={tmp_path / "m.jsonl"}', tmp_path / 'empty'
  empty.mkdir()
  tries = {
    '--layout is not given': [out, f'--source={source}'],
    '--source is not given': [out, '--layout=kaldi'],
    '--out is not given': ['--layout=kaldi', f'--source={source}'],
    'is no directory': ['--layout=kaldi', f'--source={source}/x', out],
    'holds no wav.scp': ['--layout=kaldi', f'--source={empty}', out],
    'SUBSET/SPEAKER': ['--layout=librispeech', f'--source={empty}', out],
    'holds no clips/': ['--layout=common_voice', f'--source={empty}', out],
    'there can be no file': [
      *('--layout=kaldi', f'--source={source}'),
      f'--out={source}/train/text/m.jsonl',
    ],
    'give --lexicon': [
      *('--layout=kaldi', f'--source={source}', out),
      '--unknown_words=spell',
    ],
    "drop ['louder']": [
      *('--layout=kaldi', f'--source={source}', out),
      '--drop=louder',
    ],
    'no_lexicon': [
      *('--layout=kaldi', f'--source={source}', out),
      '--lexicon=no_lexicon',
    ],
  }
  for told, (status, _, errors) in zip(
    tries, _tried(*tries.values()), strict=True
  ):
    assert status == 1 and told in errors, errors
    assert errors.startswith('make_manifest.py: ')
    assert errors.count('\n') == 1 or told == 'no_lexicon'
    assert 'Traceback' not in errors
  assert not pathlib.Path(tmp_path / 'm.jsonl').exists()
