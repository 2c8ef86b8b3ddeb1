"""What a multilingual study says, in words, numbers and figures."""

import numpy as np
import scipy.special
from absl import flags
from common import command, corpus_flags
from common.console import CONSOLE
from rich.table import Table
from studies import (
  multilingual_corpora,
  multilingual_projection,
  multilingual_study,
)
from summaries import report_page, search_curves

from nasjax import analysis, plots, spaces
from nasjax.decoding import scripts
from nasjax.storage import disk

FLAGS = flags.FLAGS

TITLES = {
  'vgg_small': 'VGG-Small',
  'vgg_large': 'VGG-Large',
  'darts_asr': 'DARTS-ASR (full)',
  'conv3x3': 'DARTS-ASR (only conv3x3)',
  'darts_asr_discretised': 'DARTS-ASR (discretised, retrained)',
  'darts_asr_pruned': 'DARTS-ASR (pruned)',
}
REFERENCE = 'vgg_small'
RATES = ('greedy', 'rescored')
# Of whole tables: setting, what stands in a row, what rows are compared with.
TABLES = {
  '1': ('alone', 'Table 1: each target language alone'),
  '2': ('adapted', 'Table 2: trained on the sources, then adapted'),
  '3': ('ways', 'Table 3: how DARTS-ASR is adapted'),
}
WAYS = {
  'a': '(a) weights alone',
  'b': '(b) weights and architecture',
  'c': '(c) pruned to three an edge, then (b)',
}
_LIES = {
  'below': 'better',
  'above': 'worse',
  'open': 'no significant difference',
  'unknown': 'too few seeds to tell',
}


def record(study):
  """Returns all numbers of the report, as plain values for JSON."""
  rows = [_row(done) for done in study.done]
  found = {
    'metric': 'CER',
    'size': FLAGS.size,
    'seeds': list(study.seeds),
    'languages': {
      code: {'symbols': list(symbols)}
      for code, symbols in study.corpora.alphabets.items()
    },
    'sources': list(study.corpora.sources.alphabets),
    'targets': list(study.corpora.targets),
    'trainings': rows,
    'tables': {n: compared(rows, n) for n in TABLES},
    'gap': gap(rows),
    'from_sources': from_sources(rows),
    'likeness': likeness(rows),
  }
  found['said'] = said(found['tables'])
  return found


def _row(done):
  task, result = done.task, done.result
  edges = [names for _, names in result['edges']]
  alpha = None
  if task.model == multilingual_study.SEARCHED and task.way != 'c':
    alpha = [
      scipy.special.softmax(result['curves'][f'alpha_{name}'][-1]).tolist()
      for name, _ in result['edges']
    ]
  return {
    **task._asdict(),
    'params': done.params,
    'epochs': result['epochs'],
    'seconds': result['seconds'],
    'operations': sum(map(len, edges)),
    'arch': result['names'],
    'probabilities': alpha,
    'val_loss': result['curves']['soft_val_loss'],
    'shared_test_cer': result['worth']['test']['shared'][1],
    'test': done.heard,
  }


def compared(rows, table):
  """Returns the rows of a table of the paper.

  Args:
    rows: of `record`'s trainings.
    table: '1', '2' or '3'.

  Returns:
    {name: {'params', 'cer': {rate: {language: [a seed each]}}, 'mean': {rate:
    {'value', 'low', 'high'} of the mean over languages}, 'against': {rate:
    what `analysis.judge` says of that against the reference, and 'relative'}}}.
    The reference is VGG-Small, of table 3 way b; pairs are of one seed.
  """
  setting, _ = TABLES[table]
  own = {}
  for row in rows:
    if setting == 'ways':
      if (row['setting'], row['model']) == ('adapted', 'darts_asr'):
        own.setdefault(row['way'], []).append(row)
    elif row['setting'] == setting and row['way'] in ('', 'b'):
      own.setdefault(row['model'], []).append(row)
  order = list(WAYS) if setting == 'ways' else list(TITLES)
  reference = 'b' if setting == 'ways' else REFERENCE
  found = {}
  for name in sorted(own, key=order.index):
    cer = {rate: _by_language(own[name], rate) for rate in RATES}
    found[name] = {
      'params': int(np.mean([row['params'] for row in own[name]])),
      'operations': own[name][0]['operations'],
      'cer': cer,
      'mean': {rate: _mean(cer[rate]) for rate in RATES},
      'against': {},
    }
  for rate in RATES if reference in found else ():
    means = {name: _over_languages(f['cer'][rate]) for name, f in found.items()}
    base = means.pop(reference)
    judged = analysis.judge(means, base, paired=True, least=2) if means else {}
    for name, verdict in judged.items():
      relative = verdict.difference / base.mean() if base.mean() else None
      found[name]['against'][rate] = search_curves.plain(verdict) | {
        'reference': reference,
        'relative': relative,
      }
  return found


