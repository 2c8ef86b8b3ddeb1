"""Whether one-shot methods find the one operation that solves a task.

  python experiments/planted.py --methods=st_nas --json=results/planted.json

The task (`data.synthetic.planted`) needs the receptive field of one candidate
of four; every seed draws another corpus. Printed is how often each method finds
it; a random draw does so once in four times.
"""

import dataclasses

from absl import flags
from common import command, device_flags

FLAGS = flags.FLAGS

flags.DEFINE_list('methods', ['st_nas'], 'Methods, as oneshot.py names them.')
flags.DEFINE_integer('searches', 10, 'Seeds of each.', lower_bound=1)
flags.DEFINE_integer('warm_up', 80, 'Epochs of weights alone.', lower_bound=0)
flags.DEFINE_integer('search', 25, 'Epochs of search.', lower_bound=1)
flags.DEFINE_float(
  'alpha_lr', 3e-3, 'Of the architecture parameters.', lower_bound=0.0
)
flags.DEFINE_string('out', 'results/planted', 'Where searches are kept.')
flags.DEFINE_string('json', None, 'Where the numbers go.')
flags.adopt_module_key_flags(device_flags)


def methods():
  """Returns the methods that the flags name."""
  from nasjax.oneshot.methods import METHODS

  for name in FLAGS.methods:
    if name not in METHODS:
      raise ValueError(f'--methods: {name!r}; there are {", ".join(METHODS)}')
  return [
    dataclasses.replace(METHODS[name], alpha_lr=FLAGS.alpha_lr)
    for name in FLAGS.methods
  ]


def search_all(method, meshes, out, tick):
  """Returns for each seed what was found, and whether it is the solution."""
  from nasjax.benchmark import workers
  from nasjax.oneshot import planted

  def one(seed, mesh, check):
    result, solved = planted.run(
      method, seed, mesh, out, lambda progress: check(),
      warm_up=FLAGS.warm_up, epochs=FLAGS.search,
    )  # fmt: skip
    return result['names'], solved

  found = []
  for pair in workers.share(one, range(FLAGS.searches), meshes):
    found.append(pair)
    tick(len(found), FLAGS.searches)
  return found


def run():
  """Searches with every method and seed, and counts."""
  out = command.directory('out')
  with command.exclusive(out):
    chosen = methods()
    device_flags.configure(FLAGS.searches)
    from common import console

    from nasjax import analysis

    numbers = {}
    for method in chosen:
      with console.counter(f'{method.name}, searches') as tick:
        found = search_all(method, device_flags.meshes(), out, tick)
      solved = sum(solution for _, solution in found)
      share = analysis.share(solved, len(found))
      print(
        f'{method.name}: solved by {solved} of {len(found)} seeds, '
        f'{share.low:.0%} to {share.high:.0%} with 95 % confidence; found '
        + ', '.join(names for names, _ in found)
      )
      numbers[method.name] = [names for names, _ in found]
    if FLAGS.json:
      command.publish_json(FLAGS.json, numbers)


if __name__ == '__main__':
  command.run(run)
