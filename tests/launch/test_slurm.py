"""Workers on Slurm: what sbatch is given, and what comes of it."""

import importlib.util
import os
import re
import signal
import subprocess
import time

import claiming_runs
import engines
import pytest
import tiny_run

pytest.importorskip('submitit')

# Notes the file that it is given, and the array's tasks run in turns or not.
SBATCH = """#!/bin/bash
echo "$*" >>"$FAKE/arguments"
cp "$1" "$FAKE/batch.sh"
if [[ -n "${FAKE_RUN-}" ]]; then
  setsid "$FAKE/tasks" "$1" >>"$FAKE/tasks.log" 2>&1 </dev/null &
fi
echo "Submitted batch job 4711"
"""
# Runs every task of the array; a task that asks to be requeued runs again.
TASKS = """#!/bin/bash
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
  (
    export SLURM_JOB_ID=$((4712 + task)) SLURM_ARRAY_JOB_ID=4711
    export SLURM_ARRAY_TASK_ID=$task SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
    export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
    for turn in 1 2 3; do
      bash "$1"
      grep -qsx "requeue 4711_$task" "$FAKE/scontrol" || break
      sed -i "/^requeue 4711_$task\\$/d" "$FAKE/scontrol"
      echo "task $task again"
    done
  ) &
done
wait
echo end
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
  case $1 in --output|--error) shift ;; esac
  shift
done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$*" >>"$FAKE/scontrol"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """A Slurm of shell scripts; returns where they note what they are asked."""
  place = tmp_path / 'bin'
  place.mkdir()
  for name, text in [
    *(('sbatch', SBATCH), ('tasks', TASKS)),
    *(('srun', SRUN), ('scontrol', SCONTROL)),
  ]:
    (place / name).write_text(text)
    (place / name).chmod(0o755)
  monkeypatch.setenv('PATH', f'{place}:{os.environ["PATH"]}')
  monkeypatch.setenv('FAKE', str(place))
  return place


@pytest.fixture
def launcher(tmp_path):
  return engines.copied(tmp_path / 'copy') / 'slurm.py'


def _directives(path):
  lines = path.read_text().splitlines()
  found = [
    line.removeprefix('#SBATCH --') for line in lines if '#SBATCH' in line
  ]
  return dict(f.partition('=')[::2] for f in found), lines


def test_sbatch_gets_one_array_of_long_lived_workers(slurm, launcher, tmp_path):
  out = tmp_path / 'out'
  status, output, errors = engines.finish(
    *(launcher, f'--out={out}', '--runs=400', '--workers=3'),
    *('--partition=gpu', '--gpus_per_node=1', '--time=1-02:30:00'),
    *('--mem=16GB', '--account=speech', '--cpus_per_task=4'),
    *(
      '--constraint=a100',
      '--setup=source .venv/bin/activate',
      '--setup=ulimit',
    ),
  )
  assert status == 0, errors
  assert output.splitlines()[-1] == (
    f'3 workers for 200 shards: 4711_0 to 4711_2, logs in {out / "slurm"}'
  )
  assert len((slurm / 'arguments').read_text().splitlines()) == 1
  given, lines = _directives(slurm / 'batch.sh')
  expected = {
    'array': '0-2%3',
    'partition': 'gpu',
    'gpus-per-node': '1',
    'time': str((24 + 2) * 60 + 30),
    'mem': '16GB',
    'account': 'speech',
    'cpus-per-task': '4',
    'constraint': 'a100',
    'requeue': '',
    'open-mode': 'append',
    'job-name': 'nasjax',
  }
  assert expected.items() <= given.items(), given
  assert re.fullmatch(r'USR2@\d+', given['signal'])
  setup = lines.index('source .venv/bin/activate')
  assert lines[setup + 1] == 'ulimit'
  (command,) = [line for line in lines if 'submitit.core._submit' in line]
  assert command.startswith('srun ') and lines.index(command) > setup
  # Not a job a run: as many files as workers.
  assert len(list((out / 'slurm').glob('*.pkl'))) == 3


def test_without_slurm_it_says_so(launcher, tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', '/nowhere')
  status, _, errors = engines.finish(
    launcher, f'--out={tmp_path / "o"}', '--runs=4'
  )
  assert status == 1 and errors.count('\n') == 1, errors
  assert errors.startswith('slurm.py: ') and '--cluster=local' in errors


def test_what_sbatch_refuses_is_one_line(slurm, launcher, tmp_path):
  text = '#!/bin/bash\necho "sbatch: error: invalid partition" >&2\nexit 1\n'
  (slurm / 'sbatch').write_text(text)
  status, _, errors = engines.finish(
    launcher, f'--out={tmp_path / "o"}', '--runs=4', '--partition=x'
  )
  assert status == 1
  # submitit repeats what it heard.
  assert errors.splitlines()[-1] == (
    'slurm.py: sbatch refused it: sbatch: error: invalid partition'
  )


@pytest.mark.parametrize(
  'text, minutes',
  [
    ('90', 90),
    ('90:01', 91),
    ('12:00:00', 720),
    ('1:30:00', 90),
    ('2-0', 2880),
    ('2-01:30', 2970),
    ('1-00:00:01', 1441),
  ],
)
def test_times_as_slurm_writes_them(text, minutes, monkeypatch):
  assert _module(monkeypatch)._minutes(text) == minutes


@pytest.mark.parametrize('text', ['', '0', 'a', '1:2:3:4', '1-', '-1', '0:0:0'])
def test_what_is_no_time(text, monkeypatch):
  with pytest.raises(Exception, match='is no time'):
    _module(monkeypatch)._minutes(text)


def _module(monkeypatch):
  monkeypatch.syspath_prepend(str(tiny_run.ROOT / 'launch'))
  path = tiny_run.ROOT / 'launch' / 'slurm.py'
  spec = importlib.util.spec_from_file_location('slurm_launcher', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.slow
def test_workers_of_submitit_here_make_the_table(launcher, tmp_path):
  out = tmp_path / 'out'
  status, output, errors = engines.finish(
    *(launcher, '--cluster=local', '--workers=2', f'--out={out}', '--runs=8')
  )
  assert status == 0, errors
  assert output.splitlines()[-1].startswith('2 workers for 4 shards: ')
  claiming_runs.assert_undisturbed(out, 8)


def _submitted(pid):
  """Returns the process of submitit that a worker belongs to."""
  while 'submitit.core._submit' not in engines.command(pid):
    pid = engines.parent(pid)
  return pid


@pytest.mark.slow
@pytest.mark.reliability
def test_a_worker_that_is_pre_empted_is_queued_again(
  slurm, launcher, tmp_path, monkeypatch
):
  """By the signal that Slurm sends ahead; its shard is taken up."""
  monkeypatch.setenv('FAKE_RUN', '1')
  out = tmp_path / 'out'
  status, _, errors = engines.finish(
    launcher, '--workers=2', f'--out={out}', '--runs=60'
  )
  assert status == 0, errors
  deadline = time.monotonic() + 300
  while not engines.holders(out) or engines.done(out) < 2:
    assert time.monotonic() < deadline, (slurm / 'tasks.log').read_text()
    time.sleep(0.1)
  worker = engines.holders(out)[0]
  os.kill(_submitted(worker), signal.SIGUSR2)
  while 'end\n' not in (slurm / 'tasks.log').read_text():
    assert time.monotonic() < deadline, (slurm / 'tasks.log').read_text()
    time.sleep(0.5)
  log = (slurm / 'tasks.log').read_text()
  assert re.search(r'^task [01] again$', log, re.MULTILINE), log
  with pytest.raises(ProcessLookupError):
    os.kill(worker, 0)
  claiming_runs.assert_undisturbed(out, 60)


def test_a_missing_submitit_is_one_line(tmp_path):
  (tmp_path / 'submitit.py').write_text('raise ImportError("none")')
  done = subprocess.run(
    [engines.sys.executable, tiny_run.ROOT / 'launch' / 'slurm.py'],
    env=engines.environment(PYTHONPATH=str(tmp_path)),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr.startswith('slurm.py: submitit is not installed; pip ')
  assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
  'flag', ['--claim', '--shard=a', '--plan_only', '--dry_run', '-noclaim']
)
def test_what_engines_say_themselves_is_refused(flag, monkeypatch, capsys):
  module = _module(monkeypatch)
  monkeypatch.setattr('sys.argv', ['slurm.py', flag])
  with pytest.raises(SystemExit, match=f'{flag} does not go with an engine'):
    module._arguments()
