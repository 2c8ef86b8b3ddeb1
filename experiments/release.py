"""Makes one archive of a table for others, checks one, or unpacks one.

  python experiments/release.py --table=results/all --out=results/all.tar
  python experiments/release.py --check=results/all.tar
  python experiments/release.py --unpack=results/all.tar --out=results/copy

The archive has a manifest with the SHA-256 of every file, a citation file and a
datasheet of how the table was made; the same table makes the same bytes.
"""

import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('table', None, 'The table or run to be released.')
flags.DEFINE_string('check', None, 'An archive that is only to be checked.')
flags.DEFINE_string('unpack', None, 'An archive to be unpacked, and checked.')
flags.DEFINE_string(
  'out', None, 'The archive, or the directory to unpack into.'
)
flags.DEFINE_string('title', None, 'Of the table; what it holds if not given.')
flags.DEFINE_list('authors', [], 'Whom the citation names.')
flags.DEFINE_string('license', None, 'Of the table, as SPDX has it: CC-BY-4.0.')
flags.DEFINE_string('json', None, 'Where what is printed goes as JSON.')


def run():
  """Does one of the three."""
  given = [n for n in ('table', 'check', 'unpack') if FLAGS[n].value]
  if len(given) != 1:
    raise ValueError('give one of --table, --check and --unpack')
  if given != ['check'] and not FLAGS.out:
    raise ValueError('--out is missing; name the archive, or the directory')
  from nasjax import table

  if FLAGS.table:
    digest = table.release(
      pathlib.Path(FLAGS.table),
      pathlib.Path(FLAGS.out),
      FLAGS.title,
      FLAGS.authors,
      FLAGS.license,
    )
    report = {'archive': FLAGS.out, 'sha256': digest}
    print(f'{digest}  {FLAGS.out}')
  elif FLAGS.check:
    report = table.check_release(FLAGS.check)
    print(
      f'{FLAGS.check} is whole: {report["title"]}, {report["rows"]} rows in '
      f'{report["shards"]} shards, {len(report["files"])} files'
    )
  else:
    found = table.unpack(FLAGS.unpack, pathlib.Path(FLAGS.out))
    report = {'out': FLAGS.out, 'rows': len(found), 'shards': len(found.shards)}
    print(f'{len(found)} rows in {len(found.shards)} shards in {FLAGS.out}')
  if FLAGS.json:
    command.publish_json(FLAGS.json, report)


if __name__ == '__main__':
  command.run(run)
