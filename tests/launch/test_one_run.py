"""A run begun on one engine is finished on another; the real launchers."""

import json

import engines
import numpy as np
import pytest
import tiny_corpus
import tiny_run

from nasjax import table


@pytest.mark.slow
@pytest.mark.reliability
def test_a_run_begun_on_one_engine_is_finished_on_another(tmp_path):
  """By name, on Ray until that is killed, and by two that claim."""
  engines.want_ray()
  whole = tiny_run.finished()
  out = tmp_path / 'out'
  flags = [f for f in whole.flags if not f.startswith('--cpu_devices')]
  # A shard each: members train alike in any company.
  flags = [f.replace('per_shard=2', 'per_shard=1') for f in flags]
  flags.append(f'--out={out}')
  status, _, errors = tiny_run.forked(*flags, '--plan_only')
  assert status == 0, errors
  plan = json.loads((out / 'shards.json').read_text())
  names = [shard['name'] for shard in plan['shards']]
  assert len(names) == 4
  status, _, errors = tiny_run.forked(
    *flags, '--cpu_devices=1', f'--shard={names[-1]}'
  )
  assert status == 0, errors
  assert table.committed(out / 'table') == (names[-1],)
  launcher = tiny_run.ROOT / 'launch' / 'ray_cluster.py'
  driver = engines.Launcher(
    *(launcher, '--address=local', '--workers=1', '--no-figures', *flags),
    cwd=tiny_run.ROOT,
    env=engines.environment(XLA_FLAGS=tiny_run.UNOPTIMISED),
  )
  engines.wait_for(2, out, driver)
  driver.kill()
  driver.end()
  assert len(table.committed(out / 'table')) < 4
  claims = [
    tiny_run.start(*flags, '--claim', '--cpu_devices=1') for _ in range(2)
  ]
  for process in claims:
    with process:
      output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert '4 of 4 shards are done; the same command without --claim' in output
  one, two = tiny_corpus.results(out), tiny_corpus.results(whole.out)
  assert one.keys() == two.keys()
  for member, row in one.items():
    assert row.pop('shard') != two[member].pop('shard')
    np.testing.assert_equal(row, two[member])
  assert json.loads((out / 'shards.json').read_text()) == plan
  # Other flags are refused beside them, and named.
  other = [f.replace('--lr=0.01', '--lr=0.02') for f in flags]
  status, _, errors = tiny_run.forked(*other, '--claim')
  assert status == 1 and errors.count('\n') == 1
  assert (
    'the plan of another run (recipe); recipe: lr 0.01, not 0.02;' in errors
  )
