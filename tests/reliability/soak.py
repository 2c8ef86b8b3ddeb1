"""Kills workers at random moments for an hour, and compares their tables.

  nice python tests/reliability/soak.py --seconds=3600 --json=soak.json

One run of tiny networks after another: workers claim its shards, and every few
seconds one of them is killed wherever it stands and another one begun. The
table of each run is held against that of one process that nobody disturbed, and
verified. Every kill is a line; in the end a summary, and status 1 where a table
was not the same or a worker failed.
"""

import argparse
import collections
import functools
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests' / 'support')]


def _arguments():
  parser = argparse.ArgumentParser(
    'soak.py', description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  add = parser.add_argument
  add(
    '--seconds', type=float, default=3600, help='after which nobody is killed'
  )
  add('--runs', type=int, default=200, help='networks of a run, two a shard')
  add('--workers', type=int, default=4)
  add('--every', type=float, default=15, help='seconds from kill to kill')
  add('--seed', type=int, default=20, help='of moments and workers')
  add('--json', type=pathlib.Path, help='where the summary goes')
  own = parser.parse_args()
  if min(own.seconds, own.every) <= 0 or own.runs < 2 or own.workers < 2:
    parser.error('want seconds above 0, at least 2 runs and 2 workers')
  if own.json and not own.json.absolute().parent.is_dir():
    parser.error(f'--json={own.json}: there is no such directory')
  return own


def _apart(function, *arguments):
  """Calls a function in a fork, for its threads must not be in this one.

  Returns:
    whether it came to its end.
  """
  pid = os.fork()
  if pid:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
  try:
    function(*arguments)
    os._exit(0)
  except BaseException as e:
    print(repr(e), file=sys.stderr, flush=True)
    os._exit(1)


def main():
  own = _arguments()
  import tiny_run

  place = pathlib.Path(tempfile.mkdtemp(prefix='nasjax-soak-'))
  # Compiling takes longer than training does.
  os.environ |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': tiny_run.UNOPTIMISED}
  os.environ.setdefault('NASJAX_TEST_CACHE', str(place / 'compiled'))
  summary = soak(own, place)
  text = json.dumps(summary, indent=1)
  print(text)
  if own.json:
    own.json.write_text(f'{text}\n')
  if summary['equal'] < summary['rounds']:
    sys.exit(f'soak.py: a table is not as it should be; it is kept in {place}')
  shutil.rmtree(place)


def soak(own, place):
  """Returns the summary."""
  import claiming_runs

  claiming_runs.settings()
  rng, whole = random.Random(own.seed), place / 'whole'
  if not _apart(claiming_runs.whole, whole, own.runs):
    sys.exit('soak.py: the run that nobody disturbs failed')
  begun = time.monotonic()
  shards = len(claiming_runs.shards(own.runs))
  summary = {'seconds': 0, 'rounds': 0, 'equal': 0, 'shards': 0, 'attempts': 0}
  kills, lost = collections.Counter(), 0
  for number in itertools.count(1):
    out = place / f'run{number}'
    plan = {
      'out': str(out),
      'runs': own.runs,
      'workers': own.workers,
      'every': own.every,
    }
    say = functools.partial(print, f'run {number},', flush=True)
    found = claiming_runs.disturbed(plan, rng, say, begun + own.seconds)
    equal = not any(found['statuses']) and _apart(
      claiming_runs.assert_whole, out, whole
    )
    kills.update(found['kills'])
    lost += len(found['lost'])
    summary['rounds'] += 1
    summary['equal'] += equal
    summary['shards'] += shards
    summary['attempts'] += found['attempts']
    seconds = summary['seconds'] = round(time.monotonic() - begun)
    verdict = 'equal' if equal else f'NOT equal; workers {found["statuses"]}'
    say(
      f'{shards} shards in {found["attempts"]} attempts, '
      f'{len(found["kills"])} kills, {found["seconds"]:.0f} s: table {verdict}'
    )
    if not equal or seconds > own.seconds:
      break
    shutil.rmtree(out)
  counts = dict(kills.most_common())
  more = {'kills': sum(counts.values()), 'kills_by_stage': counts}
  return summary | more | {'left_to_others': lost}


if __name__ == '__main__':
  main()
