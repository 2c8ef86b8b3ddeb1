"""Compiles training for accelerators that are not there, and says its costs.

  python experiments/accelerators.py --topology=v5e:2x2 --macro=nb_asr \\
    --json=results/accelerators.json

XLA's compilers for TPUs (pip install libtpu) and for an H100 (--topology=h100;
its packages are named where they are missing) need no accelerator. The program
is that of a run, for two groups of networks that take turns on every device.
Nothing runs: the least time of a step is what the chip's published peaks allow
(`nasjax.programs.chips`), and what the compiler says of memory is what it will
allocate.
"""

import os
import pathlib

from absl import flags
from common import command

from nasjax.models import macros

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'topology', 'v5e:2x2', 'Chips and their arrangement: v5p:2x2x1, h100, ...'
)
flags.DEFINE_list('macro', 'nb_asr', 'Macro networks of NB-ASR.')
flags.DEFINE_list(
  'cells',
  'conv,linear,mixture,mixture_zero',
  'Cells; signatures (or all) for one of each of the 27 signatures.',
)
flags.DEFINE_list('members', '1', 'Networks mapped at a time on a device.')
flags.DEFINE_integer('batch', 32, 'Utterances of a step.', lower_bound=1)
flags.DEFINE_integer('frames', 304, 'Frames of an utterance.', lower_bound=8)
flags.DEFINE_integer(
  'labels', None, 'Labels of an utterance; frames / 8 if not given.', 1
)
flags.DEFINE_enum(
  'precision', 'bfloat16', ['bfloat16', 'float32'], 'Of dense products.'
)
flags.DEFINE_integer(
  'devices',
  None,
  'Chips over which the program is spread; if not given, one of a host, and '
  'all of a slice of several hosts.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'data_devices',
  None,
  'Chips among which each batch is divided; if not given, one, and on a slice '
  'of several hosts two as well, to show their messages.',
  lower_bound=1,
)
flags.DEFINE_bool('checkpoint', True, 'Compute cells again for their gradient.')
flags.DEFINE_string('json', None, 'Where the rows go, kept up to date.')


# Chips of the largest host: more are a slice of several.
_HOST = 8


def _jobs():
  """Returns what the flags ask for, in order."""
  from studies import accelerator_programs as programs

  from nasjax.programs import chips

  cells = []
  for name in FLAGS.cells:
    whole = name in ('signatures', 'all')
    cells += programs.SIGNATURES if whole else [name]
  _check('cells', cells, programs.CELLS | programs.SIGNATURES)
  _check('macro', FLAGS.macro, macros.BY_SPACE['nb_asr'])
  for value in FLAGS.members:
    if not value.isdecimal() or int(value) < 1:
      raise ValueError(f'--members: {value!r} is no number from 1 on')
  all_devices = len(chips.devices(FLAGS.topology))
  devices = FLAGS.devices or (all_devices if all_devices > _HOST else 1)
  shares = [1, 2] if devices > _HOST else [1]
  shares = [FLAGS.data_devices] if FLAGS.data_devices else shares
  if devices % shares[-1]:
    raise ValueError(
      f'--data_devices={shares[-1]} does not divide --devices={devices}; take '
      'a divisor of it'
    )
  return [
    programs.Job(
      FLAGS.topology,
      macro,
      cell,
      int(members),
      FLAGS.batch,
      FLAGS.frames,
      FLAGS.labels or FLAGS.frames // 8,
      FLAGS.precision,
      devices,
      share,
      FLAGS.checkpoint,
    )
    for macro in FLAGS.macro
    for members in FLAGS.members
    for cell in cells
    for share in shares
  ]


def _check(flag, values, known):
  for value in values:
    if value not in known:
      raise ValueError(
        f'--{flag}: {value!r} is none of {", ".join(sorted(known))}'
      )


def run():
  """Compiles one program after another, and shows and keeps their costs."""
  from nasjax.programs import chips

  # JAX reads them when it is imported.
  os.environ.update(chips.environment(FLAGS.topology))
  path = pathlib.Path(FLAGS.json).expanduser() if FLAGS.json else None
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
  jobs = _jobs()
  # More than there are is refused before anything is compiled.
  chips.devices(FLAGS.topology, jobs[0].devices)

  from studies import accelerator_programs as programs
  from summaries import accelerator_report as report


  out = report.console()
  for share in sorted({job.data_devices for job in jobs}):
    padded = report.padding(FLAGS.topology, FLAGS.batch, share)
    if padded:
      out.print(padded, soft_wrap=True)
  rows = []
  for job in jobs:
    rows.append(programs.row(job))
    report.show(out, rows[-1], first=len(rows) == 1)
    if path:
      command.publish_json(path, rows)


if __name__ == '__main__':
  command.run(run)
