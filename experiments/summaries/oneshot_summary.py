"""What a study of one-shot searches says, in words, numbers and figures."""

import shlex

import numpy as np
from common import command
from common.console import CONSOLE, print_next
from rich.table import Table
from summaries import search_curves
from summaries.search_summary import VERDICTS, finding

from nasjax import analysis, cost, plots, table
from nasjax.decoding import metrics

# Methods as their papers write them.
_TITLES = {
  'darts': 'DARTS',
  'darts_asr': 'DARTS-ASR',
  'darts_asr_bilevel': 'DARTS-ASR on two levels',
  'gdas': 'GDAS',
  'proxyless': 'ProxylessNAS',
  'snas': 'SNAS',
  'st_nas': 'ST-NAS',
}
_RANDOM = 'random search of '
_UNKNOWN = analysis.Verdict('unknown', *[float('nan')] * 5, 0)


def _per(value):
  return f'{value:.2%}'


def titled(label):
  """Returns how a figure names what found a network."""
  method, comma, rest = label.partition(', ')
  return _TITLES.get(method, method.replace('_', ' ')) + comma + rest


def values(study, found, column, metric=None):
  """Returns one number for each search seed: the mean over retraining seeds.

  Of a baseline, which has one architecture, one for each retraining seed.
  `metric` names the error rate in `column`; None for what decides.
  """
  value_as = np.array(
    [
      [study.lab.value(arch, seed, column, metric) for seed in study.seeds]
      for arch in found.archs
    ]
  )
  return value_as[0] if len(value_as) == 1 else value_as.mean(1)


def ranks(study, found, metric=None):
  """Returns the place of each architecture in the benchmark table, from 1.

  By test error rate, the mean over all seeds there; None for what it lacks.
  """
  if study.lab.benchmark is None:
    return []
  keys, per_n = _means(study.lab.benchmark, metric)
  place = {key: 1 + r for r, key in enumerate(keys[np.argsort(per_n)])}
  space = study.supernet.space
  return [place.get(space.semantic_key(arch)) for arch in found.archs]


def _means(rows, metric):
  """Returns the semantic keys of a table, and their mean error rates."""
  per_r = np.nan_to_num(rows.errors(metric), nan=1.0)
  keys, which = np.unique(rows.column('semantic_key'), return_inverse=True)
  return keys, np.bincount(which, per_r) / np.bincount(which)


def of_table(rows, archs, seeds, count, metric=None):
  """Returns what a table says of all cells, and of random search in it.

  Args:
    rows: of the table: one space, macro network, recipe and corpus.
    archs: all functions that may be drawn; None if nobody can list them.
    seeds: of retraining: by the first random search chooses.
    count: how many architectures it trains.
    metric: names the error rate on test; None for what decides.

  Returns:
    {'test_per': mean error rate of each cell, rising,
     'count': of random search,
     'expected_random': the exact expectation of what it finds; None where the
       table lacks a network that may be drawn}
  """
  _, per_n = _means(rows, metric)
  found = {
    'test_per': np.sort(per_n).tolist(),
    'count': count,
    'expected_random': None,
  }
  if archs is None or not count <= len(archs) <= len(per_n):
    return found
  # What failed recognised nothing.
  failed_r = np.isnan(rows.errors())
  val_r = np.nan_to_num(rows.curves('val_per'), nan=1.0).min(axis=1)
  val_r = np.where(failed_r, 1.0, val_r)
  test_r = np.nan_to_num(rows.errors(metric), nan=1.0)
  keys_r, seed_r = rows.column('semantic_key'), rows.column('seed')
  row_of = {pair: r for r, pair in enumerate(zip(keys_r, seed_r))}
  keys = rows.space.semantic_keys(archs)
  wanted = [[row_of.get((key, seed), -1) for seed in seeds] for key in keys]
  if np.min(wanted) >= 0:
    test_n = test_r[wanted].mean(axis=1)
    val_n = val_r[[own[0] for own in wanted]]
    found['expected_random'] = analysis.expected_best(val_n, test_n, count)
  return found


