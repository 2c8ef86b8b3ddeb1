"""What networks of a search cost, how much they may, what came of it."""

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags
from studies import latency_predictors

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'cost',
  None,
  ['params', 'macs', 'latency'],
  'What networks cost: parameters, multiply-accumulates, or seconds of a pass, '
  'measured in --table or predicted from --profile.',
)
flags.DEFINE_string(
  'profile', None, 'What latency.py --random_cells --json wrote.'
)
flags.DEFINE_string(
  'latency_predictor', 'operations', 'Of nasjax/predictors/latency.py.'
)
flags.DEFINE_float('limit', None, 'Networks must not cost more.')
flags.DEFINE_enum(
  'penalty',
  'one_sided',
  ['one_sided', 'two_sided', 'product', 'hard'],  # of search.constraints
  'How searchers are told: hard (what costs more has failed; evolution never '
  'trains it), one_sided, two_sided or product.',
)
flags.DEFINE_float('penalty_weight', 0.1, 'Weight of the last three.')

UNITS = {'params': ' parameters', 'macs': ' MACs', 'latency': ' s'}


class Costs(NamedTuple):
  """Costs of what a search may find.

  Attributes:
    space: search space.
    of_archs: architectures [n, d] -> cost_n.
    constraint: `constraints.Constraint`, None for no limit.
  """

  space: object
  of_archs: Callable
  constraint: object

  def limit(self, values, scape=None):
    """Returns the `Limit` of a searcher over such values of the digits.

    In a table a vector costs what the cell does that answers for it.
    """
    from nasjax.search import constraints, landscape

    def cost_of(vectors):
      if scape is not None and scape.listed:
        return self.of_archs(scape.cell_archs)[scape.cell_a]
      return self.of_archs(landscape.archs_of(values, vectors))

    sizes = tuple(map(len, values))
    return constraints.limit(sizes, cost_of, self.constraint.limit)


def costs(space, macro, archs, rows=None):
  """Returns the `Costs` of the flags, None where they name no cost.

  Args:
    space: search space.
    macro: macro network; its name, where a table has its costs.
    archs: all that may be found, [n, d]; or a function of what makes costs
      that returns some, the cheapest of all among them.
    rows: a table that may have latencies.

  Raises:
    ValueError: flags that do not go together; a limit that nothing meets.
  """
  if not FLAGS.cost:
    for name in ('limit', 'profile'):
      if FLAGS[name].value is not None:
        raise ValueError(f'--{name} is for searches with --cost; name one')
    return None
  from nasjax.search import constraints

  if not 0 < FLAGS.penalty_weight < np.inf:
    raise ValueError(
      f'--penalty_weight={FLAGS.penalty_weight}: want a number above 0'
    )
  of_archs = _of_archs(space, macro, rows)
  if FLAGS.limit is None:
    return Costs(space, of_archs, None)
  constraint = constraints.Constraint(
    FLAGS.limit, FLAGS.penalty, FLAGS.penalty_weight
  )
  unit = UNITS[FLAGS.cost]
  if callable(archs):
    archs = archs(of_archs)
  try:
    constraints.check(constraint, space, archs, of_archs(archs), unit)
  except ValueError as e:
    raise ValueError(f'--limit={FLAGS.limit:g}: {e}') from None
  return Costs(space, of_archs, constraint)


def _of_archs(space, macro, rows):
  from nasjax import cost
  from nasjax.predictors import latency

  if FLAGS.cost != 'latency' and rows is not None:
    keys = rows.column('semantic_key').astype(str).tolist()
    by_key = dict(zip(keys, rows.column(FLAGS.cost).tolist()))
    return lambda archs: np.array(
      [by_key[key] for key in space.semantic_keys(archs).tolist()], float
    )
  if FLAGS.cost != 'latency':
    count = getattr(cost, FLAGS.cost)
    return lambda archs: np.array(
      [count(space, a, macro) for a in archs], float
    )
  if FLAGS.profile:
    profile = latency.read(FLAGS.profile)
    name = getattr(macro, 'name', macro)
    if profile.space.name != space.name or profile.macro.name != name:
      raise ValueError(
        f'--profile={FLAGS.profile} is of {profile.macro.name} of '
        f'{profile.space.name}, the search of {name} of {space.name}'
      )
    name = FLAGS.latency_predictor
    latency_predictors.check('latency_predictor', name)
    return latency.fit(name, profile).predict
  if rows is None or not rows.latencies:
    raise ValueError(
      '--cost=latency: nothing was measured; give --profile, or fill the table '
      'with latency.py --table'
    )
  setting = rows.latencies[0]._asdict()
  return lambda archs: np.asarray(rows.latency(archs, **setting), float)


