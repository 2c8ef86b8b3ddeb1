"""How much memory there is, how much a program needs, and when it ran out."""

import contextlib
import ctypes
import errno
import gc
import os
import pathlib
import re
import resource

import jax

from nasjax.programs import chips

_SELF = pathlib.Path('/proc/self')
# Of a control group of version 1 and 2: its limit, what is taken, and the line
# of memory.stat that says which pages of files nobody uses.
_CGROUP_FILES = {
  'cgroup': (
    'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'
  ),
  'cgroup2': ('memory.max', 'memory.current', 'inactive_file'),
}  # fmt: skip
# Version 1 writes the largest number of pages for `no limit`.
_NO_LIMIT = 2**60


class TooLargeError(ValueError):
  """What must fit into memory does not; names what, and a remedy."""


def exhausted(error):
  """Tells whether an exception says that memory ran out, here or on a device.

  XLA has no type of its own for it, only a `RuntimeError` and its text. Where
  the program fails it says RESOURCE_EXHAUSTED; where a later one waits for its
  results, INTERNAL, and quotes the first. (jaxlib 0.10.2, CPU)
  """
  if isinstance(error, MemoryError):
    return True
  text = str(error)
  # A full disk is a resource that is exhausted, too.
  if any(os.strerror(e) in text for e in (errno.ENOSPC, errno.EDQUOT)):
    return False
  return isinstance(error, RuntimeError) and any(
    words in text for words in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )


def give_back():
  """Gives memory that nothing uses any more back to the system.

  Compilers take gigabytes in small pieces, which the allocator of the GNU C
  library keeps as they are: the next program then takes more. Programs that
  nothing refers to are taken apart first. Elsewhere than with that library
  nothing is given back.
  """
  gc.collect()
  try:
    ctypes.CDLL(None).malloc_trim(0)
  except (AttributeError, OSError, TypeError):
    return


def program_bytes(compiled):
  """Bytes that a compiled program takes on one device while it runs."""
  found = compiled.memory_analysis()
  return (
    found.argument_size_in_bytes
    + found.temp_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
  )


def free(mesh):
  """Bytes that each device of a mesh may still take.

  CPU devices share what the host has. Where the devices are not there, it is
  what the chip has.

  Raises:
    ValueError: the device does not tell.
  """
  devices = list(mesh.devices.flat)
  if devices[0].platform == 'cpu':
    return host_free() // jax.local_device_count()
  if not chips.is_there(mesh):
    return chips.of(mesh).hbm_bytes
  found = [device.memory_stats() or {} for device in devices]
  if not all('bytes_limit' in stats for stats in found):
    raise ValueError(
      f'{devices[0].device_kind} does not tell its free memory; '
      'say how many networks to train together'
    )
  return min(s['bytes_limit'] - s['bytes_in_use'] for s in found)


def host_free():
  """Bytes that this process may still take from its host.

  The least of what is available, of what its limit of addresses leaves, and of
  what its control groups (versions 1 and 2) leave, those above it among them:
  batch systems and containers set their limits there.

  Raises:
    ValueError: the host does not tell (it is no Linux).
  """
  try:
    words = pathlib.Path('/proc/meminfo').read_text().split()
    pages = pathlib.Path('/proc/self/statm').read_text().split()
  except OSError:
    raise ValueError(
      'the host does not tell its free memory in /proc; '
      'say how many networks to train together'
    ) from None
  found = [int(words[words.index('MemAvailable:') + 1]) * 1024]
  addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
  if addresses != resource.RLIM_INFINITY:
    taken = int(pages[0]) * os.sysconf('SC_PAGE_SIZE')
    found.append(addresses - taken)
  for version, place in _groups():
    group = _group_free(place, *_CGROUP_FILES[version])
    if group is not None:
      found.append(group)
  return max(0, min(found))


def _groups():
  """Yields version and directory of each control group of this process.

  Its own ones and all above, as far as they can be seen.
  """
  try:
    own = [
      line.split(':', 2) for line in (_SELF / 'cgroup').read_text().splitlines()
    ]
    mounts = (_SELF / 'mountinfo').read_text().splitlines()
  except OSError:
    return
  for line in mounts:
    before, _, after = line.partition(' - ')
    _, _, _, root, mount, *_ = before.split()
    kind, _, options = after.split(' ', 2)
    wanted = {'cgroup': 'memory', 'cgroup2': ''}.get(kind)
    if wanted is None or wanted not in options.split(',') + ['']:
      continue
    for _, controllers, path in own:
      if wanted in controllers.split(','):
        yield from ((kind, place) for place in _above(mount, root, path))


def _above(mount, root, path):
  """Returns the directories of a group and of those above it that are there.

  Args:
    mount: where the hierarchy can be seen.
    root: which of its groups is seen there.
    path: of the process's group.
  """
  mount = pathlib.Path(re.sub(r'\\(\d{3})', _unescaped, mount))
  inside = pathlib.PurePosixPath(path)
  with contextlib.suppress(ValueError):
    inside = inside.relative_to(root)
  # In a namespace of its own a process may be told a path outside of it.
  parts = [part for part in inside.parts if part not in ('/', '..')]
  places = [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]
  return [place for place in places if place.is_dir()]


def _unescaped(octal):
  return chr(int(octal[1], 8))


def _group_free(place, limit, taken, spare):
  """Bytes that a control group leaves; None if it has no limit."""
  try:
    limit = (place / limit).read_text().strip()
    taken = int((place / taken).read_text())
    words = (place / 'memory.stat').read_text().split()
    if limit == 'max' or int(limit) >= _NO_LIMIT:
      return None
    # Pages of files that nobody uses are given back when they are needed.
    return int(limit) - taken + int(words[words.index(spare) + 1])
  except (OSError, ValueError):
    return None
