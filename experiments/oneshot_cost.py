"""What a training step of each one-shot method costs, beside one network.

  python experiments/oneshot_cost.py --json=results/oneshot_cost.json

Table 1 of Zheng, An and Ou 2021 (ST-NAS), measured: memory and time of forward
and backward passes with K candidates a block, in ST-NAS's space (K = 4 and 6),
weight steps and architecture steps. Every case is a process of its own, which
says what the compiled program needs, the most memory that the process took
beside what it had before, and the time of a step. In theory, with C1 the memory
of one network and C2 that of all blocks' outputs: sampled weight steps C1,
mixing methods K C1, straight-through architecture steps C1 + (K - 1) C2.
"""

import json
import subprocess
import sys

import numpy as np
from absl import flags
from common import command

from nasjax.models import macros

FLAGS = flags.FLAGS

CASES = {
  'one network': ('st_nas', 'single'),
  'darts: weights': ('darts', 'weights'),
  'darts: architecture': ('darts', 'architecture'),
  'darts second order: architecture': ('darts_second', 'architecture'),
  'snas: both': ('snas', 'joint'),
  'proxyless: weights': ('proxyless', 'weights'),
  'proxyless full: architecture': ('proxyless_full', 'architecture'),
  'proxyless recomputed: architecture': ('proxyless', 'architecture'),
  'proxyless two paths: architecture': ('proxyless_two', 'architecture'),
  'gdas: weights': ('gdas', 'weights'),
  'gdas: architecture': ('gdas', 'architecture'),
  'st_nas: weights': ('st_nas', 'weights'),
  'st_nas: architecture': ('st_nas', 'architecture'),
}

flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_integer('width', 640, 'Channels of every layer.', lower_bound=1)
flags.DEFINE_integer('batch', 8, 'Utterances a batch.', lower_bound=1)
flags.DEFINE_integer('frames', 400, 'Frames of each.', lower_bound=1)
flags.DEFINE_integer('labels', 40, 'Labels of each.', lower_bound=1)
flags.DEFINE_integer(
  'steps', 5, 'Steps that are timed; 0 compiles only.', lower_bound=0
)
flags.DEFINE_list('cases', None, 'Names of cases; all if not given.')
flags.DEFINE_list('candidates', ['4', '6'], 'Numbers of candidates: 4, 6.')
flags.DEFINE_string('case', None, 'Measure this one, here.')
flags.DEFINE_integer('k', 4, 'Candidates of --case.')


def build(name, k):
  """Returns the step of a case, a function of its state, and the state."""
  import dataclasses

  import jax
  import jax.numpy as jnp

  from nasjax import spaces
  from nasjax.oneshot import methods, steps
  from nasjax.oneshot.supernet import Supernet
  from nasjax.training import batches, recipes

  method, kind = CASES[name]
  space = spaces.ST_NAS if k == 4 else spaces.ST_NAS_SWBD
  recipe = dataclasses.replace(
    recipes.E5, l2=0.0, dropout=0.5, loss_norm='none'
  )
  macro = macros.Tdnn('cost', FLAGS.width)
  weights = steps.Weights('adam', recipe)
  rng = np.random.default_rng(0)
  shape = FLAGS.batch, FLAGS.frames, macro.features
  full_b = jnp.full(FLAGS.batch, FLAGS.frames)
  batch = batches.Batch(
    jnp.asarray(rng.normal(size=shape), jnp.float32),
    full_b,
    jnp.asarray(
      rng.integers(1, macro.outputs, (FLAGS.batch, FLAGS.labels)), jnp.int32
    ),
    jnp.full(FLAGS.batch, FLAGS.labels),
    jnp.ones(FLAGS.batch),
  )
  if kind == 'single':
    # The largest candidate everywhere: what sampling costs at most.
    arch = space.parse([space.ops.index(space.ops[k - 1])] * space.nodes)
    return _single(space, arch, macro, recipe, batch)
  supernet = Supernet(space, macro, space.ops, ())
  found = methods.METHODS[method]
  state = steps.init(supernet, found, weights, jax.random.key(0))
  if kind != 'architecture':
    # Candidates that run are data; timed are the most expensive ones.
    alpha_e = tuple(a.at[k - 1].set(30.0) for a in state.alpha_e)
    if found.sampled:
      state = state._replace(alpha_e=alpha_e)
  if kind == 'weights':
    step = steps.make_weight_step(supernet, found, weights)
    return lambda s, b: step(s, b, 1e-3, 1.0)[0], state, batch
  if kind == 'joint':
    step = steps.make_joint_step(supernet, found, weights)
    return lambda s, b: step(s, b, 1e-3, 1.0)[0], state, batch
  step = steps.make_arch_step(supernet, found, weights)
  return lambda s, b: step(s, b, b, 1e-3, 1.0)[0], state, batch


