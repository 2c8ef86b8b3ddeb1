"""One archive of a table, for others: what it is, how it was made, digests.

  nasjax-table/manifest.json   size and SHA-256 of every other file
  nasjax-table/CITATION.cff    how to cite it
  nasjax-table/DATASHEET.md    how it was made
  nasjax-table/SHA256SUMS      the digests again, for `sha256sum -c`
  nasjax-table/run.json        what the run was, without paths of its machine
  nasjax-table/sources.json    of whom it was merged, if it was
  nasjax-table/table/          the shards and their marks

It is a tar file without compression (shards are compressed), the same bytes for
the same table wherever and whenever it is made. Beside it stands
`<archive>.sha256`.
"""

import atexit
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import secrets
import shutil
import tarfile
import tempfile

from nasjax.storage import disk
from nasjax.table import contents, datasheet, merging, reader, schema, shards

FORMAT, VERSION = 'nasjax-release', 1
_TOP = 'nasjax-table'
_MANIFEST = f'{_TOP}/manifest.json'
_NAME = re.compile(rf'{_TOP}(/[A-Za-z0-9_][A-Za-z0-9._-]*)+')
_OTHERS = ('.zip', '.gz', '.tgz', '.bz2', '.xz', '.zst', '.7z')
_MOST_MANIFEST, _MOST_FILES = 256 << 20, 2_000_000


def release(path, out, title=None, authors=(), license=None):
  """Writes the archive of a table; damaged ones are refused.

  Args:
    path: table or run.
    out: the archive, a tar file; replaced if it is there.
    title: of the table; what it holds if not given.
    authors: names, for the citation.
    license: an SPDX identifier, for the citation.

  Returns:
    The SHA-256 of the archive, which is in `<out>.sha256`, too.

  Raises:
    DamagedShardError: a shard is not what was committed.
    TableError: there is no table, or the name of `out` is that of another
      kind of archive.
    OSError: the disk is full or cannot be written; `out` is as it was.
  """
  out = pathlib.Path(out)
  if out.suffix in _OTHERS:
    raise schema.TableError(
      f'{out}: a release is a plain tar file; name it {out.with_suffix(".tar")}'
    )
  if out.is_dir() or not out.parent.is_dir():
    raise schema.TableError(
      f'{out} must be the name of a file in a directory that is there'
    )
  table = reader.open_table(path)
  root = table.path.parent if table.path.name == 'table' else table.path
  files = {f'table/{p.relative_to(table.path)}': p for p in _files(table)}
  run = merging.plain(root / 'run.json')
  sources = merging.plain(root / 'sources.json')
  title = title or datasheet.title(table)
  texts = {
    'DATASHEET.md': datasheet.text(table, title, run, sources),
    'CITATION.cff': datasheet.citation(table, title, authors, license),
  }
  for name, plain in (('run.json', run), ('sources.json', sources)):
    if plain is not None:
      told = _without_paths(plain)
      texts[name] = json.dumps(told, indent=1, sort_keys=True) + '\n'
  payloads = {name: text.encode() for name, text in texts.items()}
  digests = {name: _of_bytes(payload) for name, payload in payloads.items()}
  digests |= {name: _of_file(path) for name, path in files.items()}
  sums = ''.join(f'{d["sha256"]}  {n}\n' for n, d in sorted(digests.items()))
  payloads['SHA256SUMS'] = sums.encode()
  digests['SHA256SUMS'] = _of_bytes(payloads['SHA256SUMS'])
  manifest = {
    'format': FORMAT,
    'version': VERSION,
    'title': title,
    'rows': len(table),
    'shards': len(table.every_shard),
    'files': digests,
  }
  text = json.dumps(manifest, indent=1, sort_keys=True) + '\n'
  with (
    disk.publishing(out) as f,
    tarfile.open(fileobj=f, mode='w', format=tarfile.PAX_FORMAT) as tar,
  ):
    # First, so that whoever reads knows what is to come.
    _add(tar, _MANIFEST, len(text), io.BytesIO(text.encode()))
    for name in sorted(digests):
      size = digests[name]['size']
      if name in payloads:
        _add(tar, f'{_TOP}/{name}', size, io.BytesIO(payloads[name]))
        continue
      with files[name].open('rb') as rows:
        _add(tar, f'{_TOP}/{name}', size, rows)
  digest = _of_file(out)['sha256']
  disk.publish(
    out.with_name(f'{out.name}.sha256'), f'{digest}  {out.name}\n'.encode()
  )
  return digest


def check_release(archive):
  """Reads an archive to its end, and returns its manifest; writes nothing.

  Raises:
    TableError: it is no archive of a table, or not what its manifest says.
  """
  with _opened(archive) as (manifest, members):
    for _, payload in members:
      for _ in payload:
        pass
  return manifest


def unpack(archive, out):
  """Unpacks an archive, and opens the table.

  Everything is checked on the way, and appears at once: names that lead
  elsewhere, links, files that are not in the manifest, or are of another size
  or digest, are refused.

  Args:
    archive: of `release`.
    out: directory, which must not be there, or empty.

  Returns:
    The Table.

  Raises:
    TableError: it is no archive of a table, not what its manifest says, or
      there is something in `out`.
    OSError: the disk is full or cannot be written; nothing is left in `out`.
  """
  out = pathlib.Path(out)
  if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
    raise schema.TableError(f'{out} is there; unpack into a new directory')
  out.parent.mkdir(parents=True, exist_ok=True)
  place = out.with_name(f'.{out.name}.{secrets.token_hex(4)}.tmp')
  place.mkdir()
  try:
    with _opened(archive) as (_, members):
      for name, payload in members:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('xb') as f:
          f.writelines(payload)
          f.flush()
          os.fsync(f.fileno())
    reader.open_table(place)
    os.replace(place, out)
    disk.sync_directory(out.parent)
  finally:
    shutil.rmtree(place, ignore_errors=True)
  return reader.open_table(out)


