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

# What each package (or module) of nasjax may import of the others. A new one
# joins with a line; WORKSPACE.md tells what each is for.
MAY_USE = {
  'spaces': (),
  'kernels': (),
  'programs': (),
  'decoding': (),
  'analysis': (),
  'predictors': (
    *('spaces', 'models', 'cost', 'losses', 'kernels', 'training'),
    'programs',
  ),
  'data': ('spaces',),
  'layers': ('kernels',),
  'storage': ('programs',),
  'losses': ('kernels', 'decoding'),
  'models': ('spaces', 'kernels', 'layers'),
  'cells': ('models',),
  'cost': ('models',),
  'table': ('spaces', 'storage'),
  'plots': ('analysis', 'data', 'spaces'),
  'search': ('spaces', 'predictors', 'table', 'storage'),
  'published': ('table', 'cost', 'models', 'spaces'),
  'training': (
    *('models', 'losses', 'decoding', 'data', 'layers', 'kernels'),
    *('programs', 'storage'),
  ),
  'benchmark': (
    *('training', 'table', 'cost', 'models', 'storage', 'kernels'),
    'programs',
  ),
  'oneshot': (
    *('training', 'models', 'layers', 'losses', 'data', 'decoding', 'storage'),
    *('spaces', 'programs'),
  ),
  'deploying': ('benchmark', 'models', 'spaces', 'storage', 'training'),
  'listening': (
    *('oneshot', 'training', 'models', 'losses', 'data', 'decoding'),
    *('table', 'storage', 'spaces', 'programs'),
  ),
  'export': (
    *('listening', 'training', 'models', 'layers', 'losses', 'data'),
    *('decoding', 'spaces', 'storage', 'kernels', 'table', 'programs'),
  ),
}

# What nasjax itself hands on, once it is asked for.
HANDED_ON = ('deploying', 'listening')

# Parts of a package that may import less than it. A search algorithm sees
# architectures and scores, not where the scores come from.
# The network of a searcher needs no networks that it searches.
NARROWER = {
  'search.algorithms': ('spaces', 'predictors'),
  'predictors.gcn': ('spaces',),
}

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
LAUNCH_MAY_USE = {'spaces', 'training.recipes', 'table'}
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
  if unit is not None and unit not in MAY_USE:
    return [
      f'{module}: unknown package; add {unit!r} to MAY_USE in '
      'tests/test_layers.py'
    ]
  faults = []
  package = module if is_package else module.rpartition('.')[0]
  part = '.'.join(module.split('.')[1:3])
  for name, line in imports_of(source, package):
    where = f'{module}, line {line}: imports {name}'
    for foreign, why in FOREIGN.items():
      if _under(name, foreign):
        faults.append(f'{where}; {why}')
    if not _under(name, 'nasjax'):
      continue
    other = _unit(name)
    if other is None or other == unit:
      if part in NARROWER and other and not _under(name, f'nasjax.{part}'):
        faults.append(f'{where}; {part} uses nothing of {unit} but itself')
      continue
    if other not in MAY_USE:
      faults.append(
        f'{where}, an unknown package; add {other!r} to MAY_USE in '
        'tests/test_layers.py'
      )
    elif unit is None:
      if other in HANDED_ON:
        continue
      faults.append(f'{where}; nasjax itself imports nothing')
    else:
      allowed = NARROWER.get(part, MAY_USE[unit])
      if other not in allowed:
        faults.append(
          f'{where}; {part if part in NARROWER else unit} may use only '
          f'{", ".join(allowed) or "itself"}'
        )
  return faults


def launch_faults(path, source):
  """What is wrong with the imports of one file of launch/, as lines."""
  faults = []
  for name, line in imports_of(source):
    model = any(_under(name, module) for module in MODEL_CODE)
    ours = _under(name, 'nasjax') and _unit(name) is not None
    if model or (
      ours and not any(_under(name, f'nasjax.{m}') for m in LAUNCH_MAY_USE)
    ):
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


def test_packages_import_what_they_may():
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


def test_searchers_use_no_predictor_that_needs_networks():
  for module, path in _modules():
    if _under(module, 'nasjax.search'):
      names = [name for name, _ in imports_of(path.read_text('utf-8'))]
      used = {name for name in names if _under(name, 'nasjax.predictors')}
      assert used <= {'nasjax.predictors.gcn'}, module


