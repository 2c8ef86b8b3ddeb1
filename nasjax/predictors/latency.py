"""Predictors of latency, fitted to measured networks of one device.

`operations`, a table of what each choice adds (least squares, the cheapest
choice of each decision at 0); `macs`, a line on multiply-accumulates;
`boosting` and `forest`, of scikit-learn, on choices and costs; `gcn`, the
network of BRP-NAS with one output (Dudziak et al. 2020, section 3), its loss
the absolute error. What a predictor was not fitted to it refuses: choices that
no measured network has, other devices.
"""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from nasjax import cost, spaces
from nasjax.models import families
from nasjax.predictors import gcn


class Profile(NamedTuple):
  """Measured networks of one macro network on one device.

  Attributes:
    space: search space.
    macro: macro network.
    device: its name.
    batch, frames: of a pass.
    archs_nd: int8.
    seconds_n: medians of a pass, float64.
  """

  space: object
  macro: object
  device: str
  batch: int
  frames: int
  archs_nd: np.ndarray
  seconds_n: np.ndarray

  def take(self, index):
    """Returns the profile of some of its networks."""
    return self._replace(
      archs_nd=self.archs_nd[index], seconds_n=self.seconds_n[index]
    )


def read(path):
  """Reads the profile that `experiments/latency.py --json` wrote.

  Raises:
    ValueError: naming the file, the cell and what is wrong with it.
  """
  try:
    told = json.loads(pathlib.Path(path).read_text())
  except OSError as e:
    raise ValueError(f'{path}: {e.strerror}; name a profile') from None
  except ValueError:
    raise ValueError(f'{path} is no JSON of latency.py') from None
  wanted = 'space', 'macro', 'device', 'batch', 'frames', 'cells'
  missing = [
    key for key in wanted if not isinstance(told, dict) or key not in told
  ]
  if missing:
    raise ValueError(
      f'{path} lacks {", ".join(missing)}; want what latency.py --random_cells '
      '--json wrote'
    )
  if told['space'] not in list(spaces.SPACES):
    raise ValueError(
      f'{path}: space {told["space"]!r}; there are {", ".join(spaces.SPACES)}'
    )
  space = spaces.SPACES[told['space']]
  try:
    macro = families.macro(space, told['macro'])
    batch, frames, cells = (
      int(told['batch']), int(told['frames']), list(told['cells']),
    )  # fmt: skip
  except (AttributeError, TypeError, ValueError) as e:
    raise ValueError(
      f'{path}: macro, batch, frames or cells are damaged ({e}); profile the '
      'device again'
    ) from None
  archs, seconds = [], []
  for number, cell in enumerate(cells, 1):
    try:
      archs.append(space.parse(cell['arch']))
      seconds.append(float(cell['seconds']))
    except (ValueError, KeyError, TypeError) as e:
      raise ValueError(f'{path}, cell {number}: {e!r}') from None
    if not 0 < seconds[-1] < np.inf:
      raise ValueError(
        f'{path}, cell {number}: seconds is {seconds[-1]}; want more than 0'
      )
  return Profile(
    space,
    macro,
    str(told['device']),
    batch,
    frames,
    np.array(archs, np.int8).reshape(-1, len(space.sizes)),
    np.array(seconds),
  )


