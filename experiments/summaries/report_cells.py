"""Sections on cells: the best, what they are made of, what they cost."""

import numpy as np
from summaries import report_page as page
from summaries import report_words as words

from nasjax import analysis, plots, spaces


def best(study):
  """The paper's Table 1: the best cells, and how many equal them."""
  r, space = study.main, study.table.space
  val = analysis.best(r.val_ns, r.has_ns)
  test = analysis.best(r.test_ns, r.has_ns)
  if not len(val.order):
    return page.Section(
      'Best cells', [page.paragraph('No cell has all of its runs.')]
    )
  chosen = list(dict.fromkeys([*val.order[:6], *test.order[:6]]))
  place_v, place_t = (
    {n: k + 1 for k, n in enumerate(b.order)} for b in (val, test)
  )
  rows = [
    (
      space.names(r.archs_nd[n]),
      str(place_v[n]),
      _plus_minus(r.val_n[n], val.half_n[n]),
      str(place_t[n]),
      _plus_minus(r.test_n[n], test.half_n[n]),
      f'{r.params_n[n]:,.0f}',
      f'{r.macs_n[n] / 1e6:,.1f}',
    )
    for n in chosen
  ]
  head = (
    'cell', 'rank, validation', f'validation {study.decides}', 'rank, test',
    f'test {study.metric}', 'parameters', 'MMACs',
  )  # fmt: skip
  first = val.order[0]
  ranked = len(val.order)
  noise = 'No cell has several seeds, so no mean has an interval.'
  if val.tied is not None:
    noise = (
      f'Runs of one cell differ by {words.points(val.seed_sd)} (standard '
      f'deviation, validation) near the top: {val.tied:,} of {ranked:,} cells '
      'have an interval that overlaps that of the first, so the order among '
      'them is not established.'
    )
  return page.Section(
    'Best cells',
    [
      page.paragraph(
        'Means over the seeds; best by validation, then best by test.',
        f'The first by validation has test {study.metric} '
        f'{words.per(r.test_n[first])}, rank {place_t[first]:,} of '
        f'{ranked:,}; the lowest test {study.metric} is '
        f'{words.per(r.test_n[test.order[0]])}, which is chosen on the test '
        'set and therefore partly luck.',
        noise,
      ),
      page.table(head, rows),
      _single_runs(study),
      page.figure(
        plots.cells(
          space,
          r.archs_nd[val.order[:6]],
          [
            f'{k + 1}. validation {words.per(r.val_n[n], 1)}, test '
            f'{words.per(r.test_n[n], 1)}\n{space.names(r.archs_nd[n])}'
            for k, n in enumerate(val.order[:6])
          ],
        ),
        f'The best cells by mean validation {study.decides}, best first.',
      ),
    ],
  )


def _plus_minus(value, half):
  if np.isnan(half):
    return words.per(value)
  return f'{100 * value:.2f} ± {100 * half:.2f} %'


def _single_runs(study):
  """Says what single runs reached, as the paper's Table 1 does."""
  r, space, seeds = study.main, study.table.space, study.table.seeds
  said = []
  for name, value_ns in (
    (f'validation {study.decides}', r.val_ns),
    (f'test {study.metric}', r.test_ns),
  ):
    n, s = np.unravel_index(np.nanargmin(value_ns), value_ns.shape)
    said.append(
      f'The single run of lowest {name} is '
      f'{space.names(r.archs_nd[n])} with seed {seeds[s]}: '
      f'validation {words.per(r.val_ns[n, s])}, test '
      f'{words.per(r.test_ns[n, s])}.'
    )
  return page.paragraph(*said)


def makeup(study):
  """The paper's Figure 6: operations and skips of good and bad cells."""
  r, space = study.main, study.table.space
  title = 'What good and bad cells are made of'
  ranked = np.flatnonzero(~np.isnan(r.test_n))
  if not len(ranked):
    return page.Section(title, [page.paragraph('No cell has all of its runs.')])
  parts = analysis.slices(r.test_n[ranked])
  groups = {
    name: analysis.composition(space, r.archs_nd[ranked[parts[part]]])
    for name, part in (
      ('best', 'top'), ('middle', 'middle'), ('worst', 'bottom'), ('all', 'all')
    )
  }  # fmt: skip
  rows = [
    (f'skip {ends}', *(_share(g.skips[ends]) for g in groups.values()))
    for ends in groups['all'].skips
  ]
  chain = isinstance(space, spaces.Chain)
  rows += [
    (
      f'{op} at {place}' if chain else f'{place}={op}',
      *(_share(g.ops[n][op]) for g in groups.values()),
    )
    for n, place in enumerate(groups['all'].places)
    for op in groups['all'].ops[n]
  ]
  said, paths_n = [], np.zeros(len(ranked), bool)
  if chain:
    paths_n = space.has_skip_paths(r.archs_nd[ranked])
  if paths_n.any() and not paths_n.all():
    said.append(
      f'Median test {study.metric}: '
      + words.order(
        'cells with an identity path from input to output',
        analysis.median(r.test_n[ranked][paths_n], repeats=study.repeats),
        'cells without',
        analysis.median(r.test_n[ranked][~paths_n], repeats=study.repeats),
        words.estimate,
      )
    )
  return page.Section(
    title,
    [
      page.paragraph(
        f'The best, the middle and the worst {groups["best"].cells:,} cells by '
        f'mean test {study.metric} ({100 * analysis.TOP_SHARE:.1f} % each).',
        *said,
      ),
      page.figure(
        plots.composition(groups, plots.findings.makeup(groups)),
        'Operations of each node, skips, and number of skips, as shares of the '
        'cells of a group.'
        if chain
        else 'Choices of each decision, as shares of the cells of a group.',
      ),
      page.table(('share of cells', *groups), rows),
    ],
  )


