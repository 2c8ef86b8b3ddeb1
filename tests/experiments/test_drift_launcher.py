"""drift.py on logs with drift, without, and with faults."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_run as launcher

from nasjax import spaces
from nasjax.models import macros

SPACE = spaces.NB_ASR


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A profile, and logs of the same device."""
  place = tmp_path_factory.mktemp('drift')
  rng = np.random.default_rng(0)
  archs = np.stack([rng.integers(size, size=90) for size in SPACE.sizes], 1)
  seconds = 4e-3 + 1e-3 * archs[:, 0]
  cells = [
    {'arch': SPACE.nested(arch), 'seconds': s}
    for arch, s in zip(archs, seconds)
  ]
  record = {
    'space': 'nb_asr',
    'macro': dataclasses.asdict(macros.TINY),
    'device': 'bench',
    'batch': 1,
    'frames': 200,
    'cells': cells,
  }
  (place / 'profile.json').write_text(json.dumps(record))
  steady = [
    c | {'seconds': c['seconds'] * 1.2 * np.exp(0.05 * rng.normal())}
    for c in cells
  ]
  moved = [
    c | {'seconds': c['seconds'] * (1.3 if n >= 60 else 1)}
    for n, c in enumerate(steady)
  ]
  for name, rows in (('steady', steady), ('moved', moved)):
    lines = [json.dumps(row) for row in rows]
    (place / f'{name}.jsonl').write_text('\n'.join(lines))
  # As spreadsheets write it, and people: with a mark first, and with spaces.
  (place / 'moved.csv').write_text(
    'arch, seconds, device\n'
    + '\n'.join(f'"{row["arch"]}", {row["seconds"]}, bench' for row in moved),
    'utf-8-sig',
  )
  return place


def test_what_has_moved_is_told(place):
  common = f'--profile={place / "profile.json"}', '--first=40'
  status, output, errors = launcher.forked(
    *common, f'--log={place / "steady.jsonl"}', launcher='drift'
  )
  assert status == 0, errors
  assert 'measured is 1.' in output and 'no drift' in output
  found = []
  for name in ('moved.jsonl', 'moved.csv'):
    out = place / f'{name}.json'
    status, output, errors = launcher.forked(
      *common, f'--log={place / name}', f'--json={out}', launcher='drift'
    )
    assert status == 3, errors
    assert 'DRIFT: alarm at entry 6' in output
    assert 'of what it was: profile the device again' in output
    found.append(json.loads(out.read_text()))
  for record in found:
    assert record.pop('log')
  assert found[0] == found[1]
  assert found[0]['drift'] and 61 <= found[0]['alarm_entry'] <= 70
  assert found[0]['ratio'] == pytest.approx(1.3, abs=0.05)
  assert found[0]['false_alarms'] < 0.03


def test_bad_logs_are_lines_with_file_and_line(place, tmp_path):
  arch = json.dumps(SPACE.nested(SPACE.from_index(0)))
  log = tmp_path / 'log.csv'
  log.write_text(
    f'arch,seconds,device\n"{arch}",-1,\n"{arch}",,\n"[9]",0.1,\n,0.1,\n'
    f'"{arch}",0.1,phone\n"{arch}",0.1,bench\n{arch},0.1\n'
  )
  odd = tmp_path / 'log.txt'
  odd.write_text('')
  lines = tmp_path / 'log.jsonl'
  lines.write_text('{"arch"')
  none = tmp_path / 'none.csv'
  none.write_text('arch,time\n')
  long = tmp_path / 'long.CSV'
  long.write_text(f'arch,seconds\n"{"1" * 140_000}",1\n')
  profile = f'--profile={place / "profile.json"}'
  mistakes = {
    (): '--profile is empty',
    (profile, '--log=/nowhere'): '--log=/nowhere: there is no such file',
    (profile, f'--log={odd}'): 'want .csv or .jsonl',
    (profile, f'--log={lines}'): 'log.jsonl, line 1',
    (profile, f'--log={none}'): 'none.csv, line 1: no column seconds',
    (profile, f'--log={long}'): 'long.CSV, line 2: field larger than',
    (
      profile, f'--log={place / "moved.csv"}', '--predictor=trees'
    ): '--predictor=trees: there are operations',
    (
      profile,
      f'--log={place / "moved.csv"}',
      '--first=90',
    ): 'more than --first',
  }
  for (status, _, errors), words in zip(
    launcher.tried(mistakes, 'drift'), mistakes.values()
  ):
    assert status == 1 and words in errors and errors.count('\n') == 1, errors
  status, _, errors = launcher.forked(profile, f'--log={log}', launcher='drift')
  assert status == 1
  told = errors.splitlines()
  assert len(told) == 6
  for line, words in zip(
    told,
    (
      'log.csv, line 2: seconds is', 'log.csv, line 3: seconds is missing',
      "log.csv, line 4: unknown arch '[9]'", 'log.csv, line 5: arch is missing',
      "log.csv, line 6: device 'phone'",
      "log.csv, line 8: arch '[[0' is no JSON; want a vector, in CSV between",
    ),
  ):  # fmt: skip
    assert words in line
