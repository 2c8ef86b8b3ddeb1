"""Measures nasjax on one GPU: is it right, does it repeat itself, how fast.

  bash launch/gpu.sh results/gpu

Stages, each a process with a limit of its own: `correct`, `resume`, `repeat`,
`race` of the ways to write the grouped convolution, `speed`, PyTorch (`torch`,
`torch_compiled`), `members` until memory ends, a `table`. OUT/gpu.json has what
they found, after every one of them; OUT/STAGE.json what a stage has so far.

--rehearse runs all of it on a CPU with tiny networks.
"""

import importlib.util
import os
import subprocess
import sys

from absl import flags
from card import gpu_plan
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('out', 'results/gpu', 'Where the results go.')
flags.DEFINE_integer(
  'seconds', 480, 'What all stages together may take.', lower_bound=10
)
flags.DEFINE_bool(
  'rehearse', False, 'On a CPU, with tiny networks: does every stage run?'
)
flags.DEFINE_list('stages', list(gpu_plan.SHARES), 'Which of them to run.')

_PACKAGES = {'orbax': 'orbax-checkpoint'}
_NEEDED = ('jax', 'flax', 'optax', 'orbax', 'rich', 'scipy')
# For corpora and tables, so for the stages `resume` and `table`.
_TABLES = (
  'tensorflow_datasets', 'array_record', 'soundfile', 'soxr', 'rapidfuzz',
  'pyarrow', 'pandas', 'matplotlib', 'espeakng_loader',
)  # fmt: skip


def _missing(names):
  """Returns the packages that are not installed, by the names pip knows."""
  absent = [name for name in names if not importlib.util.find_spec(name)]
  return ' '.join(_PACKAGES.get(n, n.replace('_', '-')) for n in absent)


def _platform():
  """Returns the platform of JAX's default device, as a process says it."""
  words = 'import jax; print(jax.devices()[0].platform)'
  done = subprocess.run(
    [sys.executable, '-c', words], capture_output=True, text=True
  )
  return done.stdout.strip() or 'none'


def run():
  """Checks what is there, runs the stages and says what they found."""
  for name in FLAGS.stages:
    if name not in gpu_plan.SHARES:
      raise ValueError(
        f'--stages: {name!r} is none of {", ".join(gpu_plan.SHARES)}'
      )
  missing = _missing(_NEEDED)
  if missing:
    raise ValueError(
      f'{missing} not installed: {sys.executable} -m pip install {missing}'
    )
  if not FLAGS.rehearse and _platform() not in ('gpu', 'cuda'):
    raise ValueError(
      f'JAX finds no GPU (its device is: {_platform()}); install jax[cuda12], '
      'or run the stages on a CPU with --rehearse'
    )
  out = command.directory('out').absolute()
  with command.exclusive(out):
    optional = _missing(_TABLES)
    if optional:
      print(
        f'{optional} not installed: the stages resume and table will fail',
        flush=True,
      )
    names = [name for name in gpu_plan.SHARES if name in FLAGS.stages]
    os.chdir(out)  # whatever compilers leave behind
    results = gpu_plan.run(
      names, out, FLAGS.seconds, FLAGS.rehearse, lambda s: print(s, flush=True)
    )
    from card import gpu_report

    gpu_report.show(results)
    print(f'results in {out / "gpu.json"}')


if __name__ == '__main__':
  command.run(run)
