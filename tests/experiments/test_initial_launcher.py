"""--initial, as its users meet it."""

import json

import tiny_run

from nasjax import table


def _flags(tiny, tmp_path, cell):
  kept = [f for f in tiny.flags if not f.startswith(('--cells', '--epochs'))]
  (tmp_path / 'cells.txt').write_text(cell)
  return *kept, f'--cells={tmp_path / "cells.txt"}', '--epochs=1'


def test_a_run_begins_with_the_weights_of_another(tmp_path):
  tiny, out = tiny_run.finished(), tmp_path / 'out'
  cell = tiny_run.CELLS.splitlines()[1]
  flags = _flags(tiny, tmp_path, cell)
  begun = (*flags, f'--out={out}', f'--initial={tiny.out}')
  status, output, errors = tiny_run.forked(*begun)
  assert status == 0, errors
  assert f'begun with the weights of {tiny.out}, the head with them' in output
  arch = [[0, 1], [2, 1, 1], [0, 1, 1, 1]]
  record = json.loads((out / 'run.json').read_text())
  assert record['flags']['initial'] == str(tiny.out)
  assert [told['seed'] for told in record['initial']] == [1, 2]
  assert 'begun with the weights' in record['notes'][-1]
  rows = table.open(out)
  (mark,) = (out / 'table').glob('*.json')
  told = json.loads(mark.read_text())
  assert told['meta']['initial'][0]['digest'] == record['initial'][0]['digest']
  fingerprint = rows.column('corpus_fingerprint')[0]
  original = table.open(tiny.out)
  assert fingerprint.startswith(
    original.column('corpus_fingerprint')[0] + '+initial-'
  )
  for seed in 1, 2:
    losses = [
      t.query(arch, 'train_loss', seed=seed, epoch=1) for t in (original, rows)
    ]
    assert losses[1] < losses[0]


def test_what_it_cannot_begin_with_is_one_line(tmp_path):
  tiny = tiny_run.finished()
  flags = _flags(tiny, tmp_path, '[[5, 1], [2, 1, 1], [0, 1, 1, 1]]')
  for path, words in (
    (tmp_path / 'none', 'is not there; name the directory of a run'),
    (tiny.out, 'has no weights of zero, conv5d2, linear'),
  ):
    status, _, errors = tiny_run.forked(
      *flags, f'--out={tmp_path / "out"}', f'--initial={path}'
    )
    assert status == 1 and errors.count('\n') == 1
    assert f'--initial={path}: {path} ' in errors and words in errors, errors
