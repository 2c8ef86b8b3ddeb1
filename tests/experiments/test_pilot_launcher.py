"""The launcher of pilots, on the tiny corpus."""

import json

import tiny_run

from nasjax import table


def test_a_grid_is_trained_and_ranked(tmp_path):
  tiny = tiny_run.finished()
  path, out = tmp_path / 'pilot.json', tmp_path / 'out'
  cells = tmp_path / 'cells.txt'
  cells.write_text(tiny_run.CELLS.splitlines()[2])
  kept = [f for f in tiny.flags if not f.startswith(('--cells', '--seeds'))]
  flags = (
    *kept,
    f'--cells={cells}',
    '--seeds=1,2',
    '--lrs=1e-2,1e-6',
    '--starts=1',
    f'--out={out}',
    f'--json={path}',
  )
  status, output, errors = tiny_run.forked(*flags, launcher='pilot')
  assert status == 0, errors
  ranking = json.loads(path.read_text())['ranking']
  rows = table.open(out)
  assert len(rows) == 4
  for point in ranking:
    part = rows.select(recipe=point['recipe'])
    lowest = part.curves('val_per').min(1)
    assert abs(point['val'] - lowest.mean()) < 1e-6
    assert point['networks'] == 2 and point['diverged'] == 0
  assert ranking[0]['val'] <= ranking[1]['val']
  # Two networks tell nothing, and a grid's end is no optimum.
  told = {p['lies'] for p in ranking} - {None}
  assert told == {'unknown'} and 'end of the grid' in output
  assert (out / 'figures/pilot.png').stat().st_size > 5_000
  again = tiny_run.forked(*flags, '--lrs=1e-3', launcher='pilot')
  assert again[0] == 1 and 'lrs was' in again[2]


def test_what_is_no_grid_is_one_line(tmp_path):
  flags = (*tiny_run.finished().flags, f'--out={tmp_path}')
  tries = {
    '--lrs=fast': "--lrs: 'fast' is no number",
    '--starts=1.5': "--starts: '1.5' is no number",
    '--lrs=': '--lrs is empty',
    '--lrs=-1': 'lr=-1.0 is out of range',
  }
  done = tiny_run.tried([[*flags, flag] for flag in tries], 'pilot')
  for (flag, told), (status, _, errors) in zip(
    tries.items(), done, strict=True
  ):
    assert status == 1 and len(errors.splitlines()) == 1, (flag, errors)
    assert told in errors
