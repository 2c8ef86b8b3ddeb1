"""Setting damaged shards aside, so that they can be made again."""

import os
import secrets

from nasjax.storage import disk
from nasjax.table import compaction, contents, schema, shards, writing


def repair(path):
  """Moves damaged shards into `_damaged/`; removes what killed writers left.

  Whoever generates the table then makes these shards again and no others. Of a
  damaged pack, shards are taken whose rows can be read and make the file that
  they once had, to the byte; the others are lost, and counted as moved.
  Shards of another schema version are whole, and stay. An older table then lies
  as `tidy` says.

  Returns:
    The names of the shards moved, sorted.
  """
  directory = shards.locate(path)
  with disk.lock(directory) as locked:
    if locked:
      writing.tidy(directory)
    problems = contents.verify(directory).problems
    moved = {
      name
      for name, error in problems.items()
      if isinstance(error, schema.DamagedShardError)
    }
    for pack in contents.packs(directory):
      try:
        contents.load_pack(directory, pack)
      except schema.DamagedShardError:
        if compaction.with_mark(directory, pack):
          moved.discard(pack)
          continue
        moved -= _salvage(directory, pack)
        _quarantine(directory, pack)
    for name in sorted(moved):
      if os.path.lexists(shards.find_mark(directory, name)):
        _quarantine(directory, name)
    if locked:
      compaction.finish(directory)
  return tuple(sorted(moved))


def _salvage(directory, pack):
  """Writes anew the shards of a damaged pack that are whole; returns names."""
  saved = set()
  for shard, payload in compaction.readable(directory, pack):
    if not shards.find_mark(directory, shard.name).exists():
      writing.publish(directory, shard, payload)
    saved.add(shard.name)
  return saved


def _quarantine(directory, name):
  """Moves both files of a shard away, the commit mark first.

  Of a pack last: rows of one that has no mark are taken for what a compaction
  left that was killed.
  """
  aside = directory / writing.QUARANTINE
  aside.mkdir(exist_ok=True)
  tag = secrets.token_hex(4)
  mark = shards.find_mark(directory, name)
  files = [mark, shards.rows_of(mark)]
  if name.startswith(shards.PACK_PREFIX):
    files = [*reversed(files), contents.copy_of(files[1])]
  for source in files:
    if os.path.lexists(source):
      os.replace(source, aside / f'{name}.{tag}{source.suffix}.damaged')
      disk.sync_directory(source.parent)
