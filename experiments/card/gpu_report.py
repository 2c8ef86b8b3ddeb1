"""What gpu.py prints at the end: a table of stages, and what they found."""

from rich.console import Console
from rich.table import Table

_SPEED = 'member_steps_per_second'
# Times PyTorch eager on the same card; share of the measured bfloat16 peak.
GOALS = {'small': 8.0, 'nb_asr': 3.0, 'share_of_peak': 0.4}


def show(results):
  """Prints what `gpu_plan.run` returned."""
  out = Console(markup=False, emoji=False, highlight=False, width=100)
  stages = Table(title='stages')
  for name in ('stage', 'status', 'seconds', 'found'):
    stages.add_column(name, justify='right' if name == 'seconds' else 'left')
  for name, result in results.items():
    said = _found(name, result.get('found') or {}, result)
    stages.add_row(name, result['status'], f'{result["seconds"]:.0f}', said)
  out.print(stages)
  winners = _rows(results, 'race', 'winners')
  if winners:
    out.print(_winners(winners))
  rows = [*_rows(results, 'speed'), *_rows(results, 'members')]
  if rows:
    out.print(_speeds(rows, eager(results), 'training'))
  for line in goals(results):
    out.print(line)


def _rows(results, stage, name='rows'):
  return (results.get(stage, {}).get('found') or {}).get(name, [])


def _found(name, found, result):
  """One line on a stage."""
  if not found:
    said = result.get('said', '').splitlines()
    return said[-1] if said else '-'
  if name == 'correct':
    rows = found['rows']
    bad = [f'{r["what"]} {r["precision"]}' for r in rows if not r['passed']]
    passed = f'{len(rows) - len(bad)} of {len(rows)} within bounds'
    return f'{passed}; not {", ".join(bad)}' if bad else passed
  if name == 'resume':
    if found.get('same_bits'):
      return 'killed and resumed: the same table'
    return found.get('problem') or (
      f'tables differ by up to {found.get("largest_difference")}'
    )
  if name == 'repeat':
    return repeated(found)
  if name == 'table' and 'best_test_per' in found:
    return (
      f'{found["networks"]} networks in {found["seconds"]:.0f} s, best PER '
      f'{100 * found["best_test_per"]:.1f} %'
    )
  if name == 'table':
    return ', '.join(found['progress']) or 'not one epoch'
  if 'skipped' in found:
    return found['skipped']
  rows = found['rows']
  problems = sum('problem' in row for row in rows)
  return f'{len(rows)} lines, {problems} with a problem'


def repeated(found):
  """Says whether bits were the same, and what made the difference."""
  words = []
  for name, part in found['processes'].items():
    if 'failed' in part:
      words.append(f'{name} failed')
      continue
    same = all(run['same_bits'] for run in part['runs'])
    guilty = [n for n, d in part['operations'].items() if not d['same_bits']]
    words.append(
      f'{name} {"same bits" if same else "differs"}'
      + (f' ({", ".join(guilty)})' if guilty else '')
    )
  for name, difference in found.get('between', {}).items():
    same = f'{difference["relative"]:.1e} apart'
    if difference['same_bits']:
      same = 'same bits'
    words.append(f'two processes ({name}): {same}')
  return '; '.join(words)


def _winners(winners):
  table = Table(title='a node of a grouped convolution, forward and backward')
  for name in (
    'width', 'members', 'precision', 'fastest', 'ms', 'GB',
    'fastest of XLA', 'ms', 'GB',
  ):  # fmt: skip
    table.add_column(name, justify='left' if 'fastest' in name else 'right')
  for row in winners:
    words = [str(row[name]) for name in ('width', 'members', 'dtype')]
    for way, prefix in (('way', ''), ('xla', 'xla_')):
      if row[way]:
        ms, size = row[f'{prefix}ms'], row[f'{prefix}temp_gb']
        words += [row[way], f'{ms:.3f}', f'{size:.2f}']
    table.add_row(*words)
  return table


def eager(results):
  """Returns steps a second of PyTorch eager by macro, cells, precision."""
  return {
    (row['macro'], row['cells'], row['precision']): row[_SPEED]
    for row in _rows(results, 'torch')
    if _SPEED in row
  }


def _speeds(rows, torch, title):
  table = Table(title=title, caption='*: cells are kept, not computed again')
  names = (
    'network', 'precision', 'members', 'steps/s', 'x PyTorch', 'of peak',
    'GB/member', 'compile s',
  )  # fmt: skip
  for name in names:
    table.add_column(name, justify='left' if name == 'network' else 'right')
  order = sorted(
    rows, key=lambda r: (r['macro'], r['cells'], r['precision'], r['members'])
  )
  for row in order:
    words = [f'{row["macro"]} {row["cells"]}', row['precision']]
    # A star where cells are kept instead of computed again.
    words.append(f'{row["members"]}{"" if row["checkpoint"] else "*"}')
    if 'problem' in row:
      table.add_row(*words, row['problem'][:40])
      continue
    base = torch.get((row['macro'], row['cells'], row['precision']))
    speed = row[_SPEED]
    table.add_row(
      *words,
      f'{speed:.1f}',
      f'{speed / base:.2f}' if base else '-',
      f'{100 * row["share_of_peak"]:.1f} %',
      f'{row["temp_gb_per_member"]:.2f}',
      f'{row["compile_s"]:.0f}',
    )
  return table


def goals(results):
  """Returns for each goal a line that says how near the best result came."""
  rows = [
    row
    for stage in ('speed', 'members')
    for row in _rows(results, stage)
    if _SPEED in row
  ]
  torch, lines = eager(results), []
  for macro in ('small', 'nb_asr'):
    ratios = [
      (row[_SPEED] / torch[key], row)
      for row in rows
      if row['macro'] == macro
      and (key := (macro, row['cells'], row['precision'])) in torch
    ]
    if ratios:
      ratio, row = max(ratios, key=lambda pair: pair[0])
      lines.append(
        f'{macro}: {ratio:.1f} times PyTorch eager ({row["cells"]}, '
        f'{row["members"]} members, {row["precision"]}); goal {GOALS[macro]:g}'
      )
  shares = [r for r in rows if r['precision'] == 'bfloat16']
  if shares:
    row = max(shares, key=lambda r: r['share_of_peak'])
    lines.append(
      f'{100 * row["share_of_peak"]:.1f} % of the bfloat16 peak '
      f'({row["macro"]} {row["cells"]}, {row["members"]} members); goal '
      f'{100 * GOALS["share_of_peak"]:.0f} %'
    )
  return lines