def record(study, metric=None):
  """Returns all numbers of the report, as plain values for JSON.

  `metric` names the error rate on test; None for what decides.
  """
  decides = study.work.job.metric
  called = metrics.named(metric, decides, study.work.prepareds[0].units)
  supernet = study.supernet
  space, macro = supernet.space, supernet.macro
  record = {
    'space': space.name,
    'macro': macro.name,
    'metric': called,
    'decides': decides,
    'corpus': study.work.job.corpus_name,
    'recipe': study.work.job.recipe.name,
    'seeds': list(study.seeds),
    'found': {},
    'searches': [
      {
        name: result[name]
        for name in (
          'name', 'names', 'epochs', 'seconds', 'executions'
        )
      }
      | {'label': label, 'seed': search.seed}
      for label, search, result in zip(
        study.labels, study.searches, study.results
      )
    ],
    'rank_correlations': rank_correlations(study, metric),
  }  # fmt: skip
  gaps = discretisation(study)
  if gaps:
    record['discretisation'] = gaps
  for found in study.found:
    record['found'][found.label] = {
      'archs': [space.names(arch) for arch in found.archs],
      'params': [cost.params(space, arch, macro) for arch in found.archs],
      'batches': found.batches,
      'val_per': values(study, found, 'val_per').tolist(),
      'test_per': values(study, found, 'test_per', metric).tolist(),
      'wer': study.lab.word_errors(found.archs, study.seeds),
      'table_ranks': ranks(study, found, metric),
    }
  if study.lab.benchmark is not None:
    from studies import oneshot_study  # defines flags

    (random,) = [f.label for f in study.found if f.label.startswith(_RANDOM)]
    record['table'] = of_table(
      study.lab.benchmark, oneshot_study.functions(supernet), study.seeds,
      int(random.removeprefix(_RANDOM)), metric,
    )  # fmt: skip
  judged = verdicts(record['found'], _expected(record))
  for label, v in judged.items():
    record['found'][label]['against_random'] = search_curves.plain(v)
  return record


def discretisation(study):
  """Returns what it costs to choose one operation an edge, a record a search.

  Of searches whose mixture is itself the network that is found: its error rate
  on test (`soft`), that of the derived network with the weights that they share
  (`shared`), and of the derived network trained anew, the mean over its seeds
  (`retrained`); `gap` is the last less the first. All by what decides.
  """
  found = []
  for label, search, result in zip(study.labels, study.searches, study.results):
    if 'worth' not in result:
      continue
    arch = np.array(result['arch'], np.int8)
    alone = [study.lab.value(arch, seed, 'test_per') for seed in study.seeds]
    own = {name: v[1] for name, v in result['worth']['test'].items()}
    retrained = float(np.mean(alone))
    found.append(
      {'label': label, 'seed': search.seed}
      | own
      | {'retrained': retrained, 'gap': retrained - own['soft']}
    )
  return found


def rank_correlations(study, metric=None):
  """Returns how supernets rank the table's networks, a record a search."""
  found = []
  if not study.ranks:
    return found
  alone_n, _ = alone(study, metric)
  for i, shared_n in study.ranks.items():
    search = study.searches[i]
    correlation = analysis.rank_correlation(shared_n, alone_n)
    found.append(
      {
        'label': study.labels[i],
        'seed': search.seed,
        'architectures': len(alone_n),
        'spearman': correlation.value,
        'low': correlation.low,
        'high': correlation.high,
      }
    )
  return found


def alone(study, metric=None):
  """Returns mean and deviation of the test error of networks in ranks."""
  from studies import oneshot_study  # defines flags

  rows = study.lab.benchmark
  archs = oneshot_study.benchmark_archs(study.supernet, study.lab)
  keys = study.supernet.space.semantic_keys(archs)
  row_keys, per_r = rows.column('semantic_key'), rows.errors(metric)
  per = [np.nan_to_num(per_r[row_keys == key], nan=1.0) for key in keys]
  deviations = [p.std(ddof=1) if len(p) > 1 else np.nan for p in per]
  return np.array([p.mean() for p in per]), np.array(deviations)


