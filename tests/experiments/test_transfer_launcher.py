"""The launcher of transfers, on a planted source and the tiny corpus."""

import json

import numpy as np
import planted_table
import pytest
import tiny_run

from nasjax import table


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Twelve cells of one program on the target, two seeds each."""
  space = planted_table.SPACE
  archs = space.product(['conv5', 'conv7d2'], ['s10', 's21'])[:14]
  return planted_table.write(tmp_path_factory.mktemp('source'), archs).path


def flags_of(source, out, *more):
  tiny = tiny_run.finished()
  kept = [
    f for f in tiny.flags if not f.startswith(('--cells', '--epochs'))
  ]  # fmt: skip
  return (
    f'--source={source}',
    f'--out={out}',
    *kept,
    '--epochs=1',
    '--best=2',
    '--random=1',
    '--worst=1',
    '--most=2',
    *more,
  )


def test_a_transfer_trains_and_compares(source, tmp_path):
  path = tmp_path / 'new' / 'transfer.json'
  flags = flags_of(source, tmp_path / 'out', f'--json={path}')
  status, output, errors = tiny_run.forked(*flags, launcher='transfer')
  assert status == 0, errors
  found = json.loads(path.read_text())
  rows, target = table.open(source), table.open(tmp_path / 'out')
  assert [p['group'] for p in found['pairs']] == [
    'best', 'best', 'random', 'worst',
  ]  # fmt: skip
  for pair in found['pairs']:
    asked = {'seed': pair['seed']}
    assert pair['target_test'] == target.query(
      pair['arch'], 'test_per', **asked
    )
    assert pair['target_val'] == target.query(
      pair['arch'], 'val_per', epoch='best', **asked
    )
    assert pair['source'] == pytest.approx(
      rows.query(pair['arch'], 'test_per', seed='mean', recipe='e40')
    )
    assert pair['metric'] == 'PER'
  for name in ('pearson', 'spearman', 'kendall'):
    for split in ('val', 'test'):
      assert found[name][split]['cells'] == 4
      assert found[name][split]['interval'] is None
  sources = [p['source_val'] for p in found['pairs']]
  values = rows.query(
    rows.archs, 'val_per', seed='mean', recipe='e40', epoch='best'
  )
  assert sources[:2] == pytest.approx(np.sort(values)[:2].tolist())
  assert sources[-1] == pytest.approx(values.max())
  assert found['cost']['networks'] == 4 and found['cost']['ratio'] > 0
  assert 'too few cells' in output
  assert (tmp_path / 'out/figures/transfer.png').stat().st_size > 5_000
  # Again: nothing is trained, the same is said.
  before = path.read_bytes()
  status, _, errors = tiny_run.forked(*flags, launcher='transfer')
  assert status == 0, errors
  assert path.read_bytes() == before


def test_what_cannot_be_transferred_is_one_line(source, tmp_path):
  out = tmp_path / 'out'
  tries = {
    '--best=40': (
      '--source=',
      '40 best, 1 random and 1 worst are 42 cells; 14',
    ),
    '--random_cells=3': ('--random_cells does not go with transfer.py',),
    '--source_recipe=e9': ('--source_recipe=e9: ', ' has e5, e40'),
    '--space=st_nas': ('is a table of nb_asr, the networks of --macro=',),
    f'--source={tmp_path / "nowhere"}': ('nowhere does not exist',),
    '--seeds=': ('--seeds is empty',),
    '--metric=wer': ('--metric=wer: networks on this corpus have per',),
  }
  given = []
  for flag in tries:
    one = flags_of(source, out, flag)
    if flag.startswith('--space'):
      one = [f for f in one if not f.startswith('--macro')]
    given.append(one)
  for (flag, told), (status, _, errors) in zip(
    tries.items(), tiny_run.tried(given, 'transfer'), strict=True
  ):
    assert status == 1, flag
    assert len(errors.splitlines()) == 1, errors
    assert all(part in errors for part in told), errors
  assert not (out / 'table').exists()


def test_the_papers_experiment_says_that_its_corpus_is_missing(tmp_path):
  flags = ['--flagfile=experiments/flags/librispeech.flags']
  flags += [f'--out={tmp_path}', f'--corpus_path={tmp_path / "LibriSpeech"}']
  ((status, _, errors),) = tiny_run.tried([flags], 'transfer')
  assert status == 1
  assert errors == (
    f'transfer.py: --corpus_path={tmp_path / "LibriSpeech"} does not exist; '
    'give the directory of librispeech\n'
  )
