"""Stage `correct`: is what the card computes right?

The form for GPUs against the plain network on the CPU, which knows no form:
loss and gradients of one batch, dropout included. Then a population against its
members trained alone.
"""

import concurrent.futures
import dataclasses
import functools

import jax
import numpy as np
from card import gpu_training
from races import throughput_cells as cells_lib

from nasjax.models import common, families, macros
from nasjax.training import batches, population
from nasjax.training import step as step_lib

# Of float32, ||a - b|| / ||b||: of the loss, and of every leaf of the gradient;
# then the least cosine between the gradients. Measured on a CPU, the worst of
# the three cells: 1e-7, 3.1e-6, 1 - 2.4e-12.
BOUNDS = {'loss': 1e-4, 'gradient': 1e-4, 'cosine': 0.999999}
# Rounding to bfloat16 turns the gradient of deep networks, whoever does it: by
# a cosine of 0.92 (linear) to 0.99 in the plain network, which rounds nothing
# but factors. The form may be so many times as far from float32 as that one.
# Measured on a CPU, the worst of the cells: loss 2e-4, gradient 1.4 times,
# cosine 2.0 times.
_ROUNDED = {'loss': 1e-2, 'gradient': 2.0, 'turn': 3.0}
# An activation that is zero but for rounding may pass here and not there, and
# turns the gradient by a thousandth. So the best of some batches is judged.
_BATCHES = 3
# Relative, of the loss and of what some steps of float32 change. Adam makes as
# much of the smallest gradient as of the largest, and rounding may turn it.
_POPULATION = {'loss': 1e-4, 'change': 1e-2}
_MEMBERS, _STEPS = 4, 3


def correct(stage):
  """Compares, and keeps errors, bounds and whether they were kept."""
  rows = []

  def keep(row):
    rows.append(row)
    stage.publish({'device': jax.devices()[0].device_kind, 'rows': rows})

  cells = ['mixture']
  if not stage.rehearse:
    cells += [name for name in cells_lib.CELLS if name not in cells]
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    compared = [_Compared(pool, stage.rehearse, name) for name in cells]
    together = pool.submit(_population, stage.rehearse)
    for one in compared:
      for row in one.rows():
        keep(row)
    keep(together.result())


def _macro(rehearse):
  if rehearse:
    return gpu_training.MACROS['pocket']
  # Fewer cells: the CPU's program takes long to compile.
  return macros.Cells('fewer', (100, 200), (2, 1), (1, 2), 100)


