"""What others install and read: metadata, data of the package, pages."""

import importlib.metadata
import pathlib
import re
import tomllib

import yaml
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


def pins(text):
  """Returns the pinned version of each package in lines of requirements."""
  lines = [line.partition('#')[0].strip() for line in text.splitlines()]
  return dict(line.split('==') for line in lines if line)


def test_dependencies_are_what_nasjax_runs_on():
  runtime, development = (
    (ROOT / 'requirements.txt').read_text().split('# Development')
  )
  ranges = {}
  for line in PROJECT['project']['dependencies']:
    wanted = Requirement(line)
    ranges[wanted.name] = wanted.specifier
  tested = pins(runtime)
  assert set(ranges) == set(tested)
  for name, version in tested.items():
    assert ranges[name].contains(version), name
    assert not any(s.operator in ('==', '<', '<=') for s in ranges[name]), name


def test_extras_are_requirements():
  extras = PROJECT['project']['optional-dependencies']
  assert set(extras) == {
    'words', 'lexicon', 'ray', 'slurm', 'predictors', 'export', 'syne-tune',
    'tpu', 'sherpa', 'onnx-asr',
  }  # fmt: skip
  for lines in extras.values():
    assert all(Requirement(line).specifier for line in lines)


def test_all_that_is_no_module_is_package_data():
  data = PROJECT['tool']['setuptools']['package-data']
  told = {
    path
    for package, globs in data.items()
    for pattern in globs
    for path in (ROOT / package.replace('.', '/')).glob(pattern)
  }
  others = {
    path
    for path in (ROOT / 'nasjax').rglob('*')
    if path.is_file()
    and path.suffix != '.py'
    and '__pycache__' not in path.parts
  }
  assert others <= told and any(path.suffix == '.cc' for path in told)


def test_installed_metadata_agree():
  found = importlib.metadata.metadata('nasjax')
  assert found['Version'] == PROJECT['project']['version']


def test_citation():
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert cited['cff-version'] == '1.2.0'
  assert cited['authors'] == [{'name': 'The nasjax developers'}]
  assert {'message', 'title', 'type'} <= set(cited)
  for name in ('version', 'license'):
    assert cited[name] == PROJECT['project'][name]


def test_every_launcher_is_on_the_page_with_a_command():
  page = (ROOT / 'experiments/README.md').read_text()
  rows = re.findall(r'^\| `(\w+\.py)` \| (.+) \| `(.+) \| (.+) \|$', page, re.M)
  launchers = {
    path.name
    for path in (ROOT / 'experiments').glob('*.py')
    if re.search(r'^  command\.run\(', path.read_text(), re.M)
  }
  assert {row[0] for row in rows} == launchers and len(launchers) > 10
  flagfiles = re.findall(r'--flagfile=(\S+[.]flags)', page)
  linked = re.findall(r'\]\(([\w./]+)\)', page)
  assert flagfiles and linked
  for path in flagfiles:
    assert (ROOT / path).is_file(), path
  for path in linked:
    assert (ROOT / 'experiments' / path).is_file(), path


def test_the_page_names_flags_that_there_are():
  page = (ROOT / 'experiments/README.md').read_text()
  for name, line in re.findall(r'python experiments/(\w+)\.py([^`|]*)', page):
    flags = set(re.findall(r'--(\w+)', line)) - {'flagfile'}
    own = (ROOT / f'experiments/{name}.py').read_text()
    shared = ''.join(
      (ROOT / f'experiments/common/{m}_flags.py').read_text()
      for m in ('corpus', 'device', 'training')
    )
    for flag in flags:
      assert f"'{flag}'" in own + shared, (name, flag)
