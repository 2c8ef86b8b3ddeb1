"""What a study of train once, deploy many says: tables, figures, a report.

All of it is made from the record of the study, plain values as report.json has
them, so that a report can be drawn again without anything being trained.
"""


import numpy as np
from common import command
from common.console import CONSOLE, short
from rich.table import Table

from nasjax import analysis, plots
from nasjax.storage import disk

# Goals: how far above a network trained alone one of the supernet may be, and
# what one supernet may cost, in trainings of the largest network alone.
GOAL, GOAL_COST = 0.03, 1.5
ALONE = 'A1'


def percent(value):
  return '--' if value is None else f'{value:.2%}'


def compared(record):
  """Returns how each way's networks lie to those trained alone, a dict a size.

  The relative difference of the means over seeds, its interval by Welch's t on
  the difference, the mean of those trained alone taken for exact.
  """
  alone = _by_size(record['alone'])
  found = []
  for label, runs in by_label(record).items():
    own = _by_size([at for run in runs for at in run['at_sizes']])
    for size, test_s in own.items():
      known = alone.get(size)
      found.append(
        {
          'label': label,
          'size': size,
          'params': _params(runs, size),
          'test': _estimate(test_s),
          'alone': _estimate(known) if known else None,
          'relative': _relative(label, test_s, known),
        }
      )
  return found


def _params(runs, size):
  return [at['params'] for r in runs for at in r['at_sizes']
          if at['size'] == size]  # fmt: skip


def by_label(record):
  """Returns the runs of each way, those of its seeds together."""
  found = {}
  for run in record['supernets']:
    found.setdefault(run['label'], []).append(run)
  return found


def _by_size(networks):
  found = {}
  for network in networks:
    # What failed has recognised nothing.
    test = 1.0 if network['test'] is None else network['test']
    found.setdefault(network['size'], []).append(test)
  return found


def _estimate(test_s):
  found = analysis.student_mean(test_s)
  several = len(test_s) > 1
  return {
    'mean': float(found.value),
    'low': float(found.low) if several else None,
    'high': float(found.high) if several else None,
    'seeds': len(test_s),
  }


def _relative(label, test_s, alone_s):
  if not alone_s or not np.mean(alone_s):
    return None
  mean = float(np.mean(alone_s))
  v = analysis.judge({label: test_s}, alone_s, paired=False, least=2)[label]
  several = min(len(test_s), len(alone_s)) > 1
  difference = float(np.mean(test_s)) - mean
  return {
    'value': difference / mean,
    'low': v.low / mean if several else None,
    'high': v.high / mean if several else None,
    'lies': v.lies,
    'goal': GOAL,
    'met': difference / mean <= GOAL,
  }


def costs(record):
  """Returns what the sizes cost: one training of each way, or one each.

  In seconds of one device, and joules where devices tell; medians over seeds,
  for seconds are of the clock, and a seed that other work held up, or for which
  a program was compiled, is not what a training takes. Told in trainings of the
  largest network alone, too.
  """
  alone = {}
  for network in record['alone']:
    alone.setdefault(network['size'], []).append(network)
  sizes = {
    size: {
      'seconds': _median(own, 'seconds'), 'joules': _median(own, 'joules')
    }
    for size, own in alone.items()
  }  # fmt: skip
  known = [s['seconds'] for s in sizes.values() if s['seconds'] is not None]
  largest = max(record['alone'], key=lambda n: n['params'], default=None)
  largest = largest and sizes[largest['size']]['seconds']
  found = {'alone': sizes, 'largest_alone_seconds': largest, 'supernets': {}}
  for label, runs in by_label(record).items():
    training, search = _median(runs, 'seconds'), _median(runs, 'search_seconds')
    own = {
      'training_seconds': training,
      'search_seconds': search,
      'training_joules': _median(runs, 'joules'),
      'search_joules': _median(runs, 'search_joules'),
      'batches': _median(runs, 'batches'),
      'trainings': None,
      'with_search': None,
      'met': None,
      'sizes_from': None,
    }
    if largest and training is not None:
      total = training + (search or 0.0)
      own['trainings'] = training / largest
      own['with_search'] = total / largest
      own['met'] = own['trainings'] <= GOAL_COST
      # From how many sizes on one training is cheaper than one each.
      own['sizes_from'] = int(np.floor(total / np.mean(known))) + 1
    found['supernets'][label] = own
  return found


def _median(runs, name):
  known = [run[name] for run in runs if run.get(name) is not None]
  return float(np.median(known)) if known else None


def tables(record):
  """Returns the tables of a report: a title, columns and rows each."""
  found = [_sizes_table(record)]
  if any(run['table'] == 2 for run in record['supernets']):
    found.append(_sizes_table(record, 2))
  return [*found, _cost_table(record)]


def _interval(estimate):
  if estimate is None:
    return '--'
  if estimate['low'] is None:
    return percent(estimate['mean'])
  half = (estimate['high'] - estimate['low']) / 2
  return f'{percent(estimate["mean"])} +- {half:.2%}'


