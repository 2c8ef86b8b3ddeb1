"""Chips that are not there: their numbers, compilers, and what is refused."""

import importlib.util
import os
import subprocess
import sys
import types

import compilers
import jax
import numpy as np
import pytest

from nasjax.programs import chips
from nasjax.training import population

ROOT = compilers.SUPPORT.parents[1]
KINDS = {
  'v4': ('TPU v4', 32, 1228, 275),
  'v5e': ('TPU v5 lite', 16, 819, 197),
  'v5p': ('TPU v5', 95, 2765, 459),
  'v6e': ('TPU v6 lite', 32, 1640, 918),
  'h100': ('NVIDIA H100 80GB HBM3', 80, 3352, 989.4),
  'h200': ('NVIDIA H200', 141, 4800, 989.4),
}


def _device(kind, runtime='any'):
  client = types.SimpleNamespace(runtime_type=runtime)
  return types.SimpleNamespace(device_kind=kind, client=client)


@pytest.mark.parametrize('name', KINDS)
def test_chips_are_known_by_name_and_by_kind(name):
  kind, memory, bandwidth, flops = KINDS[name]
  chip = chips.chip(name)
  assert chip == (name, memory * 1e9, bandwidth * 1e9, flops * 1e12)
  mesh = types.SimpleNamespace(devices=np.array([_device(kind)] * 2, object))
  assert chips.of(_device(kind)) == chips.of(mesh) == chip


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match="numbers for a 'TPU v99'; there are"):
    chips.of(_device('TPU v99'))


def test_larger_chips():
  larger = [chip.name for chip in chips.larger(chips.chip('v4'))]
  assert larger == ['h100', 'v5p', 'h200']
  assert not chips.larger(chips.chip('h200'))


def test_devices_of_this_machine_are_there():
  assert chips.is_there(population.member_mesh(jax.devices()[:1]))
  mesh = types.SimpleNamespace(
    devices=np.array([_device('any', 'compile_only_runtime')], object)
  )
  assert not chips.is_there(mesh)


@pytest.mark.parametrize(
  'topology, words',
  [
    ('v9:2x2', "no chip is called 'v9'; take one of v4, v5e, v5p, v6e, h1"),
    ('', "topology '': no chip is called ''"),
    ('h100:2x2', "'2x2' is no number of cards; write h100 for one or h100:8"),
    ('h100:0', "'0' is no number of cards"),
  ],
)
@pytest.mark.parametrize('ask', [chips.devices, chips.environment, chips.chip])
def test_unknown_topologies(ask, topology, words):
  with pytest.raises(ValueError) as refusal:
    ask(topology)
  assert words in str(refusal.value)


# Whoever looks for these modules finds none.
_MISSING = """
import sys

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in ('libtpu', 'jax_cuda12_plugin', 'nvidia'):
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from nasjax.programs import chips
for ask in (chips.environment, chips.devices):
  for topology in ('v5e', 'h100'):
    try:
      ask(topology)
    except ValueError as e:
      print(e)
assert 'jax' not in sys.modules
"""


def test_missing_compilers_are_named():
  done = subprocess.run(
    [sys.executable, '-c', _MISSING],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 4
  for line in lines[::2]:
    assert line.startswith("topology 'v5e': the compiler for TPUs is not inst")
    assert 'pip install libtpu, or this project with its option' in line
  for line in lines[1::2]:
    assert line.startswith("topology 'h100': the compiler for GPUs is not ins")
    assert 'jax-cuda12-pjrt of the version of jax' in line
    assert 'nvidia-nvjitlink-cu12' in line


def test_the_environment_of_a_gpu_compiler(tmp_path, monkeypatch):
  """Its packages are found wherever Python finds them."""
  tools = tmp_path / 'nvidia' / 'cuda_nvcc'
  (tools / 'bin').mkdir(parents=True)
  (tools / 'bin' / 'ptxas').touch()
  (tmp_path / 'jax_cuda12_plugin').mkdir()
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  monkeypatch.setenv('XLA_FLAGS', '--xla_one')
  monkeypatch.setenv('PATH', '/usr/bin')
  found = chips.environment('h100')
  assert found['JAX_PLATFORMS'] == 'cpu'
  assert found['PATH'] == f'{tools / "bin"}{os.pathsep}/usr/bin'
  first, *flags = found['XLA_FLAGS'].split()
  assert first == '--xla_one'
  assert f'--xla_gpu_cuda_data_dir={tools}' in flags
  assert '--xla_gpu_autotune_level=0' in flags


# What the compiler for TPUs answers.

DEVICES = {
  'v4': (4, 'v4', 32),
  'v5e': (4, 'v5e', 16),
  'v5e:4x4': (16, 'v5e', 16),
  'v5p': (4, 'v5p', 95),
  'v5p:2x2x2': (8, 'v5p', 95),
  'v6e': (4, 'v6e', 32),
}


@compilers.tpu
@pytest.mark.parametrize('topology', DEVICES)
def test_topologies(topology):
  count, chip, memory = DEVICES[topology]
  assert compilers.answers()['devices'][topology] == {
    'devices': count,
    'chip': chip,
    'there': False,
    'free': memory * 10**9,
  }


@compilers.tpu
@pytest.mark.parametrize(
  'topology, words',
  [
    ('v5e:3x3', 'its compiler says: Topology layout "v5e:3x3" is not divisi'),
    ('v5e:bus', 'its compiler says: Your TPU topology name v5e:bus is invali'),
    ('v5e:2x2', '9 devices of v5e:2x2: want 1 to 4; a larger shape has more'),
  ],
)
def test_what_the_compiler_refuses(topology, words):
  said = compilers.answers()['refusals'][topology]
  assert words in said and '\n' not in said and len(said) < 400


@compilers.tpu
def test_runs_compile_where_nothing_can_be_put():
  answers = compilers.answers()
  assert answers['one']['collectives'] == {}
  assert answers['shared']['collectives']['all-reduce'] > 0
  for program in ('one', 'shared'):
    assert 10**5 < answers[program]['bytes'] < 10**8
    assert answers[program]['hbm'] > 10**5


@compilers.tpu
def test_kernels_of_pallas_compile_under_the_mesh():
  assert compilers.answers()['kernel']


_ON_A_GPU = """
import importlib.util
import os
from nasjax.programs import chips
os.environ |= chips.environment('h100')
import jax, jax.numpy as jnp
from nasjax.programs import costs, memory
from nasjax.training import population

mesh = population.member_mesh(chips.devices('h100:8', 2))
assert chips.of(mesh).name == 'h100' and not chips.is_there(mesh)
assert memory.free(mesh) == 80 * 10**9
x = population.on_members(jnp.zeros((2, 512, 512)), mesh)
spec = population.member_sharding(mesh).spec
double = jax.shard_map(
  lambda x: x + x, mesh=mesh, in_specs=spec, out_specs=spec
)
text = jax.jit(double).lower(x).compile().as_text()
assert costs.collectives(text) == {}
print(costs.hbm_bytes(text))
"""


@pytest.mark.skipif(
  not importlib.util.find_spec('jax_cuda12_plugin'),
  reason='the compiler for GPUs is not installed (`chips` names it)',
)
def test_programs_compile_for_a_gpu():
  done = subprocess.run(
    [sys.executable, '-c', _ON_A_GPU],
    cwd=ROOT,
    env=compilers.ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) == 2 * 4 * 512**2