def _by_language(rows, rate):
  found = {}
  for row in sorted(rows, key=lambda row: row['seed']):
    found.setdefault(row['language'], []).append(
      row['test'][row['language']][rate]
    )
  return found


def _over_languages(by_language):
  """Returns the mean over languages of each seed."""
  return np.mean(list(by_language.values()), axis=0)


def _mean(by_language):
  mean = analysis.student_mean(_over_languages(by_language))
  return {
    name: None if np.isnan(value) else float(value)
    for name, value in (
      ('value', mean.value), ('low', mean.low), ('high', mean.high)
    )
  }  # fmt: skip


def gap(rows):
  """Returns the CER of soft networks and of what is derived from them.

  Returns:
    {language: {'soft', 'shared', 'retrained': greedy CER on test, a seed each}}
    of the mixture, of its best operations with its weights, and of these
    trained anew.
  """
  found = {}
  for row in sorted(rows, key=lambda row: row['seed']):
    code = row['language']
    if (row['setting'], row['model']) == ('alone', 'darts_asr'):
      own = found.setdefault(code, {'soft': [], 'shared': [], 'retrained': []})
      own['soft'].append(row['test'][code]['greedy'])
      own['shared'].append(row['shared_test_cer'])
  for row in sorted(rows, key=lambda row: row['seed']):
    if row['setting'] == 'discretised':
      code = row['language']
      found[code]['retrained'].append(row['test'][code]['greedy'])
  return found


def from_sources(rows):
  """Returns what sources bring: CER after adaptation (b) minus that alone.

  Returns:
    {rate: {model: what `analysis.judge` says of the mean over languages, seeds
    paired}}.
  """
  found = {}
  for rate in RATES:
    apart = {}
    for model in TITLES:
      before, after = (
        _by_language(
          [
            row
            for row in rows
            if (row['setting'], row['model']) == (setting, model)
            and row['way'] in ('', 'b')
          ],
          rate,
        )
        for setting in ('alone', 'adapted')
      )
      if before and after:
        apart[model] = _over_languages(after) - _over_languages(before)
    judged = analysis.judge(apart, 0.0, least=2) if apart else {}
    found[rate] = {
      model: search_curves.plain(verdict) for model, verdict in judged.items()
    }
  return found


def likeness(rows):
  """Returns how alike graphs are that were found alone, and after adaptation.

  Returns:
    {setting: None where there are fewer than two, or {'languages', 'seeds': of
    each graph; 'matrix', 'same': of `analysis.Likeness`; 'between', 'within':
    its chances}}.
  """
  found = {}
  for setting in ('alone', 'adapted'):
    own = [
      row
      for row in rows
      if row['setting'] == setting
      and row['probabilities'] is not None
      and row['way'] in ('', 'b')
    ]
    found[setting] = None
    if len(own) > 1:
      labels = [row['language'] for row in own]
      p_gek = [row['probabilities'] for row in own]
      told = analysis.likeness(p_gek, labels)
      found[setting] = {
        'languages': labels,
        'seeds': [row['seed'] for row in own],
        'matrix': told.matrix_gg.tolist(),
        'same': told.same_gg.tolist(),
        'between': told.between and told.between._asdict(),
        'within': told.within and told.within._asdict(),
      }
  return found


