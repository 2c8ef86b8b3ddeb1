"""Tests of the layers: who may import whom, and what an import costs.

Every Python file is parsed, not run, so an import inside a function counts like
one at the top.
"""

import ast
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Modules and packages of nasjax from the bottom up. A module may import those
# of lower rows, and a package its own parts. A new module joins the row above
# the highest that it needs; WORKSPACE.md tells what each layer is for.
LAYERS = (
  ('plateau', 'chips', 'hlo', 'macros'),
  (
    *('spaces', 'recipes', 'dropout', 'provenance', 'taps', 'memory'),
    'program_costs',
  ),
  ('kernels', 'checkpoints'),
  ('data', 'adam', 'functions', 'mixing', 'trainer', 'decoding', 'error_rates'),
  ('losses', 'metrics'),
  ('table',),
  ('search', 'attempts'),
  ('simulation',),
  ('ops', 'accelerated'),
  ('cells',),
  ('models', 'tdnn', 'cells_cost'),
  ('tdnn_cost',),
  ('networks',),
  ('cost', 'shards'),
  ('member', 'latency', 'published'),
  ('population',),
  ('runner',),
  ('parts', 'rows'),
  ('runs',),
  ('sizing', 'workers'),
  ('oneshot',),
  ('analysis',),
  ('plots',),
)
RANKS = {unit: rank for rank, row in enumerate(LAYERS) for unit in row}

# Units that may import less than their layer allows. A search algorithm sees
# architectures and scores, not where the scores come from.
NARROWER = {'search': {'spaces'}}

FOREIGN = {
  'tensorflow': 'data is prepared and read without TensorFlow',
  'torch': 'nasjax is written in JAX',
  'ray': 'launch/ alone starts work on other machines',
  'absl.flags': 'the library takes arguments; flags stand in experiments/',
  'absl.app': 'the library takes arguments; flags stand in experiments/',
  'experiments': 'launchers use the library, never the reverse',
  'launch': 'launchers use the library, never the reverse',
  'tests': 'the library runs without its tests',
}

# launch/ builds command lines: it may read names and tables, and runs no model.
LAUNCH_MAY_USE = {'spaces', 'recipes', 'table'}
MODEL_CODE = ('jax', 'flax', 'optax', 'orbax', 'experiments')


class Import(NamedTuple):
  """One name that a file imports, dotted, and the line where it does."""

  name: str
  line: int


