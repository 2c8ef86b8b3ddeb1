"""What a released table says of itself, in words."""

import collections
import json

import numpy as np


def title(table):
  """Returns what a table is called that nobody has named."""
  spaces, corpora = (', '.join(_values(table, n)) for n in ('space', 'corpus'))
  cells = len(np.unique(_keys(table)))
  return f'{cells} cells of {spaces} trained on {corpora}'


def citation(table, title, authors, license):
  """Returns the text of a CITATION.cff.

  Args:
    table: a Table.
    title: of it.
    authors: names; none makes it a work of unnamed contributors.
    license: an SPDX identifier, or None.
  """
  names = list(authors) or [f'The contributors of {title}']
  lines = [
    'cff-version: 1.2.0',
    'message: If you use this table, please cite it as below.',
    'type: dataset',
    f'title: {json.dumps(title)}',
    'authors:',
    *(f'  - name: {json.dumps(name)}' for name in names),
    f'date-released: {max(_days(table))}',
  ]
  if license:
    lines.append(f'license: {json.dumps(license)}')
  lines += [
    'references:',
    '  - type: software',
    "    title: 'nasjax: neural architecture search for speech recognition in "
    "JAX'",
    '    authors:',
    '      - name: The nasjax developers',
  ]
  return '\n'.join(lines) + '\n'


def text(table, title, run, sources):
  """Returns the datasheet, Markdown.

  Args:
    table: a Table.
    title: of it.
    run: what its run.json says, or None.
    sources: what its sources.json says, or None.
  """
  parts = [f'# {title}\n', *_contents(table), *_making(table, run)]
  if sources:
    parts.append('\n## Contributors\n')
    for one in sources:
      parts.append(
        f'- {one["name"]}: {len(one["shards"])} shards, {one["rows"]} rows, '
        f'digest {one["digest"]}'
      )
  parts += [
    '\n## Reading it\n',
    '`nasjax.table.unpack(archive, directory)` checks every file against '
    '`manifest.json`, and opens the table; `sha256sum -c SHA256SUMS` does '
    'without nasjax. The rows are Parquet files.',
  ]
  return '\n'.join(parts) + '\n'


def _contents(table):
  """What is in it: counts, columns that differ, errors, seeds."""
  fates = collections.Counter(table.column('status').tolist())
  yield '## What is in it\n'
  rows, held = len(table), len(table.shards)
  yield f'- {rows:,} trainings, a row each, in {held:,} shards'
  yield f'- {len(np.unique(_keys(table))):,} cells (by function)'
  yield f'- seeds: {", ".join(map(str, table.seeds))}'
  for name in ('space', 'macro', 'corpus'):
    yield f'- {name}: {", ".join(_values(table, name))}'
  fingerprints = ', '.join(_values(table, 'corpus_fingerprint'))
  yield f'- fingerprints of the corpora: {fingerprints}'
  told = ', '.join(f'{n:,} {fate}' for fate, n in sorted(fates.items()))
  yield f'- outcome: {told}'
  params = table.column('params')
  yield f'- parameters of a network: {params.min():,} to {params.max():,}'
  latencies = len(table.latencies) if len(_values(table, 'space')) == 1 else 0
  yield f'- settings in which latency was measured: {latencies}'
  yield f'- error rate by which it judges: {table.metric}'
  for recipe in table.recipes:
    part = table.select(recipe=recipe)
    error = part.column('test_per')
    error = error[~np.isnan(error)]
    if error.size:
      yield (
        f'- test error with recipe {recipe}: best {error.min():.4f}, median '
        f'{np.median(error):.4f}, worst {error.max():.4f}'
      )
    for seeds, value, cells in _agreement(part):
      yield (
        f'- rank correlation (Spearman) of seeds {seeds[0]} and {seeds[1]}, '
        f'recipe {recipe}, over {cells} cells: {value:.3f}'
      )


def _making(table, run):
  """How it was made: recipes, devices, versions, times, what was left out."""
  yield '\n## How it was made\n'
  hours = float(np.nansum(table.column('seconds'))) / 3600
  days = _days(table)
  yield f'- trained from {min(days)} to {max(days)}, {hours:,.1f} hours'
  devices, versions = collections.Counter(), set()
  codes = table.codes('versions')
  for code, count in zip(*np.unique(codes.code_r, return_counts=True)):
    told = json.loads(codes.names[code])
    devices[str(told.pop('device', 'not known'))] += int(count)
    versions.add(json.dumps(told, sort_keys=True))
  told = ', '.join(f'{n:,} rows on {d}' for d, n in sorted(devices.items()))
  yield f'- devices: {told}'
  yield f'- versions: {"; ".join(sorted(versions))}'
  yield f'- commits of the code: {", ".join(_values(table, "commit"))}'
  for recipe in table.recipes:
    (one,) = set(table.select(recipe=recipe).codes('recipe_json').names)
    yield f'- recipe {recipe}: `{one}`'
  if run and isinstance(run.get('macro'), dict):
    yield f'- macro network: `{json.dumps(run["macro"], sort_keys=True)}`'
  for part in table.left_out:
    yield f'- left out of the corpus: `{json.dumps(part, sort_keys=True)}`'
  for note in table.notes:
    yield f'- done to the audio: {note}'


def _agreement(table):
  """Yields pairs of seeds, their rank correlation, and over how many cells."""
  from scipy import stats

  error, seed_r = table.column('test_per'), table.column('seed')
  keys = _keys(table)
  for i, one in enumerate(table.seeds):
    for other in table.seeds[i + 1 :]:
      of = [
        dict(zip(keys[seed_r == s].tolist(), error[seed_r == s].tolist()))
        for s in (one, other)
      ]
      both = sorted(of[0].keys() & of[1].keys())
      pair = np.array([[of[0][k], of[1][k]] for k in both]).reshape(-1, 2)
      pair = pair[~np.isnan(pair).any(1)]
      if len(pair) > 2 and (np.ptp(pair, axis=0) > 0).all():
        found = stats.spearmanr(pair[:, 0], pair[:, 1]).statistic
        yield (one, other), float(found), len(pair)


def _keys(table):
  """The function of each row, a number."""
  return table.codes('semantic_key').code_r


def _values(table, name):
  return sorted(table.codes(name).names)


def _days(table):
  return sorted({created[:10] for created in table.codes('created').names})
