"""The launcher for chips that are not there: words, sums, and a real row."""

import json
import re
import subprocess
import sys

import compilers
import numpy as np
import pytest
import tiny_run
from studies import accelerator_programs as programs
from summaries import accelerator_report as report

from nasjax import cells, cost, models
from nasjax.programs import chips

ROOT = compilers.SUPPORT.parents[1]

JOB = programs.Job('v5e', 'nb_asr', 'conv', 2, 32, 304, 38, 'bfloat16', 1, 1)
ROW = JOB._asdict() | {
  'needed_gb': 20.06,
  'free_gb': 16.0,
  'members_that_fit': 0,
  'collectives': None,
}


def test_cells_are_what_their_names_say():
  space = programs.SPACE
  for name, ops in (programs.CELLS | programs.SIGNATURES).items():
    arch = programs.arch(name)
    assert tuple(space.main_ops(arch)) == ops
    assert np.all(space.skip_matrix(arch) == np.tril(np.ones((3, 3))))
  archs = map(programs.arch, programs.SIGNATURES)
  kinds = {cells.signature(space, arch) for arch in archs}
  assert len(programs.SIGNATURES) == len(kinds) == 27


@pytest.mark.parametrize(
  'said, needed, free',
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (54.77G) exceeds available HBM (15.75G).',
      *(54.77, 15.75),
    ),
    ('RESOURCE_EXHAUSTED: Used 512.5M of 256.00M vmem', 512.5 / 1024, 0.25),
  ],
)
def test_what_the_compiler_says_is_read(said, needed, free):
  found = programs.shortage(said)
  assert found['needed_gb'] == pytest.approx(needed * 1.073741824)
  assert found['free_gb'] == pytest.approx(free * 1.073741824)


def test_a_compiler_that_gives_no_numbers():
  assert programs.shortage('RESOURCE_EXHAUSTED: no room') == {'needed_gb': None}
  words = report.too_large(ROW | {'needed_gb': None})
  assert words.startswith('nb_asr, conv, 2 at a time, batch 32: does not fit')
  assert ' a v5e; what would help: ' in words


def test_words_for_what_does_not_fit():
  words = report.too_large(ROW)
  assert '\n' not in words
  assert ': does not fit a v5e, 20.1 GB of 16.0 GB, 4.1 too many; ' in words
  for way in (
    'fewer at a time than --members=2',
    'a smaller --batch than 32',
    'more --data_devices than 1',
    'a larger chip (v4, v6e, h100, v5p, h200)',
  ):
    assert way in words
  assert '--checkpoint' not in words
  assert '--checkpoint' in report.too_large(ROW | {'checkpoint': False})
  words = report.too_large(ROW | {'members': 1, 'needed_gb': 90.0})
  assert '--members' not in words
  assert words.endswith('a larger chip (v5p, h200)')
  assert 'larger chip' not in report.too_large(ROW | {'needed_gb': 150.0})


@pytest.mark.parametrize(
  'topology, batch, devices, words',
  [
    ('v5e', 32, 1, ''),
    ('v5e', 32, 2, ''),
    ('h100', 20, 1, ''),
    ('v5e:4x4', 20, 1, 'batch 20 is no multiple of 16: .* as 32'),
    ('v5e:4x4', 32, 4, r'batch 32 \(8 a device\) is no .* as 16'),
  ],
)
def test_words_for_padding(topology, batch, devices, words):
  assert re.fullmatch(words, report.padding(topology, batch, devices))


def test_words_for_messages():
  spread = ROW | {'devices': 16, 'data_devices': 1, 'collectives': {}}
  assert report.messages(spread) == (
    '16 devices, 1 to a batch: no collective stands in the program'
  )
  spread |= {'data_devices': 2, 'collectives': {'all-reduce': 3}}
  assert report.messages(spread) == (
    '16 devices, 2 to a batch: 3 all-reduce stand in the program'
  )


def _launch(*flags):
  return subprocess.run(
    [sys.executable, 'experiments/accelerators.py', *flags],
    cwd=ROOT,
    env=compilers.ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_an_unknown_topology_is_refused():
  done = _launch('--topology=v9:2x2')
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.startswith("accelerators.py: topology 'v9:2x2': no chip")
  assert done.stderr.count('\n') == 1


@compilers.tpu
def test_wrong_flags_are_refused():
  mistakes = {
    '--macro=tiny,huge': "--macro: 'huge' is none of compact, nb_asr, ",
    '--cells=linear,foo': "--cells: 'foo' is none of conv, conv+conv+conv, ",
    '--members=1,0': "--members: '0' is no number from 1 on",
    '--devices=5': '5 devices of v5e:2x2: want 1 to 4; a larger shape has',
    '--data_devices=2': '--data_devices=2 does not divide --devices=1; take',
    '--topology=v5e:3x3': "topology 'v5e:3x3': its compiler says: Topology ",
  }
  # Each sets the environment of its chip before it imports JAX; all have one.
  found = tiny_run.tried(
    [[flag] for flag in mistakes],
    'accelerators',
    ['nasjax.training.population'],
    compilers.ENVIRONMENT | chips.environment('v5e'),
  )
  for (status, output, errors), words in zip(found, mistakes.values()):
    assert status == 1 and not output
    assert errors.startswith(f'accelerators.py: {words}')
    assert errors.count('\n') == 1


@pytest.mark.parametrize(
  'topology, devices',
  [('v5e', 1), pytest.param('v5e:4x4', 16, marks=pytest.mark.slow)],
)
@compilers.tpu
def test_a_row(topology, devices, tmp_path):
  path = tmp_path / 'new' / 'rows.json'
  done = _launch(
    f'--topology={topology}',
    '--macro=tiny',
    '--cells=linear',
    '--batch=24',
    '--frames=64',
    f'--json={path}',
  )
  assert done.returncode == 0, done.stderr
  row, *others = json.loads(path.read_text())
  if devices > 1:
    assert 'batch 24 is no multiple of 16' in done.stdout
    assert 'no collective stands in the program' in done.stdout
    (divided,) = others
    assert divided['data_devices'] == 2
    assert divided['collectives']['all-reduce']
  else:
    assert not others
  asked = ('tiny', 'linear', 1, 24, 64, 8, 'bfloat16', devices, 1, True)
  assert tuple(row[name] for name in programs.Job._fields) == (topology, *asked)
  macs = cost.macs(programs.SPACE, programs.arch('linear'), models.TINY, 64)
  assert row['flops_per_member_step'] == pytest.approx(
    row['flops_ratio'] * 6 * 24 * macs
  )
  assert 0.8 < row['flops_ratio'] < 1.5
  # Four copies, padded to tiles.
  params = cost.params(programs.SPACE, programs.arch('linear'), models.TINY)
  assert 16 * params < 1e9 * row['args_gb_per_member'] < 100 * 16 * params
  assert row['compute_ms'] == pytest.approx(
    1e3 * row['flops_per_member_step'] / 197e12
  )
  assert row['memory_ms'] == pytest.approx(
    1e12 * row['hbm_gb_per_member_step'] / 819e9
  )
  assert row['roofline_ms'] == max(row['compute_ms'], row['memory_ms'])
  assert row['members_that_fit'] == int(
    (16 - row['corpus_gb'] - row['temp_gb_per_member'])
    / row['args_gb_per_member']
  )
  assert row['collectives'] == {}
  assert {'jax', 'libtpu'} <= set(row['versions'])