def imports_of(source, package=''):
  """All imports of a source text, relative ones resolved against `package`.

  `from a import b` gives `a.b`, since b may be a module. Calls of
  `import_module` and `__import__` with a literal name count too.
  """
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [Import(alias.name, node.lineno) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parents = package.split('.')
        parents = parents[: len(parents) - node.level + 1]
        base = '.'.join([*parents, base] if base else parents)
      found += [
        Import(f'{base}.{alias.name}', node.lineno) for alias in node.names
      ]
    elif isinstance(node, ast.Call) and node.args:
      called = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
      name = node.args[0]
      if called in ('import_module', '__import__') and isinstance(
        name, ast.Constant
      ):
        found.append(Import(str(name.value), node.lineno))
  return found


def _under(name, module):
  return name == module or name.startswith(module + '.')


def _unit(name):
  """The part of nasjax a dotted name belongs to, or None for nasjax itself."""
  parts = name.split('.')
  # Dunder names are attributes of the package, as in nasjax.__version__.
  if len(parts) < 2 or parts[1].startswith('__'):
    return None
  return parts[1]


def library_faults(module, source, is_package=False):
  """What is wrong with the imports of one module of nasjax, as lines."""
  unit = _unit(module)
  if unit is not None and unit not in RANKS:
    return [
      f'{module}: unknown module; add {unit!r} to LAYERS in '
      'tests/test_layers.py, in the row above all that it imports'
    ]
  faults = []
  package = module if is_package else module.rpartition('.')[0]
  for name, line in imports_of(source, package):
    where = f'{module}, line {line}: imports {name}'
    for foreign, why in FOREIGN.items():
      if _under(name, foreign):
        faults.append(f'{where}; {why}')
    if not _under(name, 'nasjax'):
      continue
    other = _unit(name)
    if other is None or other == unit:
      continue
    if other not in RANKS:
      faults.append(
        f'{where}, an unknown module; add {other!r} to LAYERS in '
        'tests/test_layers.py'
      )
    elif unit is None:
      faults.append(f'{where}; nasjax itself imports nothing')
    elif RANKS[other] >= RANKS[unit]:
      faults.append(f'{where}; {other} does not lie below {unit}')
    elif other not in NARROWER.get(unit, RANKS):
      faults.append(
        f'{where}; {unit} may use only {", ".join(sorted(NARROWER[unit]))}'
      )
  return faults


def launch_faults(path, source):
  """What is wrong with the imports of one file of launch/, as lines."""
  faults = []
  for name, line in imports_of(source):
    model = any(_under(name, module) for module in MODEL_CODE)
    other = _unit(name) if _under(name, 'nasjax') else None
    if model or (other is not None and other not in LAUNCH_MAY_USE):
      faults.append(
        f'{path}, line {line}: imports {name}; launch/ builds command lines '
        f'and may use of nasjax only {", ".join(sorted(LAUNCH_MAY_USE))}'
      )
  return faults


def _modules():
  """(dotted name, path) of every Python file in nasjax/."""
  for path in sorted((ROOT / 'nasjax').rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    yield '.'.join(parts), path


def test_imports_point_down():
  modules = list(_modules())
  assert 'nasjax.spaces.nb_asr' in dict(modules)
  faults = []
  for module, path in modules:
    faults += library_faults(
      module, path.read_text('utf-8'), path.name == '__init__.py'
    )
  assert not faults, '\n' + '\n'.join(faults)


def test_no_loss_is_known_but_by_its_criterion():
  for module, path in _modules():
    names = [name for name, _ in imports_of(path.read_text('utf-8'))]
    losses = {name for name in names if _under(name, 'nasjax.losses')}
    if not _under(module, 'nasjax.losses'):
      assert losses <= {'nasjax.losses.criterion'}, module


def test_launch_imports_no_model_code():
  faults = []
  for path in sorted((ROOT / 'launch').rglob('*.py')):
    faults += launch_faults(path.relative_to(ROOT), path.read_text('utf-8'))
  assert not faults, '\n' + '\n'.join(faults)


def test_each_module_has_one_layer():
  units = [unit for row in LAYERS for unit in row]
  assert len(units) == len(set(units))
  for unit, allowed in NARROWER.items():
    assert all(RANKS[other] < RANKS[unit] for other in allowed)


# The checks themselves, on planted faults.


@pytest.mark.parametrize(
  'module, source, part',
  [
    ('nasjax.cells', 'from nasjax import models', 'does not lie below'),
    ('nasjax.cells', 'import nasjax.models as m', 'does not lie below'),
    ('nasjax.ops', 'from nasjax.cells import Cell', 'does not lie below'),
    ('nasjax.losses.ctc', 'from .. import population', 'does not lie below'),
    ('nasjax.losses.ctc', 'from ..cells import Cell', 'does not lie below'),
    ('nasjax.decoding', 'from nasjax import losses', 'does not lie below'),
    ('nasjax.spaces.base', 'def f():\n  from nasjax import cost', 'line 2'),
    ('nasjax.search.evolution', 'from nasjax import table', 'may use only'),
    ('nasjax.search.evolution', 'from nasjax.data import text', 'only spaces'),
    ('nasjax.search.evolution', 'from nasjax import population', 'below'),
    ('nasjax', 'from nasjax import spaces', 'imports nothing'),
    ('nasjax.helpers', 'import numpy', "add 'helpers' to LAYERS"),
    ('nasjax.cells', 'from nasjax import helpers', "add 'helpers' to LAYERS"),
    ('nasjax.data.timit', 'import tensorflow as tf', 'without TensorFlow'),
    ('nasjax.data.timit', 'from tensorflow.io import x', 'TensorFlow'),
    ('nasjax.losses.ctc', 'def f():\n  import torch.nn', 'JAX'),
    ('nasjax.runs', 'try:\n  import ray\nexcept ImportError: pass', 'launch/'),
    ('nasjax.runs', "__import__('ray')", 'launch/'),
    ('nasjax.runs', "importlib.import_module('torch')", 'JAX'),
    ('nasjax.runs', 'from absl import flags', 'arguments'),
    ('nasjax.runs', 'from absl import app, logging', 'arguments'),
    ('nasjax.runs', 'import absl.flags', 'arguments'),
    ('nasjax.runs', 'from absl.flags import FLAGS', 'arguments'),
    ('nasjax.plots', 'from experiments import benchmark', 'never the reverse'),
  ],
)
def test_a_planted_fault_is_found(module, source, part):
  faults = library_faults(module, source)
  assert len(faults) == 1
  assert part in faults[0]


@pytest.mark.parametrize(
  'module, source',
  [
    ('nasjax.models', 'from nasjax import cells, ops\nimport flax.linen as nn'),
    ('nasjax.data.timit', 'from nasjax.data import phones\nfrom . import text'),
    ('nasjax.data.timit', 'import tensorflow_datasets as tfds'),
    ('nasjax.runs', 'from nasjax import __version__\nfrom absl import logging'),
    ('nasjax.search.evolution', 'from nasjax import spaces\nimport jax'),
    ('nasjax.cells', '"""import torch"""\n# import ray'),
  ],
)
def test_a_proper_import_is_let_through(module, source):
  assert library_faults(module, source) == []


def test_relative_imports_of_a_package_start_at_itself():
  source = 'from .base import Space\nfrom ..cells import Cell'
  faults = library_faults('nasjax.spaces', source, is_package=True)
  assert len(faults) == 1
  assert 'nasjax.cells' in faults[0]


@pytest.mark.parametrize(
  'source, count',
  [
    ('import jax.numpy as jnp', 1),
    ('from nasjax import models', 1),
    ('from nasjax.population import pack', 1),
    ('from experiments.benchmark import main', 1),
    ('import ray\nimport submitit\nfrom absl import app, flags', 0),
    ('from nasjax import table', 0),
  ],
)
def test_a_planted_fault_in_launch_is_found(source, count):
  assert len(launch_faults('launch/slurm.py', source)) == count


# What an import costs, each in a new interpreter.

_MEASURE = """
import sys, time

class Watch:
  tried = []

  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in ('tensorflow', 'torch', 'ray'):
      self.tried.append(name)

sys.meta_path.insert(0, Watch())
start = time.process_time()
{statement}
seconds = time.process_time() - start
print(seconds, 'jax' in sys.modules, *Watch.tried)
"""


def _measure(statement, tries=3):
  """CPU seconds, whether JAX came along, heavy packages looked for.

  CPU seconds, for other work on the machine can slow an import down; the best
  of several tries, for the first may have to compile the files.
  """
  best = float('inf')
  for _ in range(tries):
    run = subprocess.run(
      [sys.executable, '-c', _MEASURE.format(statement=statement)],
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert run.returncode == 0, run.stderr
    seconds, jax_came, *tried = run.stdout.split()
    best = min(best, float(seconds))
    if best < 1:
      break
  return best, jax_came == 'True', tried


@pytest.mark.parametrize(
  'statement', ['import nasjax', 'from nasjax import spaces']
)
def test_import_is_quick_and_light(statement):
  seconds, jax_came, tried = _measure(statement)
  assert tried == []
  assert not jax_came
  assert seconds < 1


def test_the_measurement_sees_what_an_import_brings():
  statement = "import jax, importlib.util; importlib.util.find_spec('torch')"
  _, jax_came, tried = _measure(statement, tries=1)
  assert jax_came
  assert 'torch' in tried
