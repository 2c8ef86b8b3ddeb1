"""How launchers end, and what they make of text and paths of users."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tiny_run

ROOT = pathlib.Path(__file__).parents[2]
LAUNCHER = """
import sys
sys.path.insert(0, 'experiments')
from common import command
from absl import flags

flags.DEFINE_string('out', None, 'A directory.')
flags.DEFINE_string('json', None, 'A file.')
flags.DEFINE_list('cells', None, 'Files.')

def work():
  FLAGS = flags.FLAGS
  {body}

command.run(work)
"""


def _launch(tmp_path, body, *given, **environment):
  """In a fork, which heeds what launchers read of the environment."""
  path = tmp_path / 'launcher.py'
  path.write_text(LAUNCHER.format(body=body))
  environment.setdefault('NASJAX_TRACEBACK', '')
  ended = tiny_run.forked(
    *given, launcher=path.with_suffix(''), environment=environment
  )
  return subprocess.CompletedProcess(path, *ended)


def _start(tmp_path, body, **environment):
  """For what Python and JAX read when they are started."""
  path = tmp_path / 'launcher.py'
  path.write_text(LAUNCHER.format(body=body))
  return subprocess.run(
    [sys.executable, path],
    cwd=ROOT,
    env=os.environ | {'NASJAX_TRACEBACK': ''} | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize(
  ('body', 'told'),
  [
    ("raise TypeError('not\\na number')", 'TypeError: not a number; '),
    ('assert False', 'AssertionError; '),
    ("raise KeyError('x')", "KeyError: 'x'; "),
    ("raise RuntimeError('a' * 5000)", 'RuntimeError: aaa'),
    ('f = lambda: f(); f.__globals__.update(f=f); f()', 'RecursionError: '),
    ("'\\udce9'.encode()", "codec can't encode"),
    ('import no_such_thing', 'requirements.txt'),
    ('raise MemoryError', 'out of memory'),
    ("raise RuntimeError('RESOURCE_EXHAUSTED: x')", 'out of memory'),
  ],
)
def test_whatever_fails_is_one_line(tmp_path, body, told):
  done = _launch(tmp_path, body)
  assert done.returncode == 1 and done.stderr.count('\n') == 1
  assert done.stderr.startswith('launcher.py: ') and told in done.stderr
  assert len(done.stderr) < 600


def test_tracebacks_are_for_who_asks(tmp_path):
  done = _launch(tmp_path, 'assert False', NASJAX_TRACEBACK='1')
  assert done.returncode and 'Traceback' in done.stderr


def test_a_flagfile_of_other_bytes_is_one_line(tmp_path):
  (tmp_path / 'odd.flags').write_bytes(b'--out=\xff\xfe\n')
  done = _launch(tmp_path, 'pass', f'--flagfile={tmp_path / "odd.flags"}')
  assert done.returncode == 1 and done.stderr.count('\n') == 1


def test_home_is_put_for_the_tilde_of_every_path(tmp_path):
  body = 'print(FLAGS.out, FLAGS.json, *FLAGS.cells)'
  given = '--out=~/o', '--json=~', '--cells=~/a,b~'
  done = _launch(tmp_path, body, *given, HOME='/somewhere')
  assert done.stdout.split() == [
    '/somewhere/o', '/somewhere', '/somewhere/a', 'b~',
  ]  # fmt: skip


def test_a_home_of_nobody_is_no_directory(tmp_path):
  done = _launch(tmp_path, 'pass', '--out=~nobody-here/o')
  assert done.returncode == 1 and done.stderr == (
    'launcher.py: --out=~nobody-here/o: there is no user nobody-here; write '
    './~nobody-here for a directory of that name\n'
  )


def test_json_that_cannot_be_a_file_is_told_before_any_work(tmp_path):
  (tmp_path / 'a').write_text('')
  for path, told in (
    (tmp_path, 'is a directory; name a file in it'),
    (tmp_path / 'a' / 'b.json', 'a is a file, not a directory'),
  ):
    done = _launch(tmp_path, 'print(1)', f'--json={path}')
    assert done.returncode == 1 and not done.stdout
    assert f'--json={path}' in done.stderr and told in done.stderr


def test_text_of_users_is_no_markup(tmp_path):
  # On a terminal that knows no more than ASCII.
  body = """
  from common import console
  from rich.table import Table
  odd = 'a[/b] [red]c :smile: [link=x'
  view = Table(title=odd)
  view.add_column(odd)
  view.add_row(odd)
  console.CONSOLE.print(view)
  console.CONSOLE.print(odd + chr(0xe9) + chr(0xdce9))
  """
  done = _start(tmp_path, body.strip(), PYTHONIOENCODING='ascii')
  assert done.returncode == 0, done.stderr
  assert done.stdout.count('a[/b] [red]c :smile: [link=x') == 4
  assert '\\xe9' in done.stdout


def test_progress_of_a_terminal_reads_no_markup(tmp_path):
  body = """
  from common import console
  with console.counter('a[/b] [red]c') as tick:
    tick(1, 2)
  """
  done = _launch(tmp_path, body.strip(), FORCE_COLOR='1')
  assert done.returncode == 0, done.stderr
  assert 'a[/b] [red]c' in done.stdout


_CHANGING = {
  'JAX_ENABLE_X64': '1',
  'JAX_DEBUG_NANS': 'true',
  'XLA_FLAGS': '--xla_cpu_enable_fast_math=true',
  'NVIDIA_TF32_OVERRIDE': '1',
}
_HARMLESS = {
  'JAX_ENABLE_X64': '',
  'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
}


@pytest.mark.parametrize(
  'given, told, kept',
  [
    (
      _CHANGING,
      [
        'JAX_ENABLE_X64=1, JAX_DEBUG_NANS=true of the environment not heeded',
        'XLA_FLAGS=--xla_cpu_enable_fast_math=true of the environment is h',
        'NVIDIA_TF32_OVERRIDE=1 of the environment is heeded',
      ],
      {'XLA_FLAGS', 'NVIDIA_TF32_OVERRIDE'},
    ),
    (_HARMLESS, [], {'XLA_FLAGS'}),
  ],
)
def test_settings_that_change_results_are_named(tmp_path, given, told, kept):
  body = """
  from nasjax.storage import provenance
  print(provenance.environment())
  """
  done = _launch(tmp_path, body.strip(), **given)
  assert done.returncode == 0, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == len(told)
  for line, words in zip(lines, told):
    assert line.startswith(f'launcher.py: {words}')
  # What is heeded is kept.
  assert {name for name in given if repr(name) in done.stdout} == kept


@pytest.mark.parametrize('name', ['JAX_PLATFORMS', 'JAX_PLATFORM_NAME'])
def test_a_platform_that_is_not_there_is_one_line(tmp_path, name):
  body = 'import jax; jax.devices()'
  done = _start(
    tmp_path, body, **{'JAX_PLATFORMS': '', 'XLA_FLAGS': '', name: 'tpu'}
  )
  assert done.returncode == 1, done.stderr
  *before, told = done.stderr.splitlines()
  assert f'{name}=tpu is set' in told and 'Traceback' not in done.stderr
  # The compiler for TPUs, where it is installed, writes lines of its own.
  assert not before or importlib.util.find_spec('libtpu')


def test_flags_that_a_study_is_older_than(tmp_path):
  """What it was begun without had its default."""
  from common import command, corpus_flags

  assert 'partial_librispeech' in corpus_flags._LIBRISPEECH
  path = tmp_path / 'run.json'
  path.write_text(json.dumps({'flags': {'split_seed': 1}}))
  values = {'split_seed': 1, 'partial_librispeech': False, 'pieces': None}
  command._refuse_others(path, values, ())
  with pytest.raises(ValueError, match='partial_librispeech was False, is Tru'):
    command._refuse_others(path, values | {'partial_librispeech': True}, ())
