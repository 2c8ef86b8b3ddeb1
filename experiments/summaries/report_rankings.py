"""Sections on rankings: validation with test, seeds, budgets."""

import numpy as np
from summaries import report_page as page
from summaries import report_words as words

from nasjax import analysis, plots


def validation(study):
  """The paper's Table 2 and Figure 4."""
  blocks, drawn = [], {}
  for r in study.found:
    pairs = {'mean of seeds': (r.val_n, r.test_n)}
    if len(r.seeds) > 1:
      pairs |= {
        f'seed {seed}': (r.val_ns[:, s], r.test_ns[:, s])
        for s, seed in enumerate(r.seeds)
      }
    rows = []
    for name, (val_n, test_n) in pairs.items():
      parts = analysis.by_slice(val_n, test_n, repeats=study.repeats)
      rows += [
        (f'{r.recipe}, {name}', part, words.correlation(c))
        for part, c in parts.items()
      ]
      if name == 'mean of seeds':
        means = parts
        drawn |= {f'{r.recipe}, {part}': c for part, c in parts.items()}
    blocks += [
      page.table(('runs', 'cells', 'validation with test'), rows),
      page.paragraph(
        f'{r.recipe}, means.',
        *(
          words.sign(f'Among {part}', c)
          for part, c in means.items()
          if part != 'all'
        ),
        words.order('all cells', means['all'], 'the top', means['top']),
      ),
    ]
  r = study.main
  share = analysis.TOP_SHARE
  return page.Section(
    'Validation and test',
    [
      page.paragraph(
        'Does the validation set choose well? Cells are ranked by validation '
        f'{study.decides}; top, middle and bottom are {100 * share:.1f} % of '
        "them each, the paper's 1,000 of 8,242. Cells cut by validation "
        f'{study.decides} are alike in it, so within a part the correlation '
        'is lower for that reason alone.'
      ),
      page.figure(
        plots.correlations(drawn, title=plots.findings.agreements(drawn)),
        f'Rank correlations of mean validation {study.decides} and test '
        f'{study.metric}, with intervals.',
      ),
      page.figure(
        plots.agreement(
          r.val_n,
          r.test_n,
          f'validation {study.decides}',
          f'test {study.metric}',
          share,
          plots.findings.agree(
            f'validation {study.decides}',
            f'test {study.metric}',
            drawn[f'{r.recipe}, all'],
          ),
        ),
        f'{r.recipe}: validation {study.decides} and test {study.metric} of '
        'every cell, means of seeds, and their ranks.',
      ),
      *blocks,
    ],
  )


def seeds(study):
  """How much of a ranking is chance."""
  title = 'Noise of seeds'
  if len(study.table.seeds) < 2:
    return page.Section(
      title, [page.paragraph('One seed only, so there is nothing to compare.')]
    )
  rows, said = [], []
  for r in study.found:
    for name, value_ns in (('validation', r.val_ns), ('test', r.test_ns)):
      found = analysis.noise_ceiling(value_ns, repeats=study.repeats)
      top = analysis.noise_ceiling_at_top(value_ns, repeats=study.repeats)
      rows.append(
        (
          f'{r.recipe}, {name}',
          words.correlation(found.single),
          words.correlation(found.of_mean),
          words.correlation(top),
        )
      )
      if r is study.main:
        limit = analysis.attainable(found.single.value)
        said.append(
          f'{name}: a score without noise could reach about {limit:.2f} with '
          'one run.'
          if not np.isnan(limit)
          else ''
        )
  spread = analysis.spread(
    np.repeat(np.arange(len(study.main.archs_nd)), len(study.main.seeds)),
    study.main.test_ns.ravel(),
  )
  return page.Section(
    title,
    [
      page.paragraph(
        'The rank correlation of one seed with another, the mean over pairs '
        'of seeds: what one run says of the next. Of means over the '
        f'{len(study.table.seeds)} seeds it follows by Spearman and Brown '
        '(approximate for ranks). The top cells of a pair of seeds are those '
        'by the other seeds, so there must be three. Intervals resample cells, '
        'not seeds.',
        f'Test {study.metric} differs by {words.points(spread.cells)} between '
        f'cells and by {words.points(spread.seeds)} between seeds of a cell '
        '(standard deviations).',
        *said,
      ),
      page.table(
        ('runs', 'seed with seed', 'means', 'seed with seed, top cells'), rows
      ),
      page.figure(
        plots.seed_ranges(
          study.main.test_ns,
          f'test {study.metric}',
          plots.findings.seeds(study.main.test_ns, study.metric),
        ),
        f'{study.main.recipe}: lowest to highest test {study.metric} among '
        'the seeds of each cell.',
      ),
    ],
  )


