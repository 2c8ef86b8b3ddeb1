"""Words and table for programs compiled for chips that are not there."""

from rich.console import Console
from rich.table import Table

from nasjax.programs import chips

# The TPU's convolution takes so many utterances at a time.
TPU_ROWS = 16
_COLUMNS = {
  'macro': ('macro', 10, '{}'),
  'cells': ('cells', 20, '{}'),
  'members': ('at a time', 4, '{}'),
  'compile_s': ('compile s', 7, '{:.0f}'),
  'temp_gb_per_member': ('temp. GB a member', 9, '{:.3g}'),
  'args_gb_per_member': ('state GB a member', 8, '{:.3g}'),
  'flops_ratio': ("FLOPs / model's", 7, '{:.2f}'),
  'hbm_gb_per_member_step': ('HBM GB a step', 6, '{:.3g}'),
  'members_that_fit': ('members that fit', 7, '{}'),
  'roofline_ms': ('least ms a step', 7, '{:.3g}'),
  'bound': ('bound by', 7, '{}'),
}


def console():
  """Returns a console; a log has no width, which would cut the table."""
  found = Console(markup=False, emoji=False, highlight=False)
  return (
    found
    if found.is_terminal
    else Console(markup=False, emoji=False, highlight=False, width=130)
  )


def show(out, row, first):
  """Prints a row of `accelerator_programs.row`, under a header if first."""
  line = Table(show_header=first, box=None, pad_edge=False, padding=(0, 1))
  for name, (title, width, _) in _COLUMNS.items():
    left = name in ('macro', 'cells', 'bound')
    line.add_column(
      title,
      width=width,
      justify='left' if left else 'right',
      overflow='fold',
    )
  line.add_row(
    *(
      '-' if row[name] is None else shape.format(row[name])
      for name, (_, _, shape) in _COLUMNS.items()
    )
  )
  out.print(line)
  if not row['members_that_fit']:
    out.print(too_large(row), soft_wrap=True)
  if row['collectives'] is not None and row['devices'] > 1:
    out.print(messages(row), soft_wrap=True)


def too_large(row):
  """Says by how much a row's program has no room, and what would give it."""
  chip = chips.chip(row['topology'])
  what = (
    f'{row["macro"]}, {row["cells"]}, {row["members"]} at a time, batch '
    f'{row["batch"]}: does not fit a {chip.name}'
  )
  if row['needed_gb'] is not None:
    free = row['free_gb']
    what += (
      f', {row["needed_gb"]:.1f} GB of {free:.1f} GB, '
      f'{row["needed_gb"] - free:.1f} too many'
    )
  ways = [f'fewer at a time than --members={row["members"]}']
  ways = ways if row['members'] > 1 else []
  ways += [] if row['checkpoint'] else ['--checkpoint']
  ways += [
    f'a smaller --batch than {row["batch"]}',
    f'more --data_devices than {row["data_devices"]}',
  ]
  needed = 1e9 * (row['needed_gb'] or 0)
  larger = [c.name for c in chips.larger(chip) if c.hbm_bytes > needed]
  if larger:
    ways.append(f'a larger chip ({", ".join(larger)})')
  return f'{what}; what would help: {", ".join(ways)}'


def messages(row):
  """Says which messages among devices stand in a row's program."""
  spread = f'{row["devices"]} devices, {row["data_devices"]} to a batch'
  found = row['collectives']
  if not found:
    return f'{spread}: no collective stands in the program'
  told = ', '.join(f'{count} {kind}' for kind, count in found.items())
  return f'{spread}: {told} stand in the program'


def padding(topology, batch, data_devices):
  """Says how a TPU pads a batch; empty where it need not."""
  rows = -(-batch // data_devices)
  padded = -(-rows // TPU_ROWS) * TPU_ROWS
  if rows == padded or not chips.chip(topology).name.startswith('v'):
    return ''
  share = '' if data_devices == 1 else f' ({rows} a device)'
  return (
    f'batch {batch}{share} is no multiple of {TPU_ROWS}: convolutions of a '
    f'TPU run it as {padded}'
  )