def _batch(macro, seed):
  """A batch of utterances of different lengths, one of them empty."""
  rows, frames = 4, 48
  rng = np.random.default_rng(seed)
  len_b = np.linspace(frames, frames // 2, rows).astype(np.int32)
  len_b[-1] = 0
  labels = frames // cells_lib.FRAMES_A_LABEL
  x_btf = rng.normal(size=(rows, frames, macro.features)).astype(np.float32)
  x_btf[np.arange(frames)[None] >= len_b[:, None]] = 0
  label_len_b = np.minimum(len_b // macro.reduction // 2, labels)
  return batches.Batch(
    x_btf,
    len_b,
    rng.integers(1, macro.outputs, (rows, labels), np.int32),
    label_len_b.astype(np.int32),
    (len_b > 0).astype(np.float32),
  )


class _Compared:
  """Loss and gradients of one kind of cell, computed here and there."""

  def __init__(self, pool, rehearse, cells):
    self._cells = cells
    self._macro = _macro(rehearse)
    self._batches = [_batch(self._macro, seed) for seed in range(_BATCHES)]
    self._arch = cells_lib.SPACE.parse(cells_lib.CELLS[cells])
    self._gates = families.gates(cells_lib.SPACE, self._arch)
    plain = self._network('float32', 'cpu')
    self._params = gpu_training.drawn(
      jax.eval_shape(
        lambda: common.initial_params(plain, jax.random.key(0), self._gates)
      )
    )
    # Most of the time goes into compiling.
    self._futures = {
      (function, precision): pool.submit(function, precision)
      for precision in ('float32', 'bfloat16')
      for function in (self._on_cpu, self._on_card)
    }

  def rows(self):
    """Returns a row for each precision."""
    found = {key: future.result() for key, future in self._futures.items()}
    expected = found[self._on_cpu, 'float32']
    rounded = _errors(found[self._on_cpu, 'bfloat16'], expected)
    bounds = {
      'float32': BOUNDS,
      'bfloat16': {
        'loss': _ROUNDED['loss'],
        'gradient': _ROUNDED['gradient'] * rounded['gradient'],
        'cosine': 1 - _ROUNDED['turn'] * (1 - rounded['cosine']),
      },
    }
    return [
      {'what': self._cells, 'precision': precision}
      | _judged(_errors(found[self._on_card, precision], expected), own)
      for precision, own in bounds.items()
    ]

  def _network(self, precision, platform):
    found = families.network(
      cells_lib.SPACE, self._arch, self._macro, _recipe(precision), platform
    )
    if platform == 'cpu':
      return dataclasses.replace(found, kernels='xla', checkpoint=False)
    return found

  def _on_cpu(self, precision):
    cpu = jax.devices('cpu')[0]
    return self._gradients(precision, 'cpu', cpu, self._params)

  def _on_card(self, precision):
    form = families.form(self._network(precision, 'gpu'))
    results = self._gradients(
      precision, 'gpu', jax.devices()[0], form.pack(self._params)
    )
    return [(loss, form.unpack(grads)) for loss, grads in results]

  def _gradients(self, precision, platform, device, params):
    """Returns loss and gradients of each batch, as NumPy."""
    network, recipe = self._network(precision, platform), _recipe(precision)
    key = np.array([1, 2], np.uint32)
    # CPUs compile ten times longer than they then run.
    options = {'xla_backend_optimization_level': 0}
    if platform != 'cpu':
      options = population.compiler_options(platform)

    @functools.partial(jax.jit, compiler_options=options)
    def both(params, gates, batch):
      def loss(params):
        return step_lib.forward(network, recipe, params, gates, batch, key)[0]

      return jax.value_and_grad(loss)(params)

    with jax.default_device(device):
      return [
        jax.device_get(both(params, self._gates, batch))
        for batch in self._batches
      ]


def _recipe(precision):
  return dataclasses.replace(cells_lib.recipe(8), precision=precision)


def _judged(found, bounds):
  passed = (
    found['loss'] <= bounds['loss']
    and found['gradient'] <= bounds['gradient']
    and found['cosine'] >= bounds['cosine']
  )
  return found | {'bounds': bounds, 'passed': passed}


def _errors(found, expected):
  """Errors of the batch whose gradients are nearest."""
  errors = [_error(*pair) for pair in zip(found, expected, strict=True)]
  best = min(
    errors, key=lambda error: np.nan_to_num(error['gradient'], nan=9e9)
  )
  return best | {'gradients': [error['gradient'] for error in errors]}


def _error(found, expected):
  """Relative errors of the loss and of the worst leaf; cosine of all."""
  (loss, grads), (expected_loss, expected_grads) = found, expected
  errors, products = {}, np.zeros(3)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(expected_grads),
    strict=True,
  )
  for (path, one), other in pairs:
    one, other = np.float64(one), np.float64(other)
    products += [np.sum(one * other), np.sum(one**2), np.sum(other**2)]
    scale = np.linalg.norm(other)
    name = '/'.join(entry.key for entry in path)
    # A weight that nothing reads has no gradient in either.
    errors[name] = float(np.linalg.norm(one - other) / scale) if scale else 0.0
  worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
  return {
    'loss': float(abs(loss - expected_loss) / abs(expected_loss)),
    'gradient': errors[worst],
    'leaf': worst,
    'cosine': float(products[0] / np.sqrt(products[1] * products[2])),
  }


def _population(rehearse):
  """Trains a population, and its members alone, from the same start."""
  macro = 'pocket' if rehearse else 'small'
  setup = gpu_training.Setup(macro, 'mixture', 'float32', _MEMBERS, 8, 64)
  mesh = population.member_mesh(jax.devices()[:1])
  many = gpu_training.Training(setup, mesh, _STEPS, 'gpu')
  one = gpu_training.Training(setup._replace(members=1), mesh, _STEPS, 'gpu')
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    together, alone = pool.map(lambda t: t.compiled(), (many, one))
  start_p = jax.tree.map(np.asarray, many.members())
  found_p, loss_p = together(*many.arguments(many.members()))
  errors, losses = [], []
  for p in range(_MEMBERS):
    own = jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], start_p)
    before, after = flat(own.params), found_p.params
    after = flat(jax.tree.map(lambda leaf, p=p: leaf[p : p + 1], after))
    end, loss = alone(*one.arguments(population.on_members(own, mesh)))
    expected = flat(end.params) - before
    difference = np.linalg.norm(after - before - expected)
    errors.append(float(difference / np.linalg.norm(expected)))
    losses.append(abs(float(loss_p[p]) / float(loss[0]) - 1))
  found = {'loss': max(losses), 'change': max(errors)}
  return {
    'what': f'{_MEMBERS} members and each alone, {_STEPS} steps',
    'precision': 'float32',
    **found,
    'bounds': _POPULATION,
    'passed': all(found[name] <= _POPULATION[name] for name in found),
  }


def flat(tree):
  """Returns all numbers of a tree of arrays, one behind the other."""
  leaves = jax.tree.leaves(jax.device_get(tree))
  return np.concatenate([np.ravel(leaf) for leaf in leaves])