def _told_relative(relative):
  if relative is None:
    return '--'
  told = f'{relative["value"]:+.1%}'
  if relative['low'] is not None:
    told += f' ({relative["low"]:+.1%} to {relative["high"]:+.1%})'
  return told


def _sizes_table(record, number=1):
  metric, seeds = record['metric'], record['seeds']
  columns = ['way', 'what it is']
  sizes = record['sizes']
  for size in sizes:
    columns.append(f'{size["name"]}, {size["params"] / 1e6:.3g} M')
    columns.append('to alone')
  rows = []
  alone = _by_size(record['alone'])
  if alone and number == 1:
    cells = [ALONE, 'each trained by itself']
    for size in sizes:
      own = alone.get(size['name'])
      cells += [_interval(_estimate(own)) if own else '--', '']
    rows.append(cells)
  lies = {(c['label'], c['size']): c for c in record['comparison']}
  for label, runs in by_label(record).items():
    if runs[0]['table'] != number:
      continue
    cells = [label, runs[0]['what']]
    for size in sizes:
      own = lies.get((label, size['name']))
      cells += [
        _interval(own and own['test']), _told_relative(own and own['relative'])
      ]  # fmt: skip
    rows.append(cells)
  what = 'ways to train' if number == 1 else 'ways to distil'
  title = (
    f'Table {number}, {what}: test {metric} by size on {record["corpus"]}, '
    f'{len(seeds)} {"seeds" if len(seeds) > 1 else "seed"}'
  )
  return title, columns, rows


def _cost_table(record):
  columns = ['way', 'training', 'search', 'joules', 'trainings']
  columns.append('worth it from')
  found, rows = record['costs'], []
  for size, own in found['alone'].items():
    ratio = _ratio(own['seconds'], found['largest_alone_seconds'])
    rows.append(
      [
        f'{ALONE} {size}', _clock(own['seconds']), '',
        _joules(own['joules']), ratio, '',
      ]
    )  # fmt: skip
  for label, own in found['supernets'].items():
    joules = [own['training_joules'], own['search_joules']]
    total = None if None in joules else sum(joules)
    least = own['sizes_from']
    rows.append(
      [
        label,
        _clock(own['training_seconds']),
        _clock(own['search_seconds']),
        _joules(total),
        '--' if own['trainings'] is None else f'{own["trainings"]:.2f}',
        '--' if least is None else f'{least} sizes',
      ]
    )
  title = (
    'cost of one training: h:mm:ss of one device, and how many times that of '
    'the largest network alone'
  )
  return title, columns, rows


def _ratio(seconds, largest):
  if seconds is None or not largest:
    return '--'
  return f'{seconds / largest:.2f}'


def _clock(seconds):
  return '--' if seconds is None else short(seconds)


def _joules(value):
  return '--' if value is None else f'{value:,.0f}'


def said(record):
  """Returns what came out in lines: of the goals, and of what is missing."""
  lines = []
  for label in by_label(record):
    own = [c for c in record['comparison'] if c['label'] == label]
    judged = [c for c in own if c['relative'] is not None]
    if not judged:
      continue
    missed = [c for c in judged if not c['relative']['met']]
    if missed:
      told = ', '.join(
        f'{c["size"]} {_told_relative(c["relative"])}' for c in missed
      )
      lines.append(
        f'{label}: the goal, at most {GOAL:.0%} above networks trained alone, '
        f'is missed at {told}'
      )
    else:
      lines.append(
        f'{label}: at most {GOAL:.0%} above networks trained alone at every '
        'size, as was the goal'
      )
    cost = record['costs']['supernets'][label]
    if cost['trainings'] is not None:
      kept = 'within' if cost['met'] else 'above'
      lines.append(
        f'{label}: one training costs {cost["trainings"]:.2f} of the largest '
        f'network alone ({cost["with_search"]:.2f} with its search), {kept} '
        f'the goal of {GOAL_COST}'
      )
  if record['int8'] and record['alone']:
    lines.append(
      "weights of the supernets' networks were rounded to 8 bits, those of "
      f'{ALONE} were not'
    )
  if any(c['trainings'] for c in record['costs']['supernets'].values()):
    lines.append(
      'costs are medians over seeds, by the clock: other work on the machine '
      'counts; --dry_run times steps of all ways one after the other'
    )
  if len(record['seeds']) < 2:
    lines.append('one seed: nothing tells what is chance')
  if record['energy'] is not None:
    lines.append(record['energy'])
  return lines


def markdown(record):
  """Returns the report as Markdown."""
  parts = [
    f'# Train once, deploy many: {record["space"]} on {record["corpus"]}',
    f'macro network {record["macro"]}, recipe {record["recipe"]}, seeds '
    f'{", ".join(map(str, record["seeds"]))}; {record["networks"]:,} networks '
    f'of {record["range"][0] / 1e6:.3g} to {record["range"][1] / 1e6:.3g} '
    'million parameters.',
  ]
  for title, columns, rows in tables(record):
    lines = [columns, ['---'] * len(columns), *rows]
    parts += [
      f'## {title}',
      '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines),
    ]
  parts += ['\n'.join(f'- {line}' for line in said(record))]
  return '\n\n'.join(parts) + '\n'


