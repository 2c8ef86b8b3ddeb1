"""Plans for chips that are not there, by the real launcher."""

import os
import pathlib
import subprocess
import sys

import compilers
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _launch(tmp_path, *flags):
  return subprocess.run(
    [
      *(sys.executable, 'experiments/benchmark.py', '--synth_utterances=100'),
      *('--macro=tiny', '--recipe=e5', '--batch=4', '--batch_long=4'),
      *('--buckets=1', '--random_cells=1', '--seeds=1,2,3,4'),
      f'--out={tmp_path}/out',
      f'--data_dir={tmp_path}/data',
      f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}',
      *flags,
    ],
    cwd=ROOT,
    env=compilers.ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=300,
  )


# In small: one program for a chip, in test_accelerators.
@pytest.mark.slow
@compilers.tpu
def test_a_plan_for_a_chip_that_is_not_there(tmp_path):
  done = _launch(tmp_path, '--dry_run', '--plan_for=v5e', '--at_once=1')
  assert done.returncode == 0, done.stderr
  assert 'on 1 x 4 x TPU v5 lite' in done.stdout
  assert 'by the compiler, for v5e' in done.stdout
  assert 'projected time: at least 0:0' in done.stdout
  assert not (tmp_path / 'out' / 'run.json').exists()


@pytest.mark.parametrize(
  'flags, words',
  [
    (('--plan_for=v5e',), '--plan_for=v5e is for planning; give --dry_run'),
    (('--plan_for=v9', '--dry_run'), "no chip is called 'v9'; take one of v4"),
  ],
)
def test_a_plan_that_cannot_be_made(tmp_path, flags, words):
  done = _launch(tmp_path, *flags)
  assert done.returncode == 1 and not done.stdout
  assert words in done.stderr and done.stderr.count('\n') == 1