def show(record):
  """Prints the comparison and the rank correlations."""
  seeds = record['seeds']
  view = Table(
    title=f'test {record["metric"]} of {record["space"]} networks found on '
    f'{record["corpus"]}, by stand-alone training with recipe '
    f'{record["recipe"]} and '
    f'{len(seeds)} seeds'
  )
  ranked = any(f['table_ranks'] for f in record['found'].values())
  worded = record['metric'] != 'WER' and any(
    f['wer'] for f in record['found'].values()
  )
  columns = ['found by', 'searches', 'mean', '95 % interval', 'against random']
  columns += ['parameters', 'cost in batches']
  columns += ['WER'] * worded + ['ranks in the table'] * ranked
  for column in columns:
    view.add_column(column, justify='left' if column == columns[0] else 'right')
  expected = _expected(record)
  lies = against_random(record['found'], expected)
  for label, found in record['found'].items():
    mean = analysis.student_mean(found['test_per'])
    several = len(found['test_per']) > 1
    cells = [
      label,
      str(len(found['archs'])),
      _per(mean.value),
      f'{_per(mean.low)} to {_per(mean.high)}' if several else '',
      VERDICTS[lies[label]] if label in lies else '',
      f'{np.mean(found["params"]):,.0f}',
      f'{np.mean(found["batches"]):,.0f}',
    ]
    if worded:
      cells.append(_per(np.mean(found['wer'])) if found['wer'] else '')
    if ranked:
      cells.append(', '.join(map(str, found['table_ranks'])))
    view.add_row(*cells)
  CONSOLE.print(view)
  if expected is not None:
    CONSOLE.print(
      f'{_random(record["found"])}, exact expectation in the table: '
      f'{_per(expected)}'
    )
  CONSOLE.print(said(record))
  _show_gaps(record)
  for c in record['rank_correlations']:
    CONSOLE.print(
      f'{c["label"]}, seed {c["seed"]}: rank correlation of validation '
      f'{record["decides"]} with shared weights and test {record["metric"]} '
      'alone, '
      f'{c["architectures"]} architectures: '
      f'{c["spearman"]:.2f} ({c["low"]:.2f} to {c["high"]:.2f})'
    )


def _show_gaps(record):
  """Prints `discretisation`, and the mean gap with its interval."""
  gaps = record.get('discretisation', [])
  if not gaps:
    return
  view = Table(
    title=f'test {record["decides"]}: the mixture that was searched, and the '
    'network that is derived from it'
  )
  columns = 'search', 'mixture', 'derived, shared weights', 'derived, retrained'
  for column in (*columns, 'retrained - mixture'):
    view.add_column(column, justify='left' if column == columns[0] else 'right')
  for gap in gaps:
    view.add_row(
      f'{titled(gap["label"])}, seed {gap["seed"]}',
      *(_per(gap[name]) for name in ('soft', 'shared', 'retrained')),
      f'{gap["gap"]:+.2%}',
    )
  CONSOLE.print(view)
  for label in dict.fromkeys(gap['label'] for gap in gaps):
    own = [gap['gap'] for gap in gaps if gap['label'] == label]
    mean = analysis.student_mean(own)
    text = f'{titled(label)}: discretised less mixture {mean.value:+.2%}'
    if len(own) > 1:
      text += f' ({mean.low:+.2%} to {mean.high:+.2%}, {len(own)} searches)'
    CONSOLE.print(text)


def verdicts(found, expected=None):
  """Returns the `analysis.Verdict` on all that is no random search.

  Against its exact expectation in the table, or else the first random search.
  Searches have few seeds, and none of them belongs to another: Student's t, or
  Welch's, which takes their error rates for normally distributed. Failed ones
  are left out.
  """

  def ran(label):
    per_n = np.array(found[label]['test_per'], np.float64)
    return per_n[np.isfinite(per_n)]

  reference = ran(_random(found)) if expected is None else expected
  others = [label for label in found if not label.startswith(_RANDOM)]
  judged = {}
  if np.size(reference):
    judged = analysis.judge(
      {label: ran(label) for label in others if len(ran(label))},
      reference, paired=False, least=2,
    )  # fmt: skip
  return {label: judged.get(label, _UNKNOWN) for label in others}


def against_random(found, expected=None):
  """Returns how each of them lies, as `verdicts` has it."""
  return {label: v.lies for label, v in verdicts(found, expected).items()}


def _random(found):
  """Returns the label of the first random search."""
  return next(label for label in found if label.startswith(_RANDOM))


def _expected(record):
  return (record.get('table') or {}).get('expected_random')


def said(record):
  """Returns what was found, in one sentence: of what searched several times."""
  found = record['found']
  searched = dict.fromkeys(search['label'] for search in record['searches'])
  judged = verdicts(found, _expected(record))
  return finding(
    {
      titled(label): judged[label]
      if len(found[label]['archs']) > 1
      else _UNKNOWN
      for label in searched
      if label in judged
    },
    f'{_random(found)} networks',
    record['metric'],
  )


