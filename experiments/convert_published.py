"""Writes the released NAS-Bench-ASR files into a benchmark table.

  python experiments/convert_published.py --folder=nb-asr \\
    --convention=paper --out=results/released

The folder has the files as they were released: nb-asr-e40-1234.pickle and so
on, nb-asr-info.pickle, nb-asr-bench-DEVICE.pickle; what is there is taken.
No code in them is run. `--convention` says what skip digits mean and whether
d2 operations were dilated: see nasjax/published/converting.py.

The released files can no longer be had everywhere, and none was at hand here.
Eight files of their form and size (8,242 cells, drawn values): 29 s of CPU time
if their numbers are NumPy's, 17 s if Python's; the table has 4 MB.
"""

import pathlib
import re

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('folder', None, 'Where the released files are.')
flags.DEFINE_enum(
  'convention',
  None,
  ['paper', 'tensorflow'],
  'paper: skip digit 1 means present, d2 is dilated; tensorflow: 0 means '
  'present, and nothing is dilated.',
)
flags.DEFINE_string('out', None, 'Where the table goes.')
flags.DEFINE_multi_string(
  'passes',
  [],
  'DEVICE:BATCH:FRAMES of released latencies, which their files do not tell; '
  'the latencies of this device are then written, too. May be repeated.',
)
for name in ('folder', 'convention', 'out'):
  flags.mark_flag_as_required(name)


def passes():
  """Returns what --passes says, by device."""
  found = {}
  for text in FLAGS.passes:
    match = re.fullmatch(r'([a-zA-Z0-9-]+):([0-9]+):([0-9]+)', text)
    if not match or match[1] in found:
      raise ValueError(
        f'--passes={text}: want DEVICE:BATCH:FRAMES, each device once'
      )
    found[match[1]] = int(match[2]), int(match[3])
  return found


def show(done):
  """Prints what was converted, and what is not there or not certain."""
  rule = done.convention
  print(f'{done.rows} trainings in {done.path}: {", ".join(done.shards)}')
  print(
    f'convention {rule.name}: skip digit {rule.present} means present, the '
    f'dilation of d2 operations was {rule.dilation}; macro {rule.macro}'
  )
  print('not released, hence NaN: losses, learning rates, seconds')
  if done.counted:
    print(f'{done.counted} cells: no static information, params by formula')
  if done.deviating:
    print(f'{done.deviating} cells: released params differ from the formula')
  written = {name.removeprefix('latency-nb-asr-') for name in done.shards}
  for found in done.latencies:
    if found.device not in written:
      print(f'latencies of {found.device} not written; give --passes')
  if done.absent:
    print(f'{len(done.absent)} released hashes have no training, the first:')
    for released in done.absent[:5]:
      print(f'  {released}')


def run():
  """Converts, and says what it did."""
  told = passes()
  folder = pathlib.Path(FLAGS.folder).expanduser()
  if not folder.exists():
    raise ValueError(f'--folder={FLAGS.folder} does not exist')
  from nasjax import published

  out = command.directory('out')
  with command.exclusive(out):
    done = published.convert(
      folder, out / 'table', convention=FLAGS.convention, passes=told
    )
  show(done)


if __name__ == '__main__':
  command.run(run)
