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

With --rows it times training steps of transducers instead: of rows of TODM's
Table 1, and of the largest network alone, in turns; the times as long are what
a supernet costs in trainings. Each call is of eight steps, whose students are
drawn. One core, --rows=B1,D,E --utterances=16 --frames=300 --labels=20: 1.58,
1.73 and 1.78 trainings (92, 145, 158 and 163 ms a step), by arithmetic 1.55,
1.66 and 1.66.
"""

import functools
import math
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
flags.DEFINE_list(
  'rows', [], 'Rows of Table 1 whose training steps are timed, as B1,D,E.'
)
flags.DEFINE_integer(
  'labels', 25, 'Of each utterance, for these.', lower_bound=1
)
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
    }
    jax.block_until_ready(run(params, gates[name]))
  for name, least in _in_turns(
    {name: functools.partial(run, params, gates[name]) for name in archs}
  ).items():
    found[name] |= least
  few, many = found['smallest'], found['largest']
  found['shares'] = {
    name: few[name] / many[name]
    for name in few
    if name != 'arch' and many[name]
  }
  found['programs'] = run._cache_size()
  return found


def _in_turns(calls):
  """Returns the least seconds of each call, and those of the processor."""
  import jax

  found = {
    name: {'seconds': math.inf, 'processor_seconds': math.inf} for name in calls
  }
  for _ in range(FLAGS.rounds):
    for name, call in calls.items():
      start, busy = time.perf_counter(), time.process_time()
      jax.block_until_ready(call())
      taken = time.perf_counter() - start, time.process_time() - busy
      found[name] = {
        key: min(least, now)
        for (key, least), now in zip(found[name].items(), taken)
      }
  return found


# Steps a call: their students are others each time.
_STEPS = 8


def steps():
  """Returns the figures of training steps, by row; those of none are alone."""
  import jax
  from studies import todm_projection

  from nasjax import spaces
  from nasjax.models import macros
  from nasjax.oneshot import sandwich
  from nasjax.training import recipes

  space = spaces.SPACES[FLAGS.space]
  macro = next(m for m in macros.BY_SPACE[space.name].values() if m.transduces)
  recipe = recipes.Recipe('speed', 1, l2=0.0, loss='transducer', curriculum=())
  for row in FLAGS.rows:
    if row not in sandwich.ROWS:
      raise ValueError(f'--rows: {row!r}; there are {", ".join(sandwich.ROWS)}')
  options = {row: sandwich.ROWS[row] for row in FLAGS.rows}
  options = {'alone': sandwich.Options(students=0)} | options
  utterances = FLAGS.utterances
  speech = todm_projection.Speech(
    utterances * FLAGS.frames / 360_000, utterances, FLAGS.labels, 1
  )
  calls, found = {}, {}
  for name, own in options.items():
    training = sandwich.Training(space, macro, recipe, own)
    calls[name] = _call(training)
    jax.block_until_ready(calls[name]())
    found[name] = {'flops': todm_projection.training(training, speech)}
  for name, least in _in_turns(calls).items():
    found[name] |= {key: value / _STEPS for key, value in least.items()}
  alone = found['alone']
  for name in FLAGS.rows:
    found[name]['trainings'] = {
      key: found[name][key] / alone[key]
      for key in ('flops', 'seconds', 'processor_seconds')
    }
  return found


def _call(training):
  """Returns a function that trains some steps on noise."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax import lax
  from studies import todm_projection

  from nasjax.models import common, families
  from nasjax.oneshot import sandwich_steps
  from nasjax.training import batches

  space, macro = training.space, training.macro
  elastic = families.elastic(space)
  rng = np.random.default_rng(0)
  shape = FLAGS.utterances, FLAGS.frames, macro.features
  said = FLAGS.utterances, FLAGS.labels
  batch = batches.Batch(
    jnp.asarray(rng.normal(size=shape), jnp.float32),
    jnp.full(shape[0], shape[1], jnp.int32),
    jnp.asarray(rng.integers(1, macro.outputs, said), jnp.int32),
    jnp.full(shape[0], FLAGS.labels, jnp.int32),
    jnp.ones(shape[0]),
  )
  gates = elastic.gates(space, training.largest)
  params = jax.jit(
    lambda key: common.initial_params(training.network(), key, gates)
  )(jax.random.key(0))  # fmt: skip
  optimiser, _ = sandwich_steps.optimiser(training, False, training.recipe.lr)
  state = sandwich_steps.State(
    params,
    optimiser.init(params),
    (),
    jnp.zeros((), jnp.int32),
    jnp.ones((), bool),
    jax.random.key_data(jax.random.key(1)),
    {},
  )
  others = training.options.others
  drawn_md = training.drawn(rng, _STEPS * (others + 1))
  if training.options.students:
    drawn_md[:: others + 1] = training.smallest
  archs_snd = drawn_md.reshape(_STEPS, others + 1, -1)[:, :others]
  gates_snd = todm_projection.students(training, archs_snd)
  step = sandwich_steps.make_step(training)

  # In a loop, as in training: XLA's compiler for CPUs makes another program of
  # a step by itself.
  @jax.jit
  def run(state, batch, gates_snd):
    def body(state, gates_nd):
      return step(state, batch, gates_nd, jnp.float32(1e-3), jnp.float32(1))

    return lax.scan(body, state, gates_snd)

  return lambda: run(state, batch, gates_snd)


def run():
  """Measures, prints and writes."""
  if FLAGS.rows:
    found = steps()
    for name, figures in found.items():
      told = ', '.join(
        f'{value:.2f} by {key.replace("_", " ")}'
        for key, value in figures.get('trainings', {}).items()
      )
      print(f'{name:8} {1e3 * figures["seconds"]:,.0f} ms a step  {told}')
    if FLAGS.json:
      command.publish_json(FLAGS.json, found)
    return
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