def is_release(path):
  """Tells whether a file begins as an archive of a table does."""
  with path.open('rb') as f:
    return f.read(len(_MANIFEST)) == _MANIFEST.encode()


def unpacked(archive):
  """Opens an archive from a directory that is there until this process ends."""
  place = tempfile.mkdtemp(prefix='nasjax-release-')
  atexit.register(shutil.rmtree, place, ignore_errors=True)
  return unpack(archive, pathlib.Path(place) / 'table')


@contextlib.contextmanager
def _opened(archive):
  """Yields the manifest of an archive, and its files one after another.

  These are pairs of a path below the top and an iterable of bytes, which must
  be gone through before the next; an error is raised where it is not what the
  manifest says, at the latest behind the last file.
  """
  archive = pathlib.Path(archive)
  try:
    size = archive.stat().st_size
    with tarfile.open(archive, 'r:') as tar:
      first = tar.next()
      if first is None or first.name != _MANIFEST:
        raise _bad(archive, f'does not begin with {_MANIFEST}')
      _check_member(archive, first, min(size, _MOST_MANIFEST))
      raw = tar.extractfile(first).read(first.size)
      manifest = _manifest(archive, raw)
      yield manifest, _members(archive, tar, size, raw, manifest['files'])
  except FileNotFoundError:
    raise schema.TableError(f'{archive} does not exist') from None
  except schema.TableError:
    raise
  except (tarfile.TarError, EOFError, ValueError, IsADirectoryError) as e:
    # tarfile raises plain ValueErrors, too, where a header lies.
    raise _bad(archive, f'is no tar file that can be read ({e})') from e


def _members(archive, tar, size, manifest, files):
  yield 'manifest.json', [manifest]
  seen = set()
  while (member := tar.next()) is not None:
    _check_member(archive, member, size)
    name = member.name.removeprefix(f'{_TOP}/')
    wanted = files.get(name)
    if wanted is None or name in seen:
      what = 'twice' if name in seen else 'which is not in its manifest'
      raise _bad(archive, f'has {name!r} {what}')
    seen.add(name)
    if member.size != wanted['size']:
      raise _bad(
        archive,
        f'has {name!r} of {member.size} bytes, its manifest says '
        f'{wanted["size"]}',
      )
    yield name, _payload(archive, tar, member, wanted['sha256'])
  if missing := sorted(files.keys() - seen):
    raise _bad(
      archive, f'lacks {missing[0]!r}, and {len(missing)} files in all'
    )


def _payload(archive, tar, member, wanted):
  digest, left = hashlib.sha256(), member.size
  with tar.extractfile(member) as f:
    while part := f.read(1 << 20):
      digest.update(part)
      left -= len(part)
      yield part
  if left or digest.hexdigest() != wanted:
    raise _bad(
      archive,
      f'has {member.name!r} with SHA-256 {digest.hexdigest()}, its manifest '
      f'says {wanted}',
    )


def _check_member(archive, member, most):
  """Refuses what is no plain file of a plain name and a size that can be."""
  if not _NAME.fullmatch(member.name) or len(member.name) > 400:
    raise _bad(archive, f'has a file of the name {member.name!r}')
  if not member.isreg() or member.issparse():
    raise _bad(archive, f'has {member.name!r}, which is no plain file')
  if not 0 <= member.size <= most:
    raise _bad(archive, f'declares {member.size} bytes for {member.name!r}')


def _manifest(archive, raw):
  try:
    manifest = json.loads(raw)
    if manifest['format'] != FORMAT:
      raise ValueError(f'format {manifest["format"]!r}')
    if manifest['version'] != VERSION:
      raise schema.SchemaError(
        f'{archive} is a release of version {manifest["version"]!r}; this '
        f'nasjax reads {VERSION}. Upgrade, or take the nasjax that made it'
      )
    files = manifest['files']
    good = len(files) <= _MOST_FILES and all(
      isinstance(f['size'], int) and isinstance(f['sha256'], str)
      for f in files.values()
    )
    if not good:
      raise ValueError('files')
  except schema.SchemaError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
    raise _bad(archive, f'has no manifest that can be read ({e})') from e
  return manifest


def _bad(archive, what):
  return schema.TableError(
    f'{archive} {what}; it was not unpacked. Fetch it again, and compare its '
    'SHA-256 with the one that was published'
  )


def _files(table):
  """Returns the paths of all files of a Table, sorted."""
  rows = {shard.path for shard in table.every_shard}
  found = set(rows)
  for path in rows:
    name = path.stem
    found.add(shards.find_mark(table.path, name))
    if name.startswith(shards.PACK_PREFIX):
      found.add(contents.copy_of(path))
  return sorted(found)


def _add(tar, name, size, file):
  info = tarfile.TarInfo(name)
  info.size, info.mode = size, 0o644  # all else is 0 and empty
  tar.addfile(info, file)


def _of_bytes(payload):
  return {
    'sha256': hashlib.sha256(payload).hexdigest(),
    'size': len(payload),
  }


def _of_file(path):
  with path.open('rb') as f:
    digest = hashlib.file_digest(f, 'sha256').hexdigest()
  return {'sha256': digest, 'size': path.stat().st_size}


def _without_paths(plain):
  """Returns values of JSON with the last part of each absolute path alone."""
  if isinstance(plain, dict):
    return {key: _without_paths(value) for key, value in plain.items()}
  if isinstance(plain, list):
    return [_without_paths(value) for value in plain]
  if isinstance(plain, str) and plain.startswith(('/', '~')):
    return pathlib.PurePath(plain).name
  return plain
