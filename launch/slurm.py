"""Trains the shards of a run on Slurm, a long-lived worker a device.

  python launch/slurm.py --workers=64 --partition=gpu --gpus_per_node=1 \\
      --time=24:00:00 --setup='source .venv/bin/activate' --flagfile=mine.flags

One job array, by submitit: each of its tasks takes shards from the plan until
none is left, and is queued again when it is pre-empted, its node fails or its
time is over. Flags that are not its own go to experiments/benchmark.py. --out
and --data_dir must be seen by all nodes under the same path; OUT/slurm has the
logs. --cluster=local runs the workers here. The same command goes on, with the
same workers or others, and beside those of any other engine.
"""

import argparse
import re
import sys

import worker

NAME = 'slurm.py'
MISSING = (
  f'{NAME}: submitit is not installed; pip install "nasjax[slurm]" (or '
  'submitit), or start benchmark.py --claim in jobs of your own'
)
# A task may be queued again as often as its time is over.
_TIMES = 10_000


def _minutes(text):
  """Returns the minutes of a time as Slurm writes it."""
  days, dash, rest = text.rpartition('-')
  parts = rest.split(':')
  good = re.fullmatch(r'(\d+-)?\d+(:\d+){0,2}', text)
  if not good:
    raise argparse.ArgumentTypeError(
      f'{text!r} is no time such as 90 (minutes), 12:00:00 or 2-00:00:00'
    )
  numbers = [int(part) for part in parts]
  if dash:  # days-hours:minutes:seconds
    hours, minutes, seconds = numbers + [0] * (3 - len(numbers))
  elif len(numbers) == 3:
    hours, minutes, seconds = numbers
  else:
    hours, (minutes, seconds) = 0, numbers + [0] * (2 - len(numbers))
  total = (int(days or 0) * 24 + hours) * 60 + minutes + -(-seconds // 60)
  if not total:
    raise argparse.ArgumentTypeError(f'{text!r} is no time at all')
  return total


def _arguments():
  parser = worker.Parser(NAME, __doc__)
  add = parser.add_argument
  add('--workers', type=worker.positive, default=1, help='tasks of the array')
  add('--partition')
  add('--account')
  add('--gpus_per_node', type=worker.positive, help='of a worker')
  add('--cpus_per_task', type=worker.positive, default=1, help='of a worker')
  add('--mem', help='of a worker, such as 16GB')
  add('--time', type=_minutes, default=_minutes('24:00:00'), help='of a worker')
  add('--constraint', help='features that nodes must have')
  add('--setup', action='append', help='a line of shell before each worker')
  add('--cluster', choices=('slurm', 'local'), default='slurm')
  add(
    '--wait', action=argparse.BooleanOptionalAction, default=None,
    help='until all have ended, and draw the figures; with --cluster=local if '
    'not said',
  )  # fmt: skip
  own, flags = parser.parse_known_args()
  worker.check(NAME, flags)
  return own, flags


def _parameters(own):
  """Returns what submitit is to ask Slurm for."""
  found = {
    'timeout_min': own.time,
    'cpus_per_task': own.cpus_per_task,
    'gpus_per_node': own.gpus_per_node,
    'slurm_partition': own.partition,
    'slurm_account': own.account,
    'slurm_mem': own.mem,
    'slurm_constraint': own.constraint,
    'slurm_setup': own.setup,
    'slurm_array_parallelism': own.workers,
    'slurm_additional_parameters': {'requeue': True},
    'local_setup': own.setup,
  }
  return {name: value for name, value in found.items() if value is not None}


def _submit(submitit, own, flags, out):
  """Returns the jobs of the array."""
  try:
    executor = submitit.AutoExecutor(
      out / 'slurm',
      cluster=own.cluster,
      slurm_max_num_timeout=_TIMES,
    )
  except RuntimeError as e:  # it looks for srun
    sys.exit(f'{NAME}: {e}; --cluster=local runs the workers here')
  executor.update_parameters(name='nasjax', **_parameters(own))
  claiming = worker.Worker(flags, own.cpus_per_task)
  try:
    with executor.batch():
      return [executor.submit(claiming) for _ in range(own.workers)]
  except submitit.core.utils.FailedJobError as e:
    told = str(e).strip().splitlines()
    sys.exit(f'{NAME}: sbatch refused it: {told[-1] if told else e}')


def _waited(jobs, out):
  """Waits for jobs; ends the program where any has failed."""
  failures = []
  for job in jobs:
    error = job.exception()
    if error is not None:
      told = [s for s in str(error).splitlines() if 'Error: ' in s]
      failures.append(f'{job.job_id}: {told[-1] if told else error}')
  if failures:
    sys.exit(
      f'{NAME}: {len(failures)} workers failed: {"; ".join(failures)}; logs '
      f'are in {out / "slurm"}, and the same command goes on'
    )


def main():
  own, flags = _arguments()
  try:
    import submitit
  except ImportError:
    sys.exit(MISSING)
  import cloudpickle

  out, shards = worker.plan(NAME, flags)
  # So that nodes need not import this folder.
  cloudpickle.register_pickle_by_value(worker)
  jobs = _submit(submitit, own, flags, out)
  first, *_, last = [job.job_id for job in jobs] * 2
  print(
    f'{len(jobs)} workers for {shards} shards: {first} to {last}, logs in '
    f'{out / "slurm"}',
    flush=True,
  )
  wait = own.cluster == 'local' if own.wait is None else own.wait
  if wait:
    _waited(jobs, out)
    sys.exit(worker.figures(flags))


if __name__ == '__main__':
  main()
