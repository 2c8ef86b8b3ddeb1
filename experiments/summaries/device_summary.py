"""What came of the way to a device: printed, drawn, on a page, as JSON."""

import json

import numpy as np
from common import command, console
from rich.table import Table
from summaries import report_page

from nasjax import analysis, plots
from nasjax.storage import disk

_HEAD = (
  'network', 'precision', 'error on test', 'real-time factor', 'latency',
  'peak memory', 'bytes', 'parameters',
)  # fmt: skip


def compared(record):
  """Returns head and rows of the table manual against found, as texts."""
  rows = []
  for row in record['compared']:
    wer = '' if row['wer'] is None else f', WER {row["wer"]:.2%}'
    peak, between = row['peak_bytes'], ''
    if row['interval']:
      between = ' ({:.2%} to {:.2%})'.format(*row['interval'])
    rows.append((
      f'{row["network"]} ({row["role"]})',
      row['precision'],
      f'{row["metric"]} {row["error"]:.2%}{between}{wer}',
      f'{row["real_time_factor"]:.5f}',
      f'{row["latency_ms"]:.2f} ms',
      '--' if peak is None else f'{peak / 2**20:.0f} MiB',
      f'{row["bytes"]:,}',
      f'{row["params"]:,}',
    ))  # fmt: skip
  return _HEAD, rows


def networks(record):
  """Returns head and rows of all that was trained from scratch, as texts."""
  head = (
    'network', 'within the limit', 'validation', 'shared weights', 'test',
    'predicted', 'measured', 'parameters', 'architecture',
  )  # fmt: skip
  rows = []
  for row in sorted(record['networks'], key=lambda row: row['validation']):
    shared = row['shared_validation']
    rows.append((
      row['role'],
      'yes' if row['within'] else 'no',
      f'{row["validation"]:.2%}',
      '--' if shared is None else f'{shared:.1%}',
      f'{row["test"]:.2%}',
      f'{row["predicted_ms"]:.2f} ms',
      f'{row["measured_ms"]:.2f} ms',
      f'{row["params"]:,}',
      row['names'],
    ))  # fmt: skip
  return head, rows


def verdict(record):
  """Says in a sentence what was found beside the network to beat."""
  by = {
    (row['network'], row['precision']): row for row in record['compared']
  }
  manual, found = by['manual', 'float32'], by['found', 'float32']
  limit = record['limit']
  eight, int8 = '', by.get(('found', record['eight_bits']))
  if int8:
    eight = (
      f'; of eight bits what was found has {int8["error"]:.2%}, '
      f'{int8["latency_ms"]:.2f} ms and {int8["bytes"]:,} bytes'
    )
  more = ''
  if limit['what'] == 'latency' and found['latency_ms'] > limit['most']:
    more = ', which is more than may be and was predicted'
  unit = ' ms' if limit['what'] == 'latency' else ' parameters'
  return (
    f'Under {limit["most"]:.4g}{unit} ({limit["asked"]}), search found a '
    f'network of {found["error"]:.2%} {record["metric"]} on test and '
    f'{found["latency_ms"]:.2f} ms{more}; the manual one has '
    f'{manual["error"]:.2%} and {manual["latency_ms"]:.2f} ms{eight}.'
  )


def figures(record):
  """Returns pairs of a matplotlib figure and what it shows."""
  limit, evolution = record['limit'], record['evolution']
  scale, xlabel = 1.0, 'predicted latency, ms'
  if limit['what'] == 'params':
    scale, xlabel = 1e-6, 'parameters, millions'
  front_n = np.zeros(evolution['networks'], bool)
  front_n[evolution['front']] = True
  # Vectors alone: names are longer than a figure is wide.
  named = iter(evolution['front_archs'])
  names = [_vector(next(named)) if on else '' for on in front_n]
  searched = plots.pareto(
    scale * np.array(evolution['cost']),
    np.array(evolution['error']),
    front_n,
    xlabel,
    names,
    title=f'{evolution["networks"]} networks by shared weights, '
    f'{front_n.sum()} of them beaten by none',
    metric=record['metric'],
    split='validation',
  )
  rows = record['networks']
  ms_n, error_n = (
    np.array([row[name] for row in rows]) for name in ('measured_ms', 'test')
  )
  scratch_n = analysis.pareto_front(ms_n, error_n)
  trained = plots.pareto(
    ms_n,
    error_n,
    scratch_n,
    'measured latency, ms',
    [f'{row["role"]} {_vector(row["arch"])}' for row in rows],
    title=f'{len(rows)} networks trained from scratch',
    metric=record['metric'],
  )
  return [
    (searched, 'All that evolution evaluated, and the Pareto front of them.'),
    (trained, 'Networks trained from scratch: measured latency against error.'),
  ]