def said(tables):
  """Returns what tables 1 and 2 say of the pattern of connections."""
  found = {}
  for table in ('1', '2'):
    against = tables[table].get('darts_asr', {}).get('against', {})
    for rate, verdict in against.items():
      found[f'{table}, {rate}'] = _sentence(verdict)
  return found


def _sentence(verdict):
  if verdict['lies'] == 'unknown':
    return (
      f'DARTS-ASR lies {_points(verdict["difference"])} from VGG-Small: one '
      'seed has no interval'
    )
  interval = (
    f'{_points(verdict["difference"])} points of CER, 95 % interval '
    f'{_points(verdict["low"])} to {_points(verdict["high"])}'
  )
  if verdict['lies'] == 'open':
    return (
      f'the pattern makes no difference that can be seen: {interval}; one of '
      f'{100 * verdict["visible"]:.2g} points would have been'
    )
  better = 'better' if verdict['lies'] == 'below' else 'worse'
  relative = ''
  if verdict['relative'] is not None:
    relative = f' ({verdict["relative"]:+.1%} relative; the paper has -10 %)'
  return f'DARTS-ASR is {better} than VGG-Small by {interval}{relative}'


def _points(difference):
  return f'{100 * difference:+.2f}'


def show(numbers):
  """Prints the tables and what follows from them."""
  for n, (_, title) in TABLES.items():
    if numbers['tables'][n]:
      CONSOLE.print(view(numbers, n, title))
  for where, sentence in numbers['said'].items():
    CONSOLE.print(f'table {where}: {sentence}')
  for row in numbers['trainings']:
    if row['setting'] == 'sources':
      rates = ', '.join(
        f'{code} {own["greedy"]:.2%} / {own["rescored"]:.2%}'
        for code, own in row['test'].items()
      )
      CONSOLE.print(
        f'{TITLES[row["model"]]} on the sources, seed {row["seed"]}: {rates}'
      )
  for model, verdict in numbers['from_sources']['rescored'].items():
    interval = ''
    if verdict['low'] is not None:
      low, high = map(_points, (verdict['low'], verdict['high']))
      interval = f', 95 % interval {low} to {high}'
    CONSOLE.print(
      f'{TITLES[model]}: the sources change the CER of the targets by '
      f'{_points(verdict["difference"])} points{interval} '
      f'({_LIES[verdict["lies"]]})'
    )
  for code, own in numbers['gap'].items():
    if own['retrained']:
      CONSOLE.print(
        f'{code}: soft network {np.mean(own["soft"]):.2%}, its best operations '
        f'with the same weights {np.mean(own["shared"]):.2%}, trained anew '
        f'{np.mean(own["retrained"]):.2%}'
      )
  for line in alike(numbers['likeness']):
    CONSOLE.print(line)
  for code, example in examples(numbers).items():
    spoken, greedy, rescored = map(scripts.isolated, example)
    CONSOLE.print(
      f'{code}, most edits: spoken {spoken}; greedy {greedy}; rescored '
      f'{rescored}',
      markup=False,
    )


def view(numbers, n, title):
  """Returns a table for the terminal."""
  found = Table(title=f'{title}; test CER, greedy / rescored by a 5-gram')
  for column in heads(numbers, n):
    found.add_column(column, justify='left' if not found.columns else 'right')
  for cells in lines(numbers, n):
    found.add_row(*cells)
  return found


def heads(numbers, n):
  """Returns the heads of a table's columns."""
  rates = [*numbers['targets'], 'mean', '95 % interval (rescored)']
  return ['', 'parameters', *rates, f'against {_reference(n)} (rescored)']


def _reference(n):
  return 'way b' if n == '3' else TITLES[REFERENCE]


