"""How much memory there is, how much a program needs, and when it ran out."""

import os
import pathlib
import resource

import jax

from nasjax import chips

_CGROUP = pathlib.Path('/sys/fs/cgroup')


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
  return isinstance(error, RuntimeError) and any(
    words in str(error) for words in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )


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
  what its control group (version 2) leaves.

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
  group = _group_free(_CGROUP)
  if group is not None:
    found.append(group)
  return max(0, min(found))


def _group_free(root):
  """Bytes that the control group at `root` leaves; None if it has no limit."""
  try:
    limit = (root / 'memory.max').read_text().strip()
    taken = int((root / 'memory.current').read_text())
    words = (root / 'memory.stat').read_text().split()
  except OSError:
    return None
  if limit == 'max':
    return None
  # Pages of files that nobody uses are given back when they are needed.
  spare = int(words[words.index('inactive_file') + 1])
  return int(limit) - taken + spare