class Operations(NamedTuple):
  """What the choices of a space cost: a sum over decisions.

  Attributes:
    space: search space.
    device: of the measurements.
    base: seconds of the network of cheapest choices.
    seconds_dk: for each decision, seconds of each choice above that; NaN where
      none was measured.
  """

  space: object
  device: str
  base: float
  seconds_dk: tuple

  def of_edges(self, edges):
    """Returns the costs of a supernet's candidates, for each edge an array.

    Args:
      edges: of `oneshot.supernet.Supernet`: pairs of a name, one of the space's
        decisions, and its candidates; 'absent' is a skip's first choice.

    Raises:
      ValueError: a candidate was not measured.
    """
    found = []
    for name, candidates in edges:
      if name not in self.space.fields:
        raise ValueError(
          f'{self.space.name} has no decision {name!r}; it has '
          f'{", ".join(self.space.fields)}'
        )
      d = self.space.fields.index(name)
      choices = self.space.choices[d]
      skip = candidates == ('absent', name)
      for k, candidate in enumerate(candidates):
        if not skip and candidate not in choices:
          raise ValueError(
            f'{name}: unknown operation {candidate!r}; there are '
            f'{", ".join(choices)}'
          )
        place = k if skip else choices.index(candidate)
        if np.isnan(self.seconds_dk[d][place]):
          raise ValueError(_unmeasured(self.space, d, place, self.device))
      places = [
        k if skip else choices.index(c) for k, c in enumerate(candidates)
      ]
      found.append(self.seconds_dk[d][places])
    return tuple(found)


class Predictor(NamedTuple):
  """A fitted predictor; call `predict`.

  Attributes:
    name: of `PREDICTORS`.
    space: search space.
    device: that it was fitted to.
    seen_dk: for each decision, which choices were measured.
    apply: archs_nd -> seconds_n.
  """

  name: str
  space: object
  device: str
  seen_dk: tuple
  apply: Callable

  def predict(self, archs, device=None):
    """Returns seconds of a pass, float64 [n].

    Args:
      archs: in any form that `space.parse_all` reads.
      device: whose seconds are wanted; None for that of the profile.

    Raises:
      ValueError: another device, or a choice that no measured network has.
    """
    if device is not None and device != self.device:
      raise ValueError(
        f'no predictor of device {device!r}; this one is of {self.device!r}: '
        'profile the device, and fit again'
      )
    archs_nd = self.space.parse_all(archs)
    if not len(archs_nd):
      return np.zeros(0)
    for d, seen_k in enumerate(self.seen_dk):
      new = np.flatnonzero(~seen_k[archs_nd[:, d]])
      if len(new):
        k = int(archs_nd[new[0], d])
        raise ValueError(_unmeasured(self.space, d, k, self.device))
    return np.asarray(self.apply(archs_nd), np.float64)


def _unmeasured(space, d, k, device):
  return (
    f'unknown operation {space.fields[d]}={space.choices[d][k]}: no network '
    f'that has it was measured on {device}; profile more of them'
  )


def fit(name, profile, seed=0):
  """Fits a predictor.

  Args:
    name: one of `PREDICTORS`.
    profile: `Profile`, of two networks or more.
    seed: of what is random.

  Returns:
    Predictor.

  Raises:
    ValueError: the name is unknown; a time is missing, infinite, or not above
      0; scikit-learn is not there.
  """
  if name not in PREDICTORS:
    raise ValueError(
      f'predictor {name!r} is unknown; there are {", ".join(PREDICTORS)}'
    )
  seconds_n = np.asarray(profile.seconds_n, np.float64)
  if len(seconds_n) != len(profile.archs_nd):
    raise ValueError(
      f'{len(profile.archs_nd)} networks, times of {len(seconds_n)}'
    )
  good_n = (seconds_n > 0) & np.isfinite(seconds_n)
  if len(seconds_n) < 2 or not good_n.all():
    raise ValueError(
      f'{len(seconds_n)} networks, {np.sum(~good_n)} of them without a finite '
      'time above 0; want two networks or more'
    )
  return Predictor(
    name,
    profile.space,
    profile.device,
    _seen(profile),
    PREDICTORS[name](profile, seconds_n, seed),
  )


def _seen(profile):
  return tuple(
    np.isin(np.arange(size), profile.archs_nd[:, d])
    for d, size in enumerate(profile.space.sizes)
  )