def decisions(study):
  """What is left of the ranking where one decision is held fixed."""
  r, space = study.main, study.table.space
  found = analysis.decisions(
    space, r.archs_nd, r.test_ns, repeats=study.repeats
  )
  if not found:
    return page.Section(
      'Decisions held fixed',
      [page.paragraph('No decision differs among cells with all seeds.')],
    )
  choices = dict(zip(space.fields, space.choices))
  shares = [
    (
      one.name,
      '--' if np.isnan(one.explains) else f'{100 * one.explains:.0f} %',
    )
    for one in found
  ]
  parts = [
    (
      one.name,
      choices[one.name][part.choice],
      f'{part.cells:,}',
      words.per(part.mean),
      words.points(part.spread.cells),
      words.points(part.spread.seeds),
      words.correlation(part.seeds),
    )
    for one in found
    for part in one.parts
  ]
  head = (
    'decision', 'choice', 'cells', f'mean test {study.metric}',
    'between cells', 'between seeds', 'seed with seed',
  )  # fmt: skip
  return page.Section(
    'Decisions held fixed',
    [
      page.paragraph(
        f'How much of the variance of mean test {study.metric} the choices of '
        'a decision explain (adjusted R squared), and how well seeds agree on '
        'the cells that share a choice: a search that has found the best '
        'choice has only those to tell apart. Standard deviations, and the '
        'rank correlation of one seed with another.'
      ),
      page.table(('decision', 'explains'), shares),
      page.table(head, parts),
    ],
  )


def budgets(study):
  """The paper's Table 3: does a short training rank cells like a long one?"""
  title = 'Budgets'
  full = study.main
  others = [r for r in study.found if r is not full]
  if not others:
    return page.Section(
      title,
      [page.paragraph('One recipe only, so there is nothing to compare.')],
    )
  drawn, rows, said, figures = {}, [], [], []
  ceiling = analysis.noise_ceiling(full.val_ns, repeats=study.repeats).single
  for r in others:
    pair = f'{full.recipe} with {r.recipe}'
    for name in ('validation', 'test'):
      one, other = (
        (x.val_ns, x.val_n) if name == 'validation' else (x.test_ns, x.test_n)
        for x in (full, r)
      )
      by_seed = analysis.by_seed(one[0], other[0], repeats=study.repeats)
      found = {f'seed {s}': c for s, c in zip(full.seeds, by_seed)}
      parts = analysis.by_slice(one[1], other[1], repeats=study.repeats)
      found |= {f'means, {part}': c for part, c in parts.items()}
      rows += [
        (f'{pair}, {name}', key, words.correlation(c))
        for key, c in found.items()
      ]
      if name == 'validation':
        drawn |= {f'{pair}, {key}': c for key, c in found.items()}
        said.append(
          words.order(
            f'{pair}, seed {full.seeds[0]}',
            by_seed[0],
            f'one seed of {full.recipe} with another',
            ceiling,
          )
        )
    figures.append(
      page.figure(
        plots.agreement(
          r.val_n,
          full.val_n,
          f'validation {study.decides}, {r.recipe}',
          f'validation {study.decides}, {full.recipe}',
          title=plots.findings.agree(
            f'recipe {r.recipe}',
            f'recipe {full.recipe}',
            drawn[f'{pair}, means, all'],
          ),
        ),
        f'Mean validation {study.decides} of every cell after {r.epochs} and '
        f'after {full.epochs} epochs, and their ranks.',
      )
    )
  return page.Section(
    title,
    [
      page.paragraph(
        f'Does a shorter training rank cells as {full.recipe} does? Parts of '
        f'the cells are cut by {full.recipe}.',
        *said,
      ),
      page.figure(
        plots.correlations(drawn, ceiling, plots.findings.agreements(drawn)),
        f'Rank correlations of validation {study.decides} between budgets; '
        f'the line is one seed with another at {full.recipe}.',
      ),
      *figures,
      page.table(('recipes', 'runs', 'correlation'), rows),
    ],
  )