def draw(study, record, out, metric=None):
  """Draws all figures into OUT/figures; returns their paths."""
  folder, paths = out / 'figures', []
  folder.mkdir(exist_ok=True)

  def save(figure, name):
    paths.append(folder / f'{name}.png')
    plots.save(figure, paths[-1])

  space, macro = study.supernet.space, study.supernet.macro
  ops = getattr(space, 'ops', None)  # only chains have the same everywhere
  names = [
    _file_name(label, search)
    for label, search in zip(study.labels, study.searches)
  ]
  for name, label, search, result in zip(
    names, study.labels, study.searches, study.results
  ):
    edges, alpha_by_edge, starts = plots.decisions(result)
    how = plots.findings.decided(edges, alpha_by_edge)
    title = f'{titled(label)}, seed {search.seed}: {how}'
    save(
      plots.probabilities(edges, alpha_by_edge, starts, ops, title=title),
      f'probabilities_{name}',
    )
    save(
      plots.entropies(edges, alpha_by_edge, starts, title=title),
      f'entropies_{name}',
    )
  save(_learning(study), 'learning')
  archs = [arch for f in study.found for arch in f.archs]
  labels = [
    titled(f.label) + f' {n + 1}' * (len(f.archs) > 1)
    for f in study.found
    for n in range(len(f.archs))
  ]
  chain = {}
  if hasattr(macro, 'subsampling'):
    chain = {'before': macro.before, 'subsampling': macro.subsampling}
  different = len(set(space.semantic_keys(np.array(archs))))
  title = f'{different} different networks among {len(archs)} that were found'
  save(plots.derived(space, archs, labels, **chain, title=title), 'derived')
  save(compared(record), 'comparison')
  if study.ranks:
    alone_n, sd_n = alone(study, metric)
  for i, shared_n in study.ranks.items():
    correlation = analysis.rank_correlation(shared_n, alone_n)
    title = plots.findings.agree(
      f'the supernet of {titled(study.labels[i])}, seed '
      f'{study.searches[i].seed},', 'training alone', correlation,
    )  # fmt: skip
    save(
      plots.supernet_ranks(
        shared_n,
        alone_n,
        sd_n,
        xlabel=f'validation {record["decides"]} with shared weights',
        ylabel=f'test {record["metric"]} by stand-alone training',
        title=title,
      ),
      f'ranks_{names[i]}',
    )
  return paths


def compared(record):
  """Draws what was found beside random search and all that the table has."""
  searched = {search['label'] for search in record['searches']}
  rows = [
    plots.Row(
      titled(label),
      tuple(f['test_per']),
      tuple(np.resize(f['params'], len(f['test_per']))),
      tuple(f['wer']) if f['wer'] else None,
      label not in searched,
      tuple(f['archs']),
      tuple(f['table_ranks']),
    )
    for label, f in record['found'].items()
  ]
  known = record.get('table') or {}
  return plots.comparison(
    rows,
    said(record),
    record['metric'],
    known.get('test_per'),
    known.get('expected_random'),
    known.get('count'),
  )


def _file_name(label, search):
  return f'{label}_{search.seed}'.replace(', ', '_').replace(' ', '_')


def _learning(study):
  """Draws what the searches' derived networks were worth, by epoch."""
  metric = study.work.job.metric
  most = max(result['epochs'] for result in study.results)
  curve_ne = np.full((len(study.results), most), np.nan)
  for row_e, result in zip(curve_ne, study.results):
    per_e = np.array(result['curves']['val_per'], float)
    row_e[: len(per_e)] = per_e
  groups = [titled(label) for label in study.labels]
  names = [
    f'{label}, seed {search.seed}'
    for label, search in zip(groups, study.searches)
  ]
  runs = curve_ne, names, groups
  said = plots.findings.learning(*runs, metric)
  return plots.learning_curves(
    *runs, f'{said} (derived, weights shared)', metric
  )


def write(study, out, path, metric=None):
  """Prints and draws everything; numbers go to `path` if there is one.

  `metric` names the error rate on test; None for what decides.
  """
  numbers = record(study, metric)
  show(numbers)
  for written in filter(None, (out / 'report.json', path)):
    command.publish_json(written, numbers)
  for figure in draw(study, numbers, out, metric):
    CONSOLE.print(f'figure: {figure}')
  place, search = shlex.quote(str(out)), study.searches[0]
  hear = f'python experiments/transcribe.py --run={place} --search='
  steps = {
    'what the shared weights of a search hear': (
      f'{hear}{search.method.name} --seed={search.seed} audio.wav'
    )
  }
  if table.committed(out / 'table'):
    steps['the networks that were trained, as one page'] = (
      f'python experiments/report.py --table={place}'
    )
  print_next(steps)
