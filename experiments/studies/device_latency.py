"""Latency on the device at hand: measured, predicted, limited."""

import functools
import json
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags

from nasjax import cost
from nasjax.benchmark import latency as jax_latency
from nasjax.predictors import latency as predictors
from nasjax.search import constraints
from nasjax.storage import disk

FLAGS = flags.FLAGS

UNITS = {'latency': ' ms', 'params': ' parameters'}
FOLDS = 5


def device():
  """Returns what profile and logs call this machine, and what runs there."""
  name = jax_latency.device_name()
  if FLAGS.runtime == 'jax':
    return f'{name}, JAX'
  threads = '1 thread' if FLAGS.threads == 1 else f'{FLAGS.threads} threads'
  cpu = ', CPU time' if FLAGS.clock == 'cpu' else ''
  return f'{name}, ONNX Runtime, {threads}{cpu}'


def stopwatch(space, macro, runs):
  """Returns what times networks on the device, so many passes each."""
  if FLAGS.runtime == 'jax':
    return jax_latency.Stopwatch(space, macro, 1, FLAGS.frames, runs)
  from nasjax.export import latency as onnx_latency

  return onnx_latency.Stopwatch(
    space, macro, FLAGS.frames, FLAGS.threads, runs, clock=FLAGS.clock
  )


class Measured:
  """Networks that were timed, in a file that `predictors` reads.

  Args:
    path: of the file.
    space, macro: of the networks.

  Raises:
    ValueError: it is of another device, or damaged.
  """

  def __init__(self, path, space, macro):
    self._path, self._space, self._macro = path, space, macro
    self._watch = None
    self._about = {
      'space': space.name, 'macro': json.loads(json.dumps(vars(macro))),
      'device': device(), 'batch': 1, 'frames': FLAGS.frames,
    }  # fmt: skip
    self._cells = []
    if path.exists():
      self.profile()  # says what is wrong with it
      found = json.loads(path.read_text())
      self._cells = found.pop('cells')
      others = [n for n in self._about if found[n] != self._about[n]]
      if others:
        raise ValueError(
          f'{path}: {others[0]} was {found[others[0]]!r}, is '
          f'{self._about[others[0]]!r}; remove the file to measure anew'
        )

  def time(self, arch):
    """Returns what is known of a network, a dict; measures what is not."""
    known = self.visits(arch)
    return known[0] if known else self.visit(arch)

  def visits(self, arch):
    """Returns what was measured of a network, a list of dicts."""
    nested = self._space.nested(arch)
    return [cell for cell in self._cells if cell['arch'] == nested]

  def visit(self, arch):
    """Measures a network, again if it was; returns what was found, a dict."""
    if self._watch is None:
      self._watch = stopwatch(self._space, self._macro, FLAGS.runs)
    median, low, high, *_ = self._watch.time(arch)
    cell = {
      'arch': self._space.nested(arch),
      'names': self._space.names(arch),
      'seconds': median,
      'quartile_low': low,
      'quartile_high': high,
      'real_time_factor': median / (0.01 * FLAGS.frames),
      # Of the machine, for who wonders about it.
      'load': os.getloadavg()[0],
    }
    if FLAGS.runtime == 'jax':
      cell['peak_bytes'] = self._watch.peak_bytes
    self._cells.append(cell)
    text = json.dumps(self._about | {'cells': self._cells}, indent=1)
    disk.publish(self._path, text.encode())
    return cell

  def profile(self):
    """Returns the `predictors.Profile` of what the file has."""
    return predictors.read(self._path)


def drawn(space, count, seed):
  """Draws architectures in which all choices are equally frequent, int8 [n, d].

  So that a predictor has seen each, however few there are.
  """
  rng = np.random.default_rng(seed)
  columns = [
    rng.permutation(np.resize(rng.permutation(size), count))
    for size in space.sizes
  ]
  return np.stack(columns, axis=1).astype(np.int8)


class Limit(NamedTuple):
  """What networks may cost.

  Attributes:
    what: 'latency', in ms as predicted, or 'params'.
    most: of it.
    costs: architectures [n, d] -> cost_n.
    least: the cheapest architecture, as far as is known.
    manual: what the manual network costs.
  """

  what: str
  most: float
  costs: Callable
  least: np.ndarray
  manual: float

  @property
  def unit(self):
    return UNITS[self.what]


def limited(asked, space, costs, manual):
  """Returns the `Limit` of an `Asked`.

  Args:
    asked: `device_asked.Asked`.
    space: search space.
    costs: architectures [n, d] -> cost_n.
    manual: what the manual network costs.

  Raises:
    ValueError: no architecture meets it; it names the smallest that there is.
  """
  most = asked.number * manual if asked.share else asked.number
  values = [range(size) for size in space.sizes]
  archs = constraints.cheapest(values, costs)
  try:
    constraints.check(
      constraints.Constraint(most, 'hard'), space, archs, costs(archs),
      UNITS[asked.what],
    )  # fmt: skip
  except ValueError as e:
    raise ValueError(f'{asked.flag}: {e}') from None
  least = archs[int(np.argmin(costs(archs)))]
  return Limit(asked.what, most, costs, least, manual)


def counting(space, macro):
  """Returns architectures [n, d] -> parameters, each counted once."""

  @functools.cache
  def count(digits):
    return cost.params(space, list(digits), macro)

  def costs(archs):
    return np.array([count(tuple(a)) for a in np.asarray(archs).tolist()])

  return costs


def fitted(profile, names, say):
  """Judges predictors on networks held out, and fits the best.

  Returns:
    the `predictors.Predictor`, and how well each of them did.
  """
  from studies import latency_predictors

  judged = latency_predictors.judged(names, profile, FOLDS, say)
  able = [n for n in judged if judged[n]['median_error'] is not None]
  if not able:
    raise ValueError(
      f'--profiled={len(profile.seconds_n)}: too few networks to hold any out; '
      'profile more'
    )
  best = min(able, key=lambda name: judged[name]['median_error'])
  return predictors.fit(best, profile), judged