def _single(space, arch, macro, recipe, batch):
  """Returns the weight step of one network, with the same optimiser."""
  import jax

  from nasjax.models import common, families
  from nasjax.training import step as step_lib
  from nasjax.training.optimisers import per_candidate

  network = families.single(space, arch, macro, recipe.dropout)
  gates = families.gates(space, arch)
  params = common.initial_params(network, jax.random.key(0), gates)
  pair = per_candidate.make(
    'adam', (recipe, 0, 0), lambda tree: jax.tree.map(lambda leaf: -1, tree), 0,
    lr=1e-3,
  )  # fmt: skip

  def step(state, batch):
    params, opt = state

    def loss(params):
      key = jax.numpy.zeros(2, jax.numpy.uint32)
      return step_lib.forward(network, recipe, params, gates, batch, key)[0]

    grads = jax.grad(loss)(params)
    active_g = jax.numpy.zeros(0, bool)
    return pair.apply(grads, opt, params, active_g=active_g)[:2]

  return step, (params, pair.init(params)), batch


def measure(name, k):
  """Returns what one case costs, as plain values."""
  import resource
  import time

  import jax

  from nasjax.programs import memory

  step, state, batch = build(name, k)
  state = jax.block_until_ready(jax.tree.map(jax.numpy.array, state))
  held = sum(leaf.nbytes for leaf in jax.tree.leaves((state, batch)))
  started = time.perf_counter()
  compiled = jax.jit(step, donate_argnums=(0,)).lower(state, batch).compile()
  compile_s = time.perf_counter() - started
  with open('/proc/self/statm') as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
  seconds = []
  for _ in range(1 + FLAGS.steps if FLAGS.steps else 0):
    started = time.perf_counter()
    state = jax.block_until_ready(compiled(state, batch))
    seconds.append(time.perf_counter() - started)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  found = compiled.memory_analysis()
  params = sum(
    leaf.size for leaf in jax.tree.leaves(getattr(state, 'params', state[0]))
  )
  return {
    'case': name,
    'candidates': k,
    'params': params,
    'program_bytes': memory.program_bytes(compiled),
    'temporary_bytes': found.temp_size_in_bytes,
    'peak_bytes': held + max(0, peak - before) if FLAGS.steps else None,
    'compile_s': compile_s,
    'step_s': float(np.median(seconds[1:])) if FLAGS.steps else None,
    'least_s': min(seconds[1:], default=None),
  }


def outputs_bytes():
  """Memory of all blocks' outputs, C2."""
  before, after = 3 * FLAGS.frames, 3 * -(-FLAGS.frames // 3)
  return 4 * FLAGS.batch * FLAGS.width * (before + after)


def _pair(value, one, unit, digits=0):
  """Returns a value and its ratio to that of one network, as text."""
  if value is None:
    return ['', '']
  return [f'{value / unit:,.{digits}f}', f'{value / one:.2f}']


def show(rows):
  """Prints memory and time of every case, beside one network."""
  from common import console
  from rich.table import Table

  for k in sorted({row['candidates'] for row in rows}):
    own = [row for row in rows if row['candidates'] == k]
    one = next((r for r in own if r['case'] == 'one network'), own[0])
    view = Table(
      title=f'K = {k}, {FLAGS.batch} x {FLAGS.frames} frames, width '
      f'{FLAGS.width}; C2 {outputs_bytes() / 2**20:.0f} MB'
    )
    for column in (
      'step', 'program MB', 'x', 'temporary MB', 'x', 'peak MB', 'x', 's', 'x'
    ):  # fmt: skip
      view.add_column(column, justify='left' if column == 'step' else 'right')
    for row in own:
      cells = [row['case']]
      for name in 'program_bytes', 'temporary_bytes', 'peak_bytes':
        cells += _pair(row[name], one[name], 2**20)
      cells += _pair(row['step_s'], one['step_s'], 1, 2)
      view.add_row(*cells)
    console.CONSOLE.print(view)


def run():
  """Measures one case, or all of them in processes of their own."""
  for name in FLAGS.cases or ():
    if name not in CASES:
      raise ValueError(f'--cases: {name!r}; there are {"; ".join(CASES)}')
  if FLAGS.case is not None:
    print(json.dumps(measure(FLAGS.case, FLAGS.k)))
    return
  if set(FLAGS.candidates) - {'4', '6'}:
    raise ValueError(f'--candidates={",".join(FLAGS.candidates)}: want 4, 6')
  from common import console

  wanted = [
    (name, int(k)) for k in FLAGS.candidates for name in FLAGS.cases or CASES
  ]
  rows = []
  with console.counter('cases') as tick:
    for name, k in wanted:
      done = subprocess.run(
        [sys.executable, *sys.argv, f'--case={name}', f'--k={k}'],
        stdout=subprocess.PIPE,
        text=True,
      )
      if done.returncode:
        raise ValueError(f'{name}, K = {k}: status {done.returncode}')
      rows.append(json.loads(done.stdout.splitlines()[-1]))
      tick(len(rows), len(wanted))
  show(rows)
  if FLAGS.json:
    command.publish_json(
      FLAGS.json, {'outputs_bytes': outputs_bytes(), 'rows': rows}
    )


if __name__ == '__main__':
  command.run(run)