def _share(found):
  return (
    f'{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]'
  )


def counts(study):
  """The paper's Figures 9 to 11: error rates ranked by counts."""
  r, space = study.main, study.table.space
  ranked = {
    kind: analysis.ranking(count_n, r.test_n, repeats=study.repeats)
    for kind, count_n in analysis.counts(space, r.archs_nd).items()
  }
  rows, said = [], []
  for kind, found in ranked.items():
    rows += [
      (
        kind,
        str(level.count),
        str(len(level.rows)),
        words.estimate(level.median),
      )
      for level in found.levels
    ]
    said.append(f'{kind}: correlation {words.correlation(found.correlation)}.')
    enough = [v for v in found.levels if not np.isnan(v.median.low)]
    if len(enough) > 1:
      first, last = enough[0], enough[-1]
      said.append(
        words.order(
          f'cells with {first.count}',
          first.median,
          f'cells with {last.count}',
          last.median,
          words.estimate,
        )
      )
  return page.Section(
    'Ranking by counts',
    [
      page.paragraph(
        f'How mean test {study.metric} goes with the number of linear '
        'operations, convolutions, zeros and skips of a cell: rank correlation '
        f'(above 0: the more, the higher the {study.metric}), and medians. '
        'Counts go together: a node has one operation.'
      ),
      *(page.paragraph(text) for text in said),
      _ranked(study, ranked, 'count'),
      page.table(
        ('counted', 'how many', 'cells', f'median test {study.metric}'), rows
      ),
    ],
  )


def _ranked(study, ranked, level):
  """The figure of rankings by what the cells have in common."""
  r = study.main
  drawn = plots.rankings(
    r.test_n,
    ranked,
    f'test {study.metric}',
    plots.findings.ranked(ranked, study.metric),
    study.metric,
  )
  caption = f'Cells of each {level} from the best to the worst.'
  return page.figure(drawn, caption)


def choices(study):
  """Error rates ranked by the choice at each decision, of any space."""
  r, space = study.main, study.table.space
  ranked = analysis.choices(space, r.archs_nd, r.test_n, repeats=study.repeats)
  rows = [
    (
      field,
      level.count,
      str(len(level.rows)),
      words.estimate(level.median),
    )
    for field, found in ranked.items()
    for level in found.levels
  ]
  return page.Section(
    'Ranking by choices',
    [
      page.paragraph(
        f'How mean test {study.metric} goes with what is chosen at each '
        'decision of the space: medians of the cells that share a choice.'
      ),
      _ranked(study, ranked, 'choice'),
      page.table(
        ('decision', 'choice', 'cells', f'median test {study.metric}'), rows
      ),
    ],
  )


def costs(study):
  """Error rates against parameters, multiply-accumulates and latency."""
  r, space = study.main, study.table.space
  columns = {
    'parameters': r.params_n,
    'multiply-accumulates for 200 frames': r.macs_n,
  }
  for setting in study.table.latencies:
    device, batch, frames, macro = setting
    name = f'milliseconds on {device}, batch {batch}, {frames} frames'
    if macro != study.table.column('macro')[0]:
      name += f', macro network {macro}'
    columns[name] = 1000 * analysis.latencies(study.table, r.archs_nd, setting)
  fronts, rows = {}, []
  for name, cost_n in columns.items():
    front_n = analysis.pareto_front(cost_n, r.test_n)
    fronts[name] = cost_n, front_n
    both_n = np.isfinite(cost_n) & ~np.isnan(r.test_n)
    found = analysis.rank_correlation(
      cost_n[both_n], r.test_n[both_n], repeats=study.repeats
    )
    rows.append(
      (
        name,
        f'{both_n.sum():,}',
        f'{front_n.sum():,}',
        words.correlation(found),
      )
    )
  names_n = [space.names(arch) for arch in r.archs_nd]
  # What follows from the cell in one figure, what was measured in its own.
  blocks, counted = [], list(columns)[:2]
  for one in counted, *([name] for name in list(columns)[2:]):
    costs = {name: fronts[name] for name in one}
    said = plots.findings.fronts(costs, r.test_n, study.metric)
    drawn = plots.paretos(
      costs, r.test_n, names_n, title=said, metric=study.metric
    )
    caption = f'Mean test {study.metric} against {words.listed(one)}.'
    blocks.append(page.figure(drawn, f'{r.recipe}: {caption}'))
  missing = 'No latency was measured; experiments/latency.py does that.'
  return page.Section(
    'Error rates and what they cost',
    [
      page.paragraph(
        'On the Pareto front is what no other cell beats in both. It is drawn '
        'by means over the seeds: neighbours on it may well change places with '
        'other seeds.',
        '' if study.table.latencies else missing,
      ),
      page.table(
        ('cost', 'cells', 'on the front', f'cost with {study.metric}'), rows
      ),
      *blocks,
    ],
  )
