"""Shows what the macro networks are: layers, parameters, multiply-accumulates.

  python experiments/macros.py --json=results/macros.json

By formula (`nasjax.cost`), with as many outputs as were published; of 101
architectures drawn from the space the median, and the most that any has. What a
training takes on this machine, and of memory, benchmark.py tells with
--dry_run.
"""

import json
import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')


def run():
  """Prints the table, and writes its figures."""
  from summaries import macro_networks

  print('\n'.join(macro_networks.lines()))
  if FLAGS.json:
    from nasjax.storage import disk

    path = pathlib.Path(FLAGS.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.publish(path, json.dumps(macro_networks.rows(), indent=1).encode())


if __name__ == '__main__':
  command.run(run)
