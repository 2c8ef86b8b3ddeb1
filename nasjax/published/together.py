"""Several released files, which must belong together."""

from nasjax.published import files as files_lib
from nasjax.published.files import SPACE
from nasjax.published.plain import PublishedError, shown


def read_all(files):
  """Returns the Records of files that belong together."""
  records = [files_lib.read(path) for path in files_lib.find(files)]
  if not records:
    raise PublishedError('no files; give a folder, or at least one file')
  by_name, by_setting = {}, {}
  for record in records:
    other = by_name.setdefault(record.name, record)
    if other is not record:
      raise PublishedError(
        f'{other.path} and {record.path} both are {record.name}.pickle'
      )
    first = by_setting.setdefault(_setting(record), record)
    _check_alike(first, record)
  _check_encodings(records)
  return records


def _setting(record):
  """Returns what files must share to have equal headers and equal cells."""
  return record.kind, record.header.get('epochs')


def _check_alike(first, record):
  """Raises unless two files of one kind differ in seed or device only."""
  headers = [
    {n: v for n, v in r.header.items() if n not in ('seed', 'device')}
    for r in (first, record)
  ]
  for name in headers[0] | headers[1]:
    a, b = (header.get(name) for header in headers)
    if a != b:
      raise PublishedError(
        f'{record.path}: {name!r} in the header is {shown(b)}, but '
        f'{shown(a)} in {first.path}'
      )
  for a, b in ((first, record), (record, first)):
    if lacking := sorted(set(a.hashes) - set(b.hashes)):
      raise PublishedError(
        f'{b.path} lacks {len(lacking)} cells of {a.path}: {named(lacking)}'
      )


def _check_encodings(records):
  """Raises where two files have different cells for one hash."""
  seen = {}
  for record in records:
    if record.kind == 'training':
      archs = map(tuple, record.columns['arch_vec'].tolist())
      for r, (h, arch) in enumerate(zip(record.hashes, archs)):
        other, path = seen.setdefault(h, (arch, record.path))
        if other != arch:
          raise PublishedError(
            f'{record.path}, row {r}: arch_vec is {SPACE.nested(arch)}, but '
            f'{SPACE.nested(other)} in {path}, for one hash {h}'
          )


def named(hashes, most=5):
  """Returns the first of some hashes, each with the first cell it covers."""
  names = [
    f'{h} {SPACE.nested(files_lib.encodings()[h][0])}' for h in hashes[:most]
  ]
  more = len(hashes) - most
  return ', '.join(names) + (f' and {more} more' if more > 0 else '')
