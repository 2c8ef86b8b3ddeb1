"""Accelerators that are not there: their published numbers and compilers.

XLA's compilers for TPUs and GPUs run on any machine. They tell the memory that
a program takes and the program itself, though nothing can run. Importing this
module starts no backend of JAX, for `environment` has to be heeded before.

Kernels of Pallas ask for the kind of device where they are lowered. Inside
`jax.shard_map` the mesh answers, as in all programs of `population`; elsewhere
lower them under `jax.set_mesh(mesh)`. (jax 0.10.2)
"""

import importlib.util
import os
import pathlib
from typing import NamedTuple


class Chip(NamedTuple):
  """Peaks of an accelerator, as published.

  TPUs: cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e, bandwidths in
  units of 10^9 bytes. H100, H200: NVIDIA's data sheets of the SXM cards,
  products without sparsity. Memory is counted in 10^9 bytes, too: compilers let
  programs have a little more (15.75 of 2^30 bytes of a v5e).

  Attributes:
    name: short, as topologies are written.
    hbm_bytes: its memory.
    hbm_bytes_per_second: bandwidth of that memory.
    bf16_flops_per_second: of products of bfloat16, a multiply-accumulate being
      two.
  """

  name: str
  hbm_bytes: int
  hbm_bytes_per_second: float
  bf16_flops_per_second: float


_CHIPS = {
  chip.name: chip
  for chip in (
    Chip('v4', 32 * 10**9, 1228e9, 275e12),
    Chip('v5e', 16 * 10**9, 819e9, 197e12),
    Chip('v5p', 95 * 10**9, 2765e9, 459e12),
    Chip('v6e', 32 * 10**9, 1640e9, 918e12),
    Chip('h100', 80 * 10**9, 3352e9, 989.4e12),
    Chip('h200', 141 * 10**9, 4800e9, 989.4e12),
  )
}
# What devices call themselves: libtpu's topologies, and as JAX also knows them.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5e': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU v6e': 'v6e',
  'NVIDIA H100 80GB HBM3': 'h100',
  'NVIDIA H200': 'h200',
}
# The chips of one host, the fewest that the compiler takes.
_HOSTS = {'v4': '2x2x1', 'v5e': '2x2', 'v5p': '2x2x1', 'v6e': '2x2'}
# Two cores of a v4 are one device, as in a real one.
_OPTIONS = {'v4': {'chip_config_name': 'megacore'}}
_CUDA_PACKAGES = (
  'jax-cuda12-plugin and jax-cuda12-pjrt of the version of jax, '
  'nvidia-cuda-nvcc-cu12, nvidia-cuda-runtime-cu12 and nvidia-nvjitlink-cu12'
)
_CARDS = ('h100', 'h200')
# A `GpuTargetConfigProto`: the H100's data sheet and white paper, and the table
# of compute capability 9.0 in NVIDIA's CUDA C++ Programming Guide.
_HOPPER = """
platform_name: "CUDA"
device_description_str: "{kind}"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: {chip.hbm_bytes}
  memory_bandwidth: {chip.hbm_bytes_per_second:.0f}
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""


def _split(topology):
  """Returns the chip's name and the shape that a topology names."""
  name, _, shape = topology.partition(':')
  if name not in _CHIPS:
    raise ValueError(
      f'topology {topology!r}: no chip is called {name!r}; take one of '
      f'{", ".join(_CHIPS)}, with a shape after it (v5e:4x4, h100:8) or alone'
    )
  if name in _CARDS:
    if shape and not (shape.isdecimal() and int(shape) > 0):
      raise ValueError(
        f'topology {topology!r}: {shape!r} is no number of cards; write '
        f'{name} for one or {name}:8 for eight'
      )
    return name, f'1x1x{shape or 1}'
  return name, shape or _HOSTS[name]


def chip(topology):
  """Returns the `Chip` of a topology, as `devices` takes it."""
  return _CHIPS[_split(topology)[0]]


def larger(chip):
  """Returns the chips of more memory than `chip`, the smallest first."""
  more = [c for c in _CHIPS.values() if c.hbm_bytes > chip.hbm_bytes]
  return sorted(more, key=lambda c: c.hbm_bytes)


def of(place):
  """Returns the `Chip` of a device, or of the devices of a mesh.

  Raises:
    ValueError: its numbers are not known here.
  """
  device = place.devices.flat[0] if hasattr(place, 'devices') else place
  if device.device_kind not in _KINDS:
    raise ValueError(
      f'no published numbers for a {device.device_kind!r}; there are some for '
      f'{", ".join(_KINDS)}'
    )
  return _CHIPS[_KINDS[device.device_kind]]


