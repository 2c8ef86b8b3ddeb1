"""Memory: what there is, what a program takes, what says that it ran out."""

import platform
import resource
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nasjax.programs import memory
from nasjax.training import population

MESSAGES = (
  'RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes.',
  'INTERNAL: Error dispatching computation: Out of memory allocating 8 bytes.',
  'RESOURCE_EXHAUSTED: Failed to allocate request for 1.2GiB on device',
)


@pytest.mark.parametrize('text', MESSAGES)
def test_what_xla_says_when_memory_ran_out(text):
  assert memory.exhausted(jax.errors.JaxRuntimeError(text))


def test_what_is_another_matter():
  assert memory.exhausted(MemoryError())
  for error in (
    jax.errors.JaxRuntimeError('INTERNAL: a bug'),
    RuntimeError('dictionary changed size during iteration'),
    ValueError('RESOURCE_EXHAUSTED'),
    RuntimeError('RESOURCE_EXHAUSTED: write: No space left on device'),
    RuntimeError('RESOURCE_EXHAUSTED: write: Disk quota exceeded'),
  ):
    assert not memory.exhausted(error)


def test_a_program_takes_arguments_temporaries_and_results():
  size = 1 << 16
  x = jax.ShapeDtypeStruct((size,), jnp.float32)
  plain = jax.jit(lambda x: x + 1).lower(x).compile()
  assert memory.program_bytes(plain) == 8 * size
  in_place = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
  assert memory.program_bytes(in_place) == 4 * size
  held = jax.jit(lambda x: jnp.sort(x) * jnp.sort(-x)).lower(x).compile()
  assert memory.program_bytes(held) > memory.program_bytes(plain)


def test_cpu_devices_share_their_host():
  """Each is a worker, or may be one."""
  one = memory.free(population.member_mesh(jax.devices()[:1]))
  assert 2**20 < one < 0.8 * memory.host_free()


def test_a_limit_of_addresses_is_seen():
  code = (
    'import resource; from nasjax.programs import memory; '
    'resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); '
    'print(memory.host_free())'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  # Python and JAX themselves have taken some of it.
  assert 2**30 < int(done.stdout) < 2**31
  assert resource.getrlimit(resource.RLIMIT_AS)[0] != 2**31


@pytest.mark.parametrize(
  'line, mount, place',
  [
    # Version 2: a batch job's own group, one above it, a container's view.
    ('0::/slurm/job_1/step', '/ {} - cgroup2 cgroup2 rw', 'slurm/job_1/step'),
    ('0::/slurm/job_1/step', '/ {} - cgroup2 cgroup2 rw', 'slurm/job_1'),
    ('0::/', '/ {} - cgroup2 cgroup2 rw,nsdelegate', ''),
    ('0::/docker/ab/x', '/docker/ab {} - cgroup2 cgroup2 rw', 'x'),
    ('0::/../../elsewhere', '/ {} - cgroup2 none rw', ''),
    # Version 1, beside a version 2 without memory.
    ('0::/\n4:memory:/a/b', '/ {} - cgroup cgroup rw,memory', 'a'),
    ('4:cpu,memory:/docker/ab', '/docker/ab {} - cgroup x rw,cpu,memory', ''),
    ('4:memory:/docker/ab', '/ {} - cgroup cgroup rw,memory', ''),
  ],
)
def test_limits_of_control_groups_are_seen(
  line, mount, place, tmp_path, monkeypatch
):
  monkeypatch.setattr(memory, '_SELF', tmp_path)
  whole, root = memory.host_free(), tmp_path / 'a b'
  (tmp_path / 'cgroup').write_text(f'9:name=systemd:/\n{line}\n')
  words = mount.format(str(root).replace(' ', '\\040') + ' rw shared:1')
  (tmp_path / 'mountinfo').write_text(f'30 20 0:1 {words}\n')
  group = root / place
  group.mkdir(parents=True)
  old = '- cgroup ' in mount
  limit, taken = (
    ('memory.limit_in_bytes', 'memory.usage_in_bytes')
    if old
    else ('memory.max', 'memory.current')
  )
  (group / limit).write_text('3000\n')
  (group / taken).write_text('1500\n')
  (group / 'memory.stat').write_text(
    'anon 1\nfile 700\ninactive_file 500\ntotal_inactive_file 500\n'
  )
  assert memory.host_free() == 2000
  (group / taken).write_text('4000')
  assert memory.host_free() == 0
  (group / limit).write_text('9223372036854771712\n' if old else 'max\n')
  assert memory.host_free() > whole / 2


class _Device:
  platform, device_kind = 'gpu', 'a GPU'
  client = types.SimpleNamespace(runtime_type='any')

  def __init__(self, stats):
    self._stats = stats

  def memory_stats(self):
    return self._stats


def _mesh(*stats):
  """As much of a mesh of GPUs as is looked at."""
  devices = np.array([_Device(s) for s in stats], object)
  return types.SimpleNamespace(devices=devices)


def test_accelerators_are_asked():
  full = {'bytes_limit': 100, 'bytes_in_use': 70}
  half = {'bytes_limit': 100, 'bytes_in_use': 50}
  assert memory.free(_mesh(half, full, half)) == 30
  for silent in (None, {}):
    with pytest.raises(ValueError, match='a GPU does not tell'):
      memory.free(_mesh(half, silent))


_PIECES = """
import ctypes, pathlib
from nasjax.programs import memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]


def megabytes():
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4 / 1024


pieces = []
for _ in range(50_000):
  pieces.append(libc.malloc(4000))
  ctypes.memset(pieces[-1], 1, 4000)
taken = megabytes()
# The last piece is still in use, which is why all below it stays.
for piece in pieces[:-1]:
  libc.free(piece)
freed = megabytes()
memory.give_back()
print(taken - freed, taken - megabytes())
"""


@pytest.mark.skipif(
  'glibc' not in platform.libc_ver()[0], reason='another C library'
)
def test_what_lies_free_in_small_pieces_is_given_back():
  told = subprocess.run(
    [sys.executable, '-c', _PIECES], capture_output=True, text=True, check=True
  )
  kept, given = map(float, told.stdout.split())
  assert kept < 20 and given > 150
