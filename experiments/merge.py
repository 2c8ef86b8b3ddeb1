"""Merges the tables of several contributors into one.

  python experiments/merge.py results/a results/b --out=results/all
  python experiments/merge.py results/all --compact

Each shard is verified and copied byte by byte. Nothing is written where two
tables have other results for one training: each is named, with both sides.
OUT/sources.json says of each contributor which shards are his, and what trained
them. --compact puts small shards into large files, those of OUT, or of the one
table that is named without --out.
"""

import json
import os
import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('out', None, 'Directory of the merged table.')
flags.DEFINE_bool(
  'compact', False, 'Put small shards into large files (table.compact).'
)
flags.DEFINE_string('json', None, 'Where a report goes, conflicts and all.')
_SHOWN = 20


def told(conflict):
  """Returns a conflict in a line."""
  one, other = (
    f'{_rate(side["test_per"])} in {side["table"]} (shard {side["shard"]})'
    for side in conflict['sides']
  )
  return (
    f'cell {conflict["cell"]}, seed {conflict["seed"]}, recipe '
    f'{conflict["recipe"]}: test_per {one}, {other}; they differ in '
    f'{", ".join(conflict["differing"])}'
  )


def _rate(value):
  return 'none' if value is None else f'{value:.6f}'


def merge(paths, out):
  """Merges tables; returns the report, plain values.

  Raises:
    ValueError: tables disagree, or one cannot be opened.
  """
  from nasjax import table
  from nasjax.storage import disk
  from nasjax.table import contents, merging

  if contents.committed(out, kind=None):
    place, standing = out, [out]
  else:
    place = out / 'table'
    standing = [out] if contents.committed(place) else []
  everyone = list(dict.fromkeys([*standing, *paths]))
  found = merging.conflicts(everyone)
  report = {'out': str(out), 'conflicts': found}
  if found:
    _write_json(report)
    for conflict in found[:_SHOWN]:
      print(told(conflict))
    raise ValueError(
      f'{len(found)} trainings have different results in these tables, nothing '
      'was written; leave out one of the tables, or move shards that are wrong '
      'out of it'
    )
  merged = table.merge(paths, place)
  sources = merging.plain(out / 'sources.json') or []
  known = {source['digest'] for source in sources}
  for path in paths:
    source = merging.source(path)
    if source['digest'] not in known:
      sources.append(source)
  payload = json.dumps(sources, indent=1).encode()
  disk.publish(out / 'sources.json', payload)
  return report | {
    'rows': len(merged),
    'shards': len(merged.shards),
    'sources': [
      {
        'name': source['name'],
        'shards': len(source['shards']),
        'rows': source['rows'],
        'digest': source['digest'],
      }
      for source in sources
    ],
  }


def _write_json(report):
  if FLAGS.json:
    command.publish_json(FLAGS.json, report)


def run(words):
  """Merges, compacts, and says what there is."""
  paths = [pathlib.Path(os.path.expanduser(word)) for word in words]
  if not paths:
    raise ValueError('name the tables or runs to be merged')
  if not FLAGS.out and not (FLAGS.compact and len(paths) == 1):
    raise ValueError(
      '--out is missing; name the directory of the merged table (or one table '
      'and --compact)'
    )
  from nasjax import table

  report, place = {}, paths[0]
  if FLAGS.out:
    place = command.directory('out')
    report = merge(paths, place)
    print(
      f'{report["rows"]} rows in {report["shards"]} shards of '
      f'{len(report["sources"])} contributors in {place}'
    )
    for source in report['sources']:
      print(
        f'  {source["name"]}: {source["shards"]} shards, {source["rows"]} '
        f'rows, {source["digest"][:16]}'
      )
  if FLAGS.compact:
    packs = table.compact(place)
    held = len(table.open(place).shards)
    report |= {'packs': list(packs), 'shards': held}
    print(f'{len(packs)} new packs; {held} shards in {place}')
  _write_json(report)


if __name__ == '__main__':
  command.run(run, others=True)
