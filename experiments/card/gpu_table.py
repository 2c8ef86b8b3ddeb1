"""Stage `table`: the benchmark of the quickstart on the card.

What is not done when time is up is told as far as it came.
"""

import json
import pathlib
import re
import subprocess
import sys
import time

_HERE = pathlib.Path(__file__).parents[1]
_FLAGS = (f'--flagfile={_HERE / "flags" / "quickstart.flags"}',)
# Smaller still: what is rehearsed is the way, not the training.
_REHEARSED = (
  '--synth_utterances=100', '--synth_grammar=digits', '--synth_words=2,4',
  '--synth_rt60=', '--macro=tiny', '--epochs=1', '--ops=linear', '--skips=s00',
  '--batch=8', '--batch_long=8', '--buckets=1', '--curriculum=',
  '--decoder=greedy', '--recipe_name=rehearsed',
)  # fmt: skip
_SPARE = 3  # seconds, to end in order


def table(stage):
  """Runs benchmark.py, and keeps time, best PER and how far it came."""
  out = stage.out / 'table'
  words = [
    sys.executable,
    str(_HERE / 'benchmark.py'),
    *(_REHEARSED if stage.rehearse else _FLAGS),
    f'--out={out}',
    f'--data_dir={stage.out / "corpus"}',
    f'--compilation_cache={stage.out / "cache"}',
  ]
  log, started = stage.out / 'table.log', time.time()
  with log.open('w') as lines:
    process = subprocess.Popen(
      words, cwd=_HERE.parent, stdout=lines, stderr=subprocess.STDOUT
    )
    try:
      status = process.wait(max(1, stage.left - _SPARE))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      status = None
  said = log.read_text().strip()
  found = {
    'command': ' '.join(words[1:]),
    'seconds': time.time() - started,
    'ended': status == 0,
    'progress': re.findall(r'shard \d+/\d+ epoch \d+/\d+', said)[-1:],
  }
  if status == 0:
    stage.publish(found | _result(out))
  else:
    stage.publish(found | {'said': said[-1500:]})
  if status:
    sys.exit(f'benchmark.py ended with status {status}: {said[-300:]}')


def _result(out):
  from nasjax import table as table_lib

  rows = table_lib.open(out).to_arrow().to_pylist()
  best = min(rows, key=lambda row: row['test_per'])
  return {
    'networks': len(rows),
    'best_test_per': best['test_per'],
    'best_arch': best['arch'],
    'epoch_seconds': sum(
      {r['shard']: sum(r['epoch_seconds']) for r in rows}.values()
    ),
    'device': json.loads(rows[0]['versions'])['device'],
  }
