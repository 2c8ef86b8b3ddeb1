"""What a transfer shows: correlations, groups, what it cost."""

import numpy as np
from common.console import CONSOLE
from rich.table import Table

from nasjax import analysis, plots


def write(rows, source, chosen, table, seeds, metric, out):
  """Prints and draws everything, and returns it as plain values for JSON.

  Args:
    rows: the source's `table.Table`.
    source: its `analysis.Results`, of all its cells.
    chosen: `analysis.Chosen`, of these.
    table: the target's `table.Table`.
    seeds: of its networks.
    metric: name of the target's error rate on test; None for what decides.
    out: directory of the run.
  """
  target = analysis.results(table, metric=metric)
  source = analysis.of_cells(source, source.archs_nd[chosen.cell_n])
  target = analysis.of_cells(target, source.archs_nd)
  at = [table.seeds.index(seed) for seed in seeds]
  target = target._replace(
    **{name: getattr(target, name)[:, at] for name in _BY_SEED}
  )
  found = analysis.transfer(source, target)
  names = rows.metric, table.metric, table.named(metric)
  _print_correlations(found, names)
  _print_groups(chosen, source, target, names)
  cost = _cost(rows, source, table, target, chosen)
  _print_cost(cost)
  (out / 'figures').mkdir(exist_ok=True)
  path = out / 'figures' / 'transfer.png'
  plots.save(_draw(rows, source, table, target, chosen, found, names), path)
  CONSOLE.print(f'table: {out / "table"}, {len(table)} rows\nfigure: {path}')
  if found.left_out or chosen.left_out:
    CONSOLE.print(
      f'left out: {chosen.left_out} cells of the source, that failed or have '
      f'a high error rate, and {found.left_out} that failed on the target'
    )
  return {
    'source': {'table': str(rows.path), 'recipe': source.recipe},
    'target': {'recipe': target.recipe, 'macro': str(table.column('macro')[0])},
    'metrics': dict(zip(('source', 'target_val', 'target_test'), names)),
    'pairs': _pairs(source, target, chosen, seeds, names[2]),
    'pearson': _splits(found.pearson),
    'spearman': _splits(found.spearman),
    'kendall': _splits(found.kendall),
    'ceiling': {
      'source': _seeds_agree(found.ceiling['source']),
      'target': _seeds_agree(found.ceiling['target']),
      'attainable': {
        split: _number(value)
        for split, value in found.ceiling['attainable'].items()
      },
    },
    'left_out': {'source': chosen.left_out, 'target': found.left_out},
    'cost': cost,
  }


_BY_SEED = ('has_ns', 'val_ns', 'test_ns')


def _number(value):
  return None if value is None or not np.isfinite(value) else float(value)


def _correlation(c):
  """A correlation for JSON; its interval is null for too few cells."""
  ends = [_number(c.low), _number(c.high)]
  return {
    'value': _number(c.value),
    'interval': None if None in ends else ends,
    'cells': c.n,
  }


def _splits(by_split):
  return {split: _correlation(c) for split, c in by_split.items()}


def _seeds_agree(by_split):
  return {
    split: {
      'seeds': c.seeds,
      'one_with_another': _correlation(c.single),
      'mean': _correlation(c.of_mean),
    }
    for split, c in by_split.items()
  }


def _pairs(source, target, chosen, seeds, metric):
  """Returns a dict for each network of the target."""
  return [
    {
      'arch': arch.tolist(),
      'seed': int(seed),
      'group': chosen.group_n[n],
      'source': _number(source.test_n[n]),
      'source_val': _number(source.val_n[n]),
      'target_val': _number(target.val_ns[n, s]),
      'target_test': _number(target.test_ns[n, s]),
      'metric': metric,
    }
    for n, arch in enumerate(source.archs_nd)
    for s, seed in enumerate(seeds)
  ]


def _told(c):
  if np.isnan(c.value):
    return '--'
  if np.isnan(c.low):
    return f'{c.value:z.2f}, too few cells ({c.n})'
  return f'{c.value:z.2f} ({c.low:z.2f} to {c.high:z.2f})'


def _print_correlations(found, names):
  source, val, test = names
  view = Table(title=f'source test {source} with the target, over cells')
  for column in ('', f'validation {val}', f'test {test}'):
    view.add_column(column, justify='right' if column else 'left')
  for name in ('pearson', 'spearman', 'kendall'):
    by_split = getattr(found, name)
    view.add_row(name.capitalize(), *map(_told, by_split.values()))
  target = found.ceiling['target']
  view.add_row(
    'one seed with another (Spearman)',
    *(_told(target[split].single) for split in ('val', 'test')),
  )
  attainable = found.ceiling['attainable'].values()
  view.add_row(
    'highest that seeds allow',
    *('--' if np.isnan(v) else f'{v:.2f}' for v in attainable),
  )
  CONSOLE.print(view)


def _print_groups(chosen, source, target, names):
  groups = np.array(chosen.group_n)
  view = Table(title='by group: median (lowest to highest) of cell means')
  for column in ('', 'cells', f'source {names[0]}', f'target {names[2]}'):
    view.add_column(column, justify='right' if column else 'left')
  for name in dict.fromkeys(chosen.group_n):
    at = groups == name
    view.add_row(
      name,
      str(int(at.sum())),
      *(_range(v[at]) for v in (source.test_n, target.test_n)),
    )
  CONSOLE.print(view)


def _range(value_n):
  value_n = value_n[np.isfinite(value_n)]
  if not len(value_n):
    return '--'
  low, high = value_n.min(), value_n.max()
  return f'{np.median(value_n):.2%} ({low:.2%} to {high:.2%})'


def _cost(rows, source, table, target, chosen):
  """What a network costs on either corpus, and a search of so many."""
  part = rows.select(recipe=source.recipe)
  seconds = [float(np.nanmean(t.column('seconds'))) for t in (part, table)]
  macs = [float(np.nanmean(r.macs_n)) for r in (source, target)]
  networks = len(chosen.cell_n) * len(target.seeds)
  sides = {
    name: {
      'seconds_a_network': seconds[n],
      'macs_a_network': macs[n],
      'seconds_of_all': seconds[n] * networks,
    }
    for n, name in enumerate(('source', 'target'))
  }
  return sides | {'networks': networks, 'ratio': seconds[1] / seconds[0]}


def _print_cost(cost):
  source, target = (cost[name]['seconds_a_network'] for name in _SIDES)
  CONSOLE.print(
    f'a network took {source:.1f} s on the source and {target:.1f} s on the '
    f'target, {cost["ratio"]:.1f} times as long (a device, at the time of '
    'either run)'
  )


_SIDES = ('source', 'target')


def _draw(rows, source, table, target, chosen, found, names):
  c = found.spearman['test']
  if np.isnan(c.low):
    title = f'{c.n} cells on two corpora: too few for a verdict'
  elif c.low > 0:
    title = f'The ranking carries over: Spearman {_told(c)}'
  elif c.high < 0:
    title = f'The ranking is turned round: Spearman {_told(c)}'
  else:
    title = f'No significant agreement: Spearman {_told(c)}'
  several = target.test_ns.shape[1] > 1
  spread_n = target.test_ns.std(axis=1, ddof=1) if several else None
  corpora = [str(t.column('corpus')[0]) for t in (rows, table)]
  return plots.transfer(
    source.test_n,
    target.test_n,
    chosen.group_n,
    f'test {names[0]} on {corpora[0]}',
    f'test {names[2]} on {corpora[1]}',
    title,
    spread_n,
  )
