"""Shows what the macro networks are: layers, parameters, multiply-accumulates.

  python experiments/macros.py --json=results/macros.json

By formula (`nasjax.cost`), with as many outputs as were published; of 101
architectures drawn from the space the median, and the most that any has. What a
training takes on this machine, and of memory, benchmark.py tells with
--dry_run.
"""


from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')


def run():
  """Prints the table, and writes its figures."""
  from summaries import macro_networks

  print('\n'.join(macro_networks.lines()))
  if FLAGS.json:
    command.publish_json(FLAGS.json, macro_networks.rows())


if __name__ == '__main__':
  command.run(run)