def test_launch_imports_no_model_code():
  faults = []
  for path in sorted((ROOT / 'launch').rglob('*.py')):
    faults += launch_faults(path.relative_to(ROOT), path.read_text('utf-8'))
  assert not faults, '\n' + '\n'.join(faults)


def test_no_package_imports_itself_by_a_detour():
  done = set()
  while len(done) < len(MAY_USE):
    ready = {u for u, allowed in MAY_USE.items() if done.issuperset(allowed)}
    assert ready > done, f'a circle among {set(MAY_USE) - done}'
    done = ready
  assert {_unit(m) for m, _ in _modules()} - {None} == done


# The checks themselves, on planted faults.


@pytest.mark.parametrize(
  'module, source, part',
  [
    ('nasjax.models.base', 'from nasjax import training', 'may use only'),
    ('nasjax.models.base', 'import nasjax.training.step as s', 'may use only'),
    ('nasjax.layers.modules', 'from nasjax.models import base', 'only kernels'),
    ('nasjax.losses.ctc', 'from .. import training', 'may use only'),
    ('nasjax.losses.ctc', 'from ..models.base import Family', 'may use only'),
    ('nasjax.decoding.ctc', 'from nasjax import losses', 'only itself'),
    ('nasjax.spaces.base', 'def f():\n  from nasjax import cost', 'line 2'),
    (
      'nasjax.search.algorithms.evolution',
      'from nasjax import table',
      'search.algorithms may use only',
    ),
    (
      'nasjax.search.algorithms.evolution',
      'from nasjax.search import landscape',
      'nothing of search but itself',
    ),
    ('nasjax.search.landscape', 'from nasjax import training', 'may use only'),
    ('nasjax', 'from nasjax import spaces', 'imports nothing'),
    ('nasjax.helpers', 'import numpy', "add 'helpers' to MAY_USE"),
    ('nasjax.cost', 'from nasjax import helpers', "add 'helpers' to MAY_USE"),
    ('nasjax.data.timit', 'import tensorflow as tf', 'without TensorFlow'),
    ('nasjax.data.timit', 'from tensorflow.io import x', 'TensorFlow'),
    ('nasjax.losses.ctc', 'def f():\n  import torch.nn', 'JAX'),
    ('nasjax.table', 'try:\n  import ray\nexcept ImportError: pass', 'launch/'),
    ('nasjax.table', "__import__('ray')", 'launch/'),
    ('nasjax.table', "importlib.import_module('torch')", 'JAX'),
    ('nasjax.table', 'from absl import flags', 'arguments'),
    ('nasjax.table', 'from absl import app, logging', 'arguments'),
    ('nasjax.table', 'import absl.flags', 'arguments'),
    ('nasjax.table', 'from absl.flags import FLAGS', 'arguments'),
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
    ('nasjax.models.x', 'from nasjax.layers import modules\nimport flax.linen'),
    ('nasjax.data.timit', 'from nasjax.data import phones\nfrom . import text'),
    ('nasjax.data.timit', 'import tensorflow_datasets as tfds'),
    (
      'nasjax.benchmark.rows',
      'from nasjax import __version__\nfrom absl import logging',
    ),
    (
      'nasjax.search.algorithms.evolution',
      'from nasjax import spaces\nimport jax',
    ),
    ('nasjax.models.x', '"""import torch"""\n# import ray'),
  ],
)
def test_a_proper_import_is_let_through(module, source):
  assert library_faults(module, source) == []


def test_relative_imports_of_a_package_start_at_itself():
  source = 'from .base import Space\nfrom ..models import Cell'
  faults = library_faults('nasjax.spaces', source, is_package=True)
  assert len(faults) == 1
  assert 'nasjax.models' in faults[0]


@pytest.mark.parametrize(
  'source, count',
  [
    ('import jax.numpy as jnp', 1),
    ('from nasjax import models', 1),
    ('from nasjax.training.population import pack', 1),
    ('from nasjax.training.recipes import E40', 0),
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
  'statement',
  [
    'import nasjax',
    'from nasjax import spaces',
    'from nasjax.models import macros',
    'from nasjax.training import recipes',
  ],
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