def _vector(arch):
  return json.dumps(arch, separators=(',', ':'))


def front(record):
  """Returns head and rows of what nothing evaluated beats, as texts."""
  evolution = record['evolution']
  what = record['limit']['what']
  head = 'ms as predicted' if what == 'latency' else 'parameters'
  rows = [
    (f'{evolution["cost"][n]:.4g}', f'{evolution["error"][n]:.1%}', name)
    for n, name in zip(evolution['front'], evolution['front_names'])
  ]
  rows.sort(key=lambda row: float(row[0]))
  return (head, f'{record["metric"]} on validation', 'architecture'), rows


def page(record, drawn):
  """Returns the HTML page."""
  sections = [
    report_page.Section(
      'Manual against found',
      [
        report_page.paragraph(verdict(record)),
        report_page.table(*compared(record)),
        report_page.paragraph(
          f'Measured on {record["device"]}, {record["frames"] / 100:g} s of '
          'speech a pass; peak memory is that of a process of its own. '
          'Intervals are of 95 %, as if symbols were wrong independently. All '
          'choices were made by validation: neither weights nor search have '
          'seen test.'
        ),
      ],
    ),
    report_page.Section(
      'Error against latency',
      [
        *(report_page.figure(figure, text) for figure, text in drawn),
        report_page.table(*front(record)),
      ],
    ),
    report_page.Section(
      'Trained from scratch', [report_page.table(*networks(record))]
    ),
    report_page.Section(
      'The ten steps',
      [
        report_page.table(
          ('step', 'seconds', 'CPU seconds', 'joules'),
          [
            (
              f'{step["step"]}. {step["title"]}',
              f'{step["seconds"]:.1f}',
              f'{step["cpu_seconds"]:.1f}',
              _joules(step['joules']),
            )
            for step in record['steps']
          ],
        ),
        *(
          report_page.paragraph(f'{step["step"]}. {step["title"]}: {line}')
          for step in record['steps']
          for line in step['said']
        ),
      ],
    ),
  ]
  title = f'{record["space"]} on {record["corpus"]}, to a device'
  return report_page.page(title, sections)


def _joules(value):
  return '--' if value is None else f'{value:,.0f}'


def write(record, out, path):
  """Prints and draws everything, and writes page and JSON.

  Args:
    record: of `device_study.Study.run`.
    out: directory of the study.
    path: where the numbers go beside OUT/report.json, or None.
  """
  record = record | {'verdict': verdict(record)}
  head, rows = compared(record)
  shown = Table(*head, title='Manual against found')
  for row in rows:
    shown.add_row(*row)
  console.CONSOLE.print(shown)
  console.print_line(record['verdict'])
  for name in 'seconds', 'cpu_seconds':
    total = sum(step[name] for step in record['steps'])
    record[name] = total
  console.print_line(
    f'{record["seconds"] / 60:.1f} minutes, '
    f'{record["cpu_seconds"] / 60:.1f} of CPU time'
  )
  drawn = figures(record)
  disk.make_directory(out / 'figures')
  for name, (figure, _) in zip(('searched', 'trained'), drawn):
    plots.save(figure, out / 'figures' / f'{name}.png')
  disk.publish(out / 'report.html', page(record, drawn).encode())
  for written in filter(None, (out / 'report.json', path)):
    command.publish_json(written, record, allow_nan=False)
  console.print_line(f'page: {out / "report.html"}')