def joined(names, costs, values, scape=None):
  """Returns searchers by name, those that can take a limit or costs with it.

  Args:
    names: `{name: make}` of `searchers.named`.
    costs: Costs or None.
    values: for each digit the values it may take.
    scape: the landscape of a table, if that answers.

  Raises:
    ValueError: nsga2 without a cost.
  """
  from studies import more_searchers

  from nasjax import search
  from nasjax.search import landscape

  found = dict(names)
  for name, make in names.items():
    if make is more_searchers.NSGA2:
      if costs is None:
        raise ValueError(
          '--searchers: nsga2 minimises a cost, too; give --cost'
        )

      def cost_of(vectors):
        return costs.of_archs(landscape.archs_of(values, np.array(vectors)))

      found[name] = functools.partial(make, cost_of=cost_of)
    hard = costs and costs.constraint and costs.constraint.penalty == 'hard'
    if hard and make is search.SEARCHERS['evolution']:
      found[name] = functools.partial(make, limit=costs.limit(values, scape))
  return found


def report(study, costs, out):
  """Prints what the searches found within the limit; returns it for JSON.

  Draws all cells, with the front that nothing beats, into OUT/pareto.png.

  Args:
    study: `search_summary.Study`, on a table.
    costs: Costs.
    out: directory of the run.
  """
  from nasjax import analysis
  from nasjax.search import constraints

  scape, unit = study.scape, UNITS[FLAGS.cost]
  cost_c = np.asarray(costs.of_archs(scape.cell_archs), float)
  there_cr = np.arange(scape.test_cr.shape[1]) < scape.runs_c[:, None]
  mean_c = np.where(there_cr, scape.test_cr, 0).sum(1) / scape.runs_c
  worst = np.array([cost_c.max(), mean_c.max()]) * (1 + 1e-9)

  def volume(cells):
    points = np.stack([cost_c[cells], mean_c[cells]], 1)
    return analysis.hypervolume(points, worst)

  whole = volume(np.arange(len(cost_c)))
  draw(scape, costs, cost_c, mean_c, study.metric, out)
  limit = np.inf if costs.constraint is None else costs.constraint.limit
  if np.isfinite(limit):
    best = int(np.argmin(np.where(cost_c <= limit, mean_c, np.inf)))
    print(
      f'limit {limit:g}{unit}: {(cost_c <= limit).mean():.0%} of '
      f'{len(cost_c)} cells meet it; the best of them has {mean_c[best]:.2%}'
    )
  found = {}
  for name, trace in study.traces.items():
    chosen = constraints.chosen(trace, scape, cost_c, limit, study.budget)
    shares = []
    for place_n, epochs_n in zip(trace.place, trace.epochs):
      paid_n = np.cumsum(epochs_n) <= study.budget * study.epochs
      there_n = paid_n & (epochs_n == study.epochs)
      cells = scape.cell_a[place_n[there_n].astype(int)]
      shares.append(volume(np.unique(cells)) / whole)
    test, volumes = (
      analysis.mean(chosen.test_r),
      analysis.mean(np.array(shares)),
    )
    meets = analysis.share(int(chosen.meets_r.sum()), len(chosen.meets_r))
    print(
      f'{name}: {test.value:.2%} [{test.low:.2%}, {test.high:.2%}] on test, '
      f'cost {np.nanmean(chosen.cost_r):.3g}{unit}, within the limit in '
      f'{meets.value:.0%}; {np.nanmean(chosen.beyond_r):.0%} of trainings '
      f'beyond it; hypervolume {volumes.value:.3f} [{volumes.low:.3f}, '
      f'{volumes.high:.3f}] of that of all cells'
    )
    found[name] = {
      'test': _plain(test),
      'cost': float(np.nanmean(chosen.cost_r)),
      'meets': _plain(meets),
      'beyond': float(np.nanmean(chosen.beyond_r)),
      'hypervolume': _plain(volumes),
    }
  return found


def draw(scape, costs, cost_c, mean_c, metric, out):
  """Draws error rates of all cells against their cost."""
  from nasjax import analysis, plots

  front_c = analysis.pareto_front(cost_c, mean_c)
  scale, label = {
    'params': (1e-6, 'parameters, millions'),
    'macs': (1e-6, 'multiply-accumulates of 2 s, millions'),
    'latency': (1e3, 'latency, ms'),
  }[FLAGS.cost]
  names = [costs.space.names(arch) for arch in scape.cell_archs]
  figure = plots.pareto(
    scale * cost_c, mean_c, front_c, label, names, metric=metric,
    title=f'{front_c.sum()} of {len(front_c)} cells are beaten by none in both',
  )  # fmt: skip
  plots.save(figure, out / 'pareto.png')
  print(f'{front_c.sum()} cells on the front of {label} and {metric}:')
  for c in np.flatnonzero(front_c)[np.argsort(cost_c[front_c])]:
    print(f'  {scale * cost_c[c]:.3f}  {mean_c[c]:.2%}  {names[c]}')


def write(found, out):
  """Puts what `report` returned beside the figures of a search."""
  from nasjax.storage import disk

  record = {
    'cost': FLAGS.cost,
    'limit': FLAGS.limit,
    'penalty': FLAGS.penalty if FLAGS.limit is not None else None,
    'searchers': found,
  }
  text = json.dumps(record, indent=1, allow_nan=False)
  disk.publish(out / 'constrained.json', text.encode())


def _plain(estimate):
  told = estimate._asdict()
  return {name: None if v != v else v for name, v in told.items()}
