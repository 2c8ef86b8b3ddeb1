"""Times networks of an elastic one's weights: what smaller ones really save.

  python experiments/elastic_speed.py --json=results/elastic_speed.json

One program runs every network of a space, value and gradient; the smallest and
the largest take their turns in it, so that other work on the machine meets both
alike. Beside it stand their arithmetic by the program of each by itself (as
`programs.costs` counts it, and as XLA's `cost_analysis` does) and their
multiply-accumulates by formula, forward.

Two cores of an AMD EPYC with twenty times the work that they can do,
todm_small, --utterances=4 --frames=200 --rounds=2: the smallest encoder has
42 % of the largest one's parameters, 37 % of its arithmetic (143 and 381 M
FLOPs) and takes 65 % of its processor time (22.5 and 34.8 ms); state-space
layers by FFT, which is no product, cost every network the same a layer.
"""

import time

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'space', 'todm_small', ['todm_small', 'todm', 'todm_low_rank'],
  'Of which networks.',
)  # fmt: skip
flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_integer('utterances', 8, 'Utterances a batch.', lower_bound=1)
flags.DEFINE_integer('frames', 400, 'Input frames of each.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'Times of each network.', lower_bound=1)


def measure():
  """Returns the figures of the smallest and the largest network."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from nasjax import cost, spaces
  from nasjax.models import families, macros
  from nasjax.programs import costs
  from nasjax.training import recipes

  space = spaces.SPACES[FLAGS.space]
  # An encoder: the joiner of a transducer costs the same whatever it is.
  (macro,) = (
    m for m in macros.BY_SPACE[space.name].values() if not m.transduces
  )
  recipe = recipes.Recipe('speed', 1, dropout=0.0, curriculum=())
  elastic = families.elastic(space)
  network = families.elastic_network(space, macro, recipe)
  rng = np.random.default_rng(0)
  shape = FLAGS.utterances, FLAGS.frames, macro.features
  x_btf = jnp.asarray(rng.normal(size=shape), jnp.float32)
  len_b = jnp.full(shape[0], shape[1], jnp.int32)
  archs = {
    'smallest': elastic.smallest(space), 'largest': elastic.largest(space)
  }  # fmt: skip
  gates = {name: elastic.gates(space, arch) for name, arch in archs.items()}
  params = jax.jit(network.init)(
    jax.random.key(0), x_btf[:1, :8], len_b[:1] * 0 + 8, gates['largest']
  )['params']

  def gradient(network):
    def total(params, gates):
      outputs = network.apply({'params': params}, x_btf, len_b, gates)
      return jnp.sum(jnp.square(outputs[0]))

    return jax.jit(jax.grad(total))

  run, found = gradient(network), {}
  for name, arch in archs.items():
    own = elastic.extract(space, arch, macro, params)
    alone = gradient(families.single(space, arch, macro))
    analysis = alone.lower(own, ()).compile().cost_analysis()
    found[name] = {
      'arch': space.names(arch),
      'params': cost.params(space, arch, macro),
      'macs': FLAGS.utterances * cost.macs(space, arch, macro, FLAGS.frames),
      'flops': costs.flops(alone, own, ()),
      'xla_flops': int(analysis['flops']),
      'seconds': [],
      'processor_seconds': [],
    }
    jax.block_until_ready(run(params, gates[name]))
  for _ in range(FLAGS.rounds):
    for name in archs:
      start, busy = time.perf_counter(), time.process_time()
      jax.block_until_ready(run(params, gates[name]))
      found[name]['seconds'].append(time.perf_counter() - start)
      found[name]['processor_seconds'].append(time.process_time() - busy)
  for figures in found.values():
    for name in ('seconds', 'processor_seconds'):
      figures[name] = min(figures[name])
  few, many = found['smallest'], found['largest']
  found['shares'] = {
    name: few[name] / many[name]
    for name in few
    if name != 'arch' and many[name]
  }
  found['programs'] = run._cache_size()
  return found


def run():
  """Measures, prints and writes."""
  found = measure()
  for name in ('smallest', 'largest'):
    figures = found[name]
    print(
      f'{name:8}  {figures["params"]:,} parameters, {figures["flops"]:,} FLOPs '
      f'({figures["xla_flops"]:,} by XLA), {1e3 * figures["seconds"]:,.1f} ms, '
      f'{1e3 * figures["processor_seconds"]:,.1f} ms of the processor'
    )
  shares = found['shares']
  print(
    f'smallest of largest: {shares["params"]:.1%} of the parameters, '
    f'{shares["flops"]:.1%} of the arithmetic, '
    f"{shares['processor_seconds']:.1%} of the processor's time, in "
    f'{found["programs"]} program for both'
  )
  if FLAGS.json:
    command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