def show(record):
  """Prints the tables, and what they say."""
  for title, columns, rows in tables(record):
    view = Table(title=title)
    for n, column in enumerate(columns):
      view.add_column(column, justify='left' if n < 1 else 'right')
    for row in rows:
      view.add_row(*map(str, row))
    CONSOLE.print(view)
  for line in said(record):
    CONSOLE.print(line)


def draw(record, out):
  """Draws all figures into OUT/figures; returns their paths."""
  folder, paths = out / 'figures', []
  folder.mkdir(exist_ok=True)

  def save(figure, name):
    paths.append(folder / f'{name}.png')
    plots.save(figure, paths[-1])

  metric, corpus = record['metric'], record['corpus']
  ways = [_way(label, runs) for label, runs in by_label(record).items()]
  if record['alone']:
    ways.append(_way_alone(record))
  if ways:
    save(
      plots.todm.sizes(
        ways,
        f'test {metric}',
        f'{len(by_label(record))} ways to train a supernet of '
        f'{record["space"]}, on {corpus}',
      ),
      'sizes',
    )
  fronts = [_front(run) for run in record['supernets'] if run['store']]
  if fronts:
    kept = sum(len(front.params_n) for front in fronts)
    validated = [
      n | {'test': n['validation']}
      for n in record['alone']
      if n['validation'] is not None
    ]
    if validated:
      fronts.append(_sized(f'{ALONE}, each alone', validated, alone=True))
    save(
      plots.todm.sizes(
        fronts,
        f'validation {metric}',
        f'{kept} networks that searches kept, of all sizes of '
        f'{record["space"]}, on {corpus}',
      ),
      'fronts',
    )
  for run in record['supernets']:
    if not run['store']:
      continue
    rows = run['store']
    most = max(len(row['widths']) for row in rows)
    width_nl = [row['widths'] + [0] * (most - len(row['widths']))
                for row in rows]  # fmt: skip
    title = (
      f'{run["label"]}, seed {run["seed"]}: widths of the {len(rows)} networks '
      'that its search kept'
    )
    save(
      plots.todm.widths(
        width_nl, [row['params'] for row in rows], record['widths'], title
      ),
      f'widths_{run["label"]}_{run["seed"]}',
    )
  cost = record['costs']
  alone = [s['seconds'] for s in cost['alone'].values() if s['seconds']]
  if alone and cost['supernets']:
    supernets = {
      label: own['training_seconds'] + (own['search_seconds'] or 0.0)
      for label, own in cost['supernets'].items()
      if own['training_seconds'] is not None
    }
    save(
      plots.todm.costs_of_sizes(
        supernets,
        float(np.mean(alone)),
        'device-seconds',
        'What the sizes cost, trained once or each alone',
      ),
      'costs',
    )
  return paths


def _front(run):
  """Returns the front of what a search kept, by validation: Figure 3."""
  params = np.array([row['params'] for row in run['store']])
  errors = np.array([row['validation'] for row in run['store']])
  at = analysis.pareto_front(params, errors)
  return plots.todm.Sizes(
    run['label'], params[at], errors[at], np.zeros(at.sum())
  )


def _way(label, runs):
  """Returns the error rates on test of a supernet's networks at all sizes."""
  rows = [at for run in runs for at in run['at_sizes']]
  return _sized(label, rows, alone=False)


def _way_alone(record):
  return _sized(f'{ALONE}, each alone', record['alone'], alone=True)


def _sized(label, rows, alone):
  by_size, params = _by_size(rows), {}
  for row in rows:
    params.setdefault(row['size'], []).append(row['params'])
  found = {size: _estimate(own) for size, own in by_size.items()}
  return plots.todm.Sizes(
    label,
    [np.mean(params[size]) for size in found],
    [e['mean'] for e in found.values()],
    [np.nan if e['low'] is None else e['high'] - e['mean']
     for e in found.values()],
    alone,
  )  # fmt: skip


def completed(record):
  """Returns the record with what is made from it: all numbers of the report."""
  found = record | {'comparison': compared(record), 'costs': costs(record)}
  return found | {'said': said(found)}


def write(record, out, path):
  """Completes the record, prints and draws it, and writes the report.

  Args:
    record: of `todm_study.run`.
    out: directory of the study.
    path: where the numbers go beside report.json, or None.

  Returns:
    the record.
  """
  record = completed(record)
  show(record)
  for written in filter(None, (out / 'report.json', path)):
    command.publish_json(written, record)
  disk.publish(out / 'report.md', markdown(record).encode())
  for figure in draw(record, out):
    CONSOLE.print(f'figure: {figure}')
  CONSOLE.print(f'report: {out / "report.md"}')
  return record
