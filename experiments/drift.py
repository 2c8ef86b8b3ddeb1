"""Has a device's latency moved away from what the predictor says?

  python experiments/drift.py --profile=results/profile.json --log=device.csv

A log has a line a measurement: CSV with the columns `arch` (the vector as JSON)
and `seconds`, perhaps `device`, or JSON lines of the same names (.jsonl). Its
first --first entries tell level and spread; over the rest a cumulative sum
chart is kept (`nasjax/analysis/drift.py`), whose rate of false alarms is
measured by resampling. Ends with status 0 without drift, 3 with it.
"""

import csv
import json
import math
import pathlib
import sys

from absl import flags
from common import command
from studies import latency_predictors

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'profile', None, 'What latency.py --random_cells --json wrote, of the device.'
)
flags.DEFINE_string('log', None, 'The log, .csv or .jsonl.')
flags.DEFINE_string(
  'predictor', 'operations', 'One of nasjax/predictors/latency.py.'
)
flags.DEFINE_integer(
  'first', 50, 'Entries that are taken to be without drift.', lower_bound=20
)
flags.DEFINE_float(
  'false_alarms',
  0.01,
  'Share of logs as long as this one, without drift, that may be reported.',
  lower_bound=1e-4,
  upper_bound=0.5,
)
flags.DEFINE_string('json', None, 'Where what is printed goes.')


def entries(path):
  """Yields (line, values) of a log; values are texts or what JSON has.

  Raises:
    ValueError: naming the file and the line.
  """
  try:
    text = path.read_text('utf-8-sig')  # spreadsheets write a mark first
  except (OSError, UnicodeDecodeError) as e:
    raise ValueError(f'--log={path}: {e}') from None
  suffix = path.suffix.lower()
  if suffix == '.csv':
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    lacking = {'arch', 'seconds'} - set(rows.fieldnames or ())
    if lacking:
      raise ValueError(
        f'{path}, line 1: no column {" and ".join(sorted(lacking))}; want arch '
        'and seconds'
      )
    try:
      for row in rows:
        yield rows.line_num, row
    except csv.Error as e:
      line = rows.line_num + 1
      raise ValueError(f'{path}, line {line}: {e}; want short cells') from None
    return
  if suffix != '.jsonl':
    raise ValueError(f'--log={path}: want .csv or .jsonl')
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip():
      try:
        row = json.loads(line)
      except ValueError:
        row = None
      if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number}: {line[:60]!r} is no object')
      yield number, row


def read(path, space, device):
  """Returns architectures and seconds of a log.

  Raises:
    ValueError: all that is wrong with it, a line each.
  """
  archs, seconds, faults = [], [], []
  for number, row in entries(path):
    try:
      archs.append(_arch(space, row.get('arch')))
      seconds.append(_seconds(row.get('seconds')))
      named = row.get('device')
      if named not in (None, '', device):
        raise ValueError(
          f'device {named!r}; the profile is of {device!r}: keep a log a device'
        )
    except ValueError as e:
      faults.append(f'{path}, line {number}: {e}')
  if faults:
    rest = len(faults) - 20
    told = '\n'.join(faults[:20]) + (f'\nand {rest} more' * (rest > 0))
    raise ValueError(told)
  return archs, seconds


def _arch(space, value):
  if value in (None, ''):
    raise ValueError('arch is missing; want the vector as JSON')
  try:
    return space.parse(json.loads(value) if isinstance(value, str) else value)
  except json.JSONDecodeError:
    raise ValueError(
      f'arch {value!r} is no JSON; want a vector, in CSV between quotes'
    ) from None
  except ValueError as e:
    raise ValueError(f'unknown arch {value!r}: {e}') from None


def _seconds(value):
  if value in (None, ''):
    raise ValueError('seconds is missing; want a number above 0')
  try:
    seconds = float(value)
  except (TypeError, ValueError):
    seconds = math.nan
  if isinstance(value, bool) or not 0 < seconds < math.inf:
    raise ValueError(f'seconds is {value!r}; want a number above 0')
  return seconds


def run():
  """Reads, predicts, watches; returns whether there is drift."""
  for name in 'profile', 'log':
    if not FLAGS[name].value:
      raise ValueError(f'--{name} is empty; name a file')
    if not pathlib.Path(FLAGS[name].value).is_file():
      raise ValueError(f'--{name}={FLAGS[name].value}: there is no such file')
  import numpy as np

  from nasjax.analysis import drift
  from nasjax.predictors import latency

  profile = latency.read(FLAGS.profile)
  log = pathlib.Path(FLAGS.log)
  archs, seconds = read(log, profile.space, profile.device)
  first = FLAGS.first
  if len(archs) <= first:
    raise ValueError(
      f'{log} has {len(archs)} entries; want more than --first={first}'
    )
  latency_predictors.check('predictor', FLAGS.predictor)
  predicted_n = latency.fit(FLAGS.predictor, profile).predict(archs)
  if not (predicted_n > 0).all():
    raise ValueError(
      f'--predictor={FLAGS.predictor} predicts {predicted_n.min():.3g} s for a '
      'network of the log; give another, or profile more networks'
    )
  ratio_n = np.log(np.array(seconds) / predicted_n)
  chart = drift.chart(ratio_n[:first], len(archs) - first, FLAGS.false_alarms)
  found = drift.drift(ratio_n[first:], chart)
  print(
    f'{log}: {len(archs)} entries of {profile.device}, predicted by '
    f'{FLAGS.predictor}; the first {first}: measured is '
    f'{np.exp(chart.level):.3f} of predicted, spread {chart.spread:.1%}'
  )
  print(
    f'Cumulative sums of log(measured / predicted), threshold '
    f'{chart.threshold:.2f}: false alarms in {chart.false_alarms:.2%} of '
    f'resampled logs of {chart.length} entries without drift'
  )
  moved = found.at is not None
  if moved:
    print(
      f'DRIFT: alarm at entry {first + found.at + 1}, since entry '
      f'{first + found.since + 1} latency is {found.ratio:.3f} of what it was: '
      'profile the device again'
    )
  else:
    print('no drift')
  if FLAGS.json:
    record = {
      'log': str(log),
      'entries': len(archs),
      'device': profile.device,
      'predictor': FLAGS.predictor,
      'test': 'two-sided cumulative sum of log ratios',
      **{name: getattr(chart, name) for name in chart._fields},
      'drift': moved,
      'alarm_entry': first + found.at + 1 if moved else None,
      'since_entry': first + found.since + 1 if moved else None,
      'ratio': found.ratio,
    }
    command.publish_json(FLAGS.json, record, allow_nan=False)
  if moved:
    sys.exit(3)


if __name__ == '__main__':
  command.run(run)