def is_there(mesh):
  """Tells whether arrays can be put on a mesh, or it is for compilers only."""
  return mesh.devices.flat[0].client.runtime_type != 'compile_only_runtime'


def environment(topology):
  """Returns the environment variables that the compiler of a topology needs.

  They must be set before JAX is imported.

  Args:
    topology: as in `devices`.

  Returns:
    dict of str.

  Raises:
    ValueError: the topology is unknown, or its compiler is not installed.
  """
  name, _ = _split(topology)
  if name not in _CARDS:
    _require_libtpu(topology)
    return {
      'JAX_PLATFORMS': 'cpu',
      # libtpu would ask Google's cloud what machine this is, and lock it.
      'TPU_SKIP_MDS_QUERY': '1',
      'TPU_WORKER_HOSTNAMES': 'localhost',
      'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
  cuda = _cuda(topology)
  flags = [
    os.environ.get('XLA_FLAGS', ''),
    f'--xla_gpu_cuda_data_dir={cuda}',
    # Both try kernels out on the card.
    '--xla_gpu_enable_triton_gemm=false',
    '--xla_gpu_autotune_level=0',
  ]
  return {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': ' '.join(flags).strip(),
    'PATH': f'{cuda / "bin"}{os.pathsep}{os.environ.get("PATH", "")}',
  }


def devices(topology, wanted=None):
  """Returns devices for which programs can be compiled, and nothing else.

  A mesh of them goes wherever one of real devices does, up to the compiled
  program; see `is_there`.

  Args:
    topology: a chip and its arrangement: 'v5e:2x2', 'v5p:2x2x1', 'v5e:4x4' (a
      slice of four hosts); 'h100:8' for eight cards. The name alone is one
      host of TPUs, one card.
    wanted: how many to return; all if None.

  Raises:
    ValueError: the topology is unknown or has fewer devices, or its compiler
      is not installed.
  """
  name, shape = _split(topology)
  if name in _CARDS:
    _cuda(topology)
    (kind,) = (k for k, chip in _KINDS.items() if chip == name)
    target = _HOPPER.format(kind=kind, chip=_CHIPS[name])
    arguments = {'target_config': target, 'topology': shape}
    found = _described(topology, '', 'cuda', arguments)
  else:
    _require_libtpu(topology)
    options = _OPTIONS.get(name, {})
    found = _described(topology, f'{name}:{shape}', 'tpu', options)
  if wanted is not None and not 0 < wanted <= len(found):
    raise ValueError(
      f'{wanted} devices of {topology}: want 1 to {len(found)}; a larger shape '
      'has more'
    )
  return found[:wanted]


def _described(topology, name, platform, options):
  from jax.experimental import topologies

  try:
    # The options are the compiler's, so they differ from chip to chip.
    found = topologies.get_topology_desc(name, platform, **options)
  except (RuntimeError, NotImplementedError) as e:
    _, _, said = str(e).partition('\n')[0].rpartition('INVALID_ARGUMENT: ')
    raise ValueError(
      f'topology {topology!r}: its compiler says: {said[:200]}; shapes that '
      'there are: v5e:2x2, v5e:4x4, v6e:2x4, v5p:2x2x1, v4:2x2x2 and the like'
    ) from None
  return list(found.devices)


def _installed(name):
  try:
    return importlib.util.find_spec(name)
  except ImportError:
    return None


def _require_libtpu(topology):
  if not _installed('libtpu'):
    raise ValueError(
      f'topology {topology!r}: the compiler for TPUs is not installed; pip '
      "install libtpu, or this project with its option: pip install -e '.[tpu]'"
    )


def _cuda(topology):
  """Returns where the CUDA compiler lies, a directory with bin/ptxas."""
  nvidia = _installed('nvidia')
  # CUDA 12 and 13 put it into different directories.
  for plugin, place in (
    ('jax_cuda12_plugin', 'cuda_nvcc'),
    ('jax_cuda13_plugin', 'cu13'),
  ):
    if nvidia and _installed(plugin):
      for root in nvidia.submodule_search_locations:
        path = pathlib.Path(root) / place
        if (path / 'bin' / 'ptxas').exists():
          return path
  raise ValueError(
    f'topology {topology!r}: the compiler for GPUs is not installed; pip '
    f'install --no-deps {_CUDA_PACKAGES} (no GPU is needed)'
  )