def operations(profile):
  """Returns the table of operations of a profile, `Operations`."""
  space, seen_dk = profile.space, _seen(profile)
  x_nk = _one_hot(space, profile.archs_nd)
  weight_k, *_ = np.linalg.lstsq(x_nk, profile.seconds_n, rcond=None)
  base, found = 0.0, []
  ends = np.cumsum(space.sizes)
  for seen_k, part_k in zip(seen_dk, np.split(weight_k, ends[:-1])):
    lowest = part_k[seen_k].min()
    base += lowest
    found.append(np.where(seen_k, part_k - lowest, np.nan))
  return Operations(space, profile.device, float(base), tuple(found))


def _one_hot(space, archs_nd):
  return np.concatenate(
    [np.eye(size)[archs_nd[:, d]] for d, size in enumerate(space.sizes)], 1
  )


def _costs(profile, archs_nd):
  """Returns parameters and multiply-accumulates, float64 [n, 2]."""
  return np.array(
    [
      _cost(profile.space, tuple(arch), profile.macro, profile.frames)
      for arch in archs_nd.tolist()
    ],
    np.float64,
  )


# Where a family has no formula, a count takes a good part of a second.
@functools.lru_cache(maxsize=2**16)
def _cost(space, digits, macro, frames):
  arch = list(digits)
  return cost.params(space, arch, macro), cost.macs(space, arch, macro, frames)


def _by_operations(profile, seconds_n, seed):
  del seed
  table = operations(profile._replace(seconds_n=seconds_n))

  def apply(archs_nd):
    parts = [
      part_k[archs_nd[:, d]] for d, part_k in enumerate(table.seconds_dk)
    ]
    return table.base + np.sum(parts, axis=0)

  return apply


def _by_macs(profile, seconds_n, seed):
  del seed
  macs_n = _costs(profile, profile.archs_nd)[:, 1]
  slope = intercept = 0.0
  if np.ptp(macs_n):
    slope, intercept = np.polyfit(macs_n, seconds_n, 1)
  else:
    intercept = seconds_n.mean()
  return lambda archs_nd: intercept + slope * _costs(profile, archs_nd)[:, 1]


def _by_trees(kind, profile, seconds_n, seed):
  try:
    from sklearn import ensemble
  except ImportError:
    raise ValueError(
      "boosting and forest need scikit-learn: pip install 'nasjax[predictors]'"
    ) from None

  def features(archs_nd):
    one_hot = _one_hot(profile.space, archs_nd)
    return np.concatenate([one_hot, _costs(profile, archs_nd)], 1)

  # Logarithms, for what is to be small is the relative error.
  model = getattr(ensemble, kind)(random_state=seed)
  model.fit(features(profile.archs_nd), np.log(seconds_n))
  return lambda archs_nd: np.exp(model.predict(features(archs_nd)))


class Recipe(NamedTuple):
  """How the GCN is trained: the paper's, but for batch, width and epochs.

  The paper trains 900 networks one by one, 600 units wide.

  Attributes:
    hidden, layers, dropout: of the network.
    learning_rate: of Adam, halved after `patience` epochs without a lower loss.
    patience: epochs.
    epochs: how many.
    batch: graphs of a step.
  """

  hidden: int = 128
  layers: int = 4
  dropout: float = 0.002
  learning_rate: float = 4e-4
  patience: int = 10
  epochs: int = 300
  batch: int = 8


RECIPE = Recipe()


def _by_gcn(profile, seconds_n, seed, recipe=RECIPE):
  scale = seconds_n.mean()
  params = fit_gcn(
    jax.random.key(seed),
    gcn.graphs(profile.space, profile.archs_nd),
    seconds_n / scale,
    recipe,
  )

  def apply(archs_nd):
    graphs = gcn.graphs(profile.space, archs_nd)
    return scale * np.asarray(_output(params, graphs), np.float64)

  return apply


def _output(params, graphs, key=None, dropout=0.0):
  embedding_ph = gcn.embed(params['gcn'], graphs, key, dropout)
  return embedding_ph @ params['kernel_h'] + params['bias']