def lines(numbers, n):
  """Returns the lines of a table, texts."""
  found = []
  for name, own in numbers['tables'][n].items():
    cells = [(WAYS if n == '3' else TITLES)[name], f'{own["params"]:,}']
    for code in numbers['targets']:
      cells.append(
        ' / '.join(
          f'{np.mean(own["cer"][rate][code]):.2%}'
          if code in own['cer'][rate]
          else '-'
          for rate in RATES
        )
      )
    means = own['mean']
    cells.append(' / '.join(f'{means[rate]["value"]:.2%}' for rate in RATES))
    low, high = means['rescored']['low'], means['rescored']['high']
    cells.append('' if low is None else f'{low:.2%} to {high:.2%}')
    verdict = own['against'].get('rescored')
    cells.append(
      ''
      if verdict is None
      else f'{_points(verdict["difference"])} points, {_LIES[verdict["lies"]]}'
    )
    found.append(cells)
  return found


def alike(found):
  """Returns lines on how alike graphs are, against chance."""
  names = {'alone': 'searched alone', 'adapted': 'adapted from the sources'}
  told = []
  for setting, own in found.items():
    for kind, what in (
      ('between', 'graphs of different languages have in common'),
      ('within', 'graphs of one language have more in common by'),
    ):
      if own and own[kind]:
        c = own[kind]
        told.append(
          f'{names[setting]}: {what} {c["value"]:.4f}; chance '
          f'{c["low"]:.4f} to {c["high"]:.4f} (p = {c["p"]:.3g})'
        )
  return told


def examples(numbers):
  """Returns texts of the first row of table 2 or 1, by language."""
  for row in numbers['trainings']:
    if row['setting'] == 'adapted' and row['model'] == 'darts_asr':
      break
  else:
    row = numbers['trainings'][-1]
  seed, model, setting = row['seed'], row['model'], row['setting']
  return {
    code: told['example']
    for row in numbers['trainings']
    if (row['seed'], row['model'], row['setting']) == (seed, model, setting)
    for code, told in row['test'].items()
  }


def draw(numbers):
  """Returns the figures by name."""
  rows, figures = numbers['trainings'], {}
  for setting, title in (
    ('alone', 'each language alone'),
    ('adapted', 'after the sources'),
  ):
    curves = {}
    for row in rows:
      if row['setting'] == setting and row['way'] in ('', 'b'):
        panel = curves.setdefault(row['language'], {})
        panel.setdefault(TITLES[row['model']], []).append(row['val_loss'])
    if curves:
      figures[f'losses_{setting}'] = plots.losses(
        curves, f'Validation loss by epoch, {title}'
      )
  for setting in ('sources', 'alone', 'adapted'):
    own = {}
    for row in rows:
      if (
        row['setting'] == setting
        and row['probabilities'] is not None
        and row['way'] in ('', 'b')
      ):
        name = row['language'] or '+'.join(numbers['sources'])
        own.setdefault(name, []).append(row['probabilities'])
    if own:
      seeds = len(numbers['seeds'])
      figures[f'graphs_{setting}'] = plots.dense(
        spaces.DARTS_ASR,
        {name: np.mean(p, axis=0) for name, p in own.items()},
        f'Graphs found ({setting})' + f', mean of {seeds} seeds' * (seeds > 1),
      )
  return figures


def page(numbers, figures):
  """Returns the report as HTML."""
  sections = []
  for n, (_, title) in TABLES.items():
    if numbers['tables'][n]:
      table = report_page.table(heads(numbers, n), lines(numbers, n))
      words = [
        report_page.paragraph(sentence)
        for where, sentence in numbers['said'].items()
        if where.startswith(n)
      ]
      sections.append(report_page.Section(title, [*words, table]))
  told = [report_page.paragraph(line) for line in alike(numbers['likeness'])]
  drawn = [
    report_page.figure(figure, name.replace('_', ' '))
    for name, figure in figures.items()
  ]
  sections.append(report_page.Section('Losses and graphs', [*told, *drawn]))
  texts = [
    [code, *map(scripts.composed, example)]
    for code, example in examples(numbers).items()
  ]
  head = ['language', 'spoken', 'greedy', 'rescored']
  alphabets = [
    [code, ' '.join(map(scripts.alone, own['symbols']))]
    for code, own in numbers['languages'].items()
  ]
  sections.append(
    report_page.Section(
      'Texts with most edits, and alphabets',
      [
        report_page.table(head, texts),
        report_page.table(['language', 'symbols'], alphabets),
      ],
    )
  )
  return report_page.page('DARTS-ASR in several languages', sections)


