"""How far a run is: on a screen, in a browser, for Prometheus.

All take what `watching.Watch.look` returns.
"""

import html
import pathlib

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from summaries import report_page

# Of the shards in training, on a screen.
_SHOWN = 12
_HEAD = ('shard', 'networks', 'epoch', 'last sign of life', 'worker')


def _facts(status):
  """Pairs of a word and what is to be said of it."""
  shards, members = status['shards'], status['members']
  speed = status['members_per_second']
  if speed is None:
    told = 'not known yet'
  elif speed >= 1:
    told = f'{speed:,.2f} a second'
  else:
    told = f'{speed:.2g} a second ({speed * 3600:,.1f} an hour)'
  left = status['seconds_left']
  return [
    ('shards', f'{shards["done"]:,} of {shards["total"]:,} done'),
    (
      '',
      f'{shards["running"]:,} running, {shards["failed"]:,} failed, '
      f'{shards["waiting"]:,} waiting',
    ),
    ('networks', f'{members["done"]:,} of {members["total"]:,} done'),
    ('', f'{members["diverged"]:,} diverged, {members["oom"]:,} out of memory'),
    ('speed', told),
    ('time left', 'not known yet' if left is None else duration(left)),
  ]


def title(status):
  """Returns what run it is, and whether anybody is at work, in a line."""
  run = status['run']
  return (
    f'{status["out"]} ({run["space"]}, macro {run["macro"]}, recipe '
    f'{run["recipe"]}, {run["corpus"]}): {status["state"]}'
  )


def duration(seconds):
  """Returns a time in words that are short: '2 d 03:10:07'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  clock = f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{days} d {hours:02d}:{minutes:02d}:{seconds:02d}' if days else clock


def screen(status):
  """Returns what rich prints."""
  facts, shards = Table.grid(padding=(0, 2)), status['shards']
  facts.add_row(
    '',
    ProgressBar(
      total=max(1, shards['total']), completed=shards['done'], width=60
    ),
  )
  for word, told in _facts(status):
    facts.add_row(word, Text(told))
  parts = [Text(f'{status["time"]}  {title(status)}'), facts]
  if status['running']:
    view = Table(title='in training', title_justify='left')
    for name in _HEAD:
      view.add_column(name, justify='left' if name == 'shard' else 'right')
    for one in status['running'][:_SHOWN]:
      view.add_row(*_row(one))
    parts.append(view)
    if (more := len(status['running']) - _SHOWN) > 0:
      parts.append(Text(f'and {more} more'))
  if status['errors']:
    parts.append(Text(f'errors ({status["errors_total"]} in all):'))
    for error in status['errors']:
      parts.append(Text(f'  {error["file"]}\n    {error["error"]}'))
  return Group(*parts)


def _row(one):
  return (
    one['shard'],
    str(one['members']),
    f'{one["epoch"]}/{one["epochs"]}',
    f'{duration(one["quiet_seconds"])} ago',
    one['worker'] or '',
  )


def page(status, refresh=None):
  """Returns one page of HTML that needs nothing else.

  Args:
    status: of `look`.
    refresh: seconds after which a browser reads it again; never if not given.
  """
  shards = status['shards']
  colours = {'done': '#2a7', 'running': '#39c', 'failed': '#c43'}
  parts = ''.join(
    f'<span style="width:{100 * shards[name] / max(1, shards["total"]):.3f}%;'
    f'background:{colour}" title="{shards[name]} {name}"></span>'
    for name, colour in colours.items()
  )
  bar = (
    '<div role="img" aria-label="'
    f'{shards["done"]} of {shards["total"]} shards done" '
    'style="display:flex;height:1.2rem;background:#ddd;border-radius:.3rem;'
    f'overflow:hidden">{parts}</div>'
  )
  sections = [
    report_page.Section(
      'How far it is',
      [bar, report_page.table(('', ''), _facts(status))],
    )
  ]
  if status['running']:
    rows = [_row(one) for one in status['running']]
    sections.append(
      report_page.Section('In training', [report_page.table(_HEAD, rows)])
    )
  if status['errors']:
    blocks = [
      f'<p><code>{html.escape(e["file"])}</code><br>'
      f'{html.escape(e["error"])}</p>'
      for e in status['errors']
    ]
    sections.append(
      report_page.Section(f'Errors ({status["errors_total"]})', blocks)
    )
  when = report_page.paragraph(f'As of {status["time"]}.')
  sections[0].blocks.append(when)
  return report_page.page(title(status), sections, refresh)


def prometheus(status):
  """Returns the text of Prometheus' exposition format, version 0.0.4."""
  lines = []

  def metric(name, told, values):
    """`values` are pairs of labels, a dict, and a number."""
    lines.append(f'# HELP nasjax_{name} {told}')
    lines.append(f'# TYPE nasjax_{name} gauge')
    for labels, value in values:
      inside = ','.join(f'{k}="{_escaped(v)}"' for k, v in labels.items())
      shown = f'{{{inside}}}' if inside else ''
      lines.append(f'nasjax_{name}{shown} {value}')

  def by_state(counts):
    return [({'state': k}, v) for k, v in counts.items() if k != 'total']

  run = {'out': pathlib.Path(status['out']).name} | status['run']
  metric('run_info', 'What the run is; always 1.', [(run, 1)])
  metric('shards', 'Shards of the plan by state.', by_state(status['shards']))
  metric(
    'shards_planned', 'Shards of the plan.', [({}, status['shards']['total'])]
  )
  metric(
    'members',
    'Networks whose rows stand, and of those who diverged or found no memory.',
    by_state(status['members']),
  )
  metric(
    'members_planned',
    'Networks of the plan.',
    [({}, status['members']['total'])],
  )
  for name, told in (
    ('members_per_second', 'Networks trained a second, lately.'),
    ('seconds_left', 'Seconds that are left at that speed.'),
  ):
    value = status[name]
    metric(name, told, [({}, 'NaN' if value is None else repr(float(value)))])
  metric('errors', 'Shards with an error.', [({}, status['errors_total'])])
  metric(
    'shard_epoch',
    'Epochs that a shard in training has behind it.',
    [({'shard': r['shard']}, r['epoch']) for r in status['running']],
  )
  return '\n'.join(lines) + '\n'


def _escaped(value):
  text = str(value).replace('\\', '\\\\')
  return text.replace('"', '\\"').replace('\n', '\\n')