def fit_gcn(key, graphs, target_n, recipe=RECIPE):
  """Trains the GCN with one output on the mean absolute error.

  Args:
    key: a JAX random key.
    graphs: `gcn.Graphs` of n networks.
    target_n: of about 1.
    recipe: `Recipe`.

  Returns:
    params of `_output`.
  """
  n, batch = len(target_n), min(recipe.batch, len(target_n))
  steps = -(-n // batch)
  k_init, k_head, k_epochs = jax.random.split(key, 3)
  own = gcn.DEFAULT._replace(hidden=recipe.hidden, layers=recipe.layers)
  bound = recipe.hidden**-0.5
  params = {
    'gcn': gcn.init(k_init, graphs.features_pnf.shape[-1], own),
    'kernel_h': jax.random.uniform(
      k_head, (recipe.hidden,), minval=-bound, maxval=bound
    ),
    # What the targets are about.
    'bias': jnp.ones(()),
  }
  graphs = gcn.Graphs(*map(jnp.asarray, graphs))
  target_n = jnp.asarray(target_n, jnp.float32)
  adam = optax.scale_by_adam()

  def objective(params, index_b, key):
    found_b = _output(params, graphs.take(index_b), key, recipe.dropout)
    return jnp.abs(found_b - target_n[index_b]).mean()

  def epoch(carry, key):
    params, moments, rate, best, worse = carry
    k_order, k_steps = jax.random.split(key)
    order_n = jnp.resize(jax.random.permutation(k_order, n), (steps, batch))

    def step(carry, own):
      params, moments = carry
      loss, grads = jax.value_and_grad(objective)(params, *own)
      change, moments = adam.update(grads, moments)
      params = jax.tree.map(lambda p, c: p - rate * c, params, change)
      return (params, moments), loss

    keys = jax.random.split(k_steps, steps)
    (params, moments), loss_s = lax.scan(
      step, (params, moments), (order_n, keys)
    )
    mean = loss_s.mean()
    worse = jnp.where(mean < best, 0, worse + 1)
    falls = worse >= recipe.patience
    return (
      params,
      moments,
      jnp.where(falls, rate / 2, rate),
      jnp.minimum(best, mean),
      jnp.where(falls, 0, worse),
    ), mean

  @jax.jit
  def train(params, keys):
    start = params, adam.init(params), recipe.learning_rate, jnp.inf, 0
    return lax.scan(epoch, start, keys)[0][0]

  return train(params, jax.random.split(k_epochs, recipe.epochs))


PREDICTORS = {
  'operations': _by_operations,
  'macs': _by_macs,
  'boosting': lambda *given: _by_trees('GradientBoostingRegressor', *given),
  'forest': lambda *given: _by_trees('RandomForestRegressor', *given),
  'gcn': _by_gcn,
}


def held_out(name, profile, folds=5, seed=0):
  """Predicts each network by those of the other folds.

  A network that has a choice which no other fold has is left out (NaN).

  Args:
    name: of `PREDICTORS`.
    profile: `Profile`, of at least two networks a fold.
    folds: parts, two or more.
    seed: of the parts, and of the predictors.

  Returns:
    seconds_n, float64.

  Raises:
    ValueError: fewer than two folds, or too few networks for them.
  """
  n = len(profile.seconds_n)
  if folds < 2:
    raise ValueError(f'folds is {folds}; want 2 or more')
  if n < 2 * folds:
    raise ValueError(f'{n} networks for {folds} folds; want two a fold')
  order = np.random.default_rng(seed).permutation(n)
  found_n = np.full(n, np.nan)
  for part in np.array_split(order, folds):
    rest = profile.take(np.setdiff1d(order, part))
    predictor = fit(name, rest, seed)
    known = np.ones(len(part), bool)
    for d, seen_k in enumerate(predictor.seen_dk):
      known &= seen_k[profile.archs_nd[part, d]]
    if known.any():
      found_n[part[known]] = predictor.predict(profile.archs_nd[part[known]])
  return found_n