def write(study, out, path):
  """Prints and draws everything; numbers go to `path` if there is one."""
  numbers = record(study)
  show(numbers)
  for place in filter(None, (out / 'report.json', path)):
    command.publish_json(place, numbers)
  folder = out / 'figures'
  folder.mkdir(exist_ok=True)
  figures = draw(numbers)
  for name, figure in figures.items():
    plots.save(figure, folder / f'{name}.png')
    CONSOLE.print(f'figure: {folder / f"{name}.png"}')
  disk.publish(out / 'report.html', page(numbers, figures).encode())
  CONSOLE.print(f'page: {out / "report.html"}')


# What would be trained.


def plan(path):
  """Prints what the flags would train and what it would cost.

  Timed on the device at hand; with --device_gmacs by formula.

  Args:
    path: where the numbers go; None for nowhere.
  """
  from common import training_flags

  first, second = multilingual_study.tasks()
  sources, targets = multilingual_corpora.codes()
  spoken = multilingual_corpora.specs()
  epochs = training_flags.recipe().epochs
  given = FLAGS.device_gmacs
  make = _timed if given is None else _by_formula
  models = make(first + second, sources, epochs)
  found = {
    'utterances': FLAGS.utterances,
    'epochs': epochs,
    'macs_per_second': None if given is None else 1e9 * given,
    'models': models,
    'trainings': len(first) + len(second),
    'hours': sum(own['hours'] for own in models.values()),
  }
  heads = [head.replace('_', ' ') for head in next(iter(models.values()))]
  table = Table('network', title='what would be trained')
  for head in heads:
    table.add_column(head, justify='right')
  for name, own in models.items():
    table.add_row(TITLES[name], *(_short(number) for number in own.values()))
  CONSOLE.print(table)
  how = (
    'measured here on drawn features; what is heard by 5-grams is not counted'
    if given is None
    else f'that makes {given:.1f} GMAC/s, compilation not counted'
  )
  CONSOLE.print(
    f'{found["hours"]:.2f} hours of one device {how}; at most {epochs} epochs '
    f'of {FLAGS.utterances} utterances a language'
  )
  if len(spoken) < len(sources) + len(targets):
    CONSOLE.print('manifests are counted as if they were spoken')
  if path:
    command.publish_json(path, found)


def _short(number):
  return str(number) if isinstance(number, int) else f'{number:.3g}'


def _timed(tasks, sources, epochs):
  """Returns the figures of each kind of network, measured."""
  del epochs
  costs = multilingual_projection.measured(tasks, sources)
  return {
    kind: {
      'trainings': cost.trainings,
      'utterances': cost.utterances,
      'seconds_an_utterance': cost.utterance,
      'programs': cost.programs,
      'seconds_to_compile_one': cost.compile,
      'hours': cost.seconds / 3600,
    }
    for kind, cost in costs.items()
  }


def _by_formula(tasks, sources, epochs):
  """Returns the figures of each kind of network on a device told by a flag."""
  words = np.mean([int(n) for n in FLAGS.sentence_words])
  frames = multilingual_projection.frames(words)
  features, found = corpus_flags.frontend().width, {}
  for model in dict.fromkeys(task.model for task in tasks):
    own = [task for task in tasks if task.model == model]
    macro = multilingual_study.macro_of(model, [40], features)
    each = multilingual_study.multiply_accumulates(model, macro, frames)
    heard = sum(
      multilingual_projection.utterances(task, sources, epochs) for task in own
    )
    # A backward pass costs two forward passes; validation a fifth of one.
    total = 3.2 * each * heard
    found[model] = {
      'trainings': len(own), 'macs': each, 'total_macs': total,
      'hours': total / (1e9 * FLAGS.device_gmacs) / 3600,
    }  # fmt: skip
  return found
