"""The launcher of the main job, as its users meet it: a command."""

import fcntl
import json
import os
import re
import signal
import subprocess

import matplotlib.image
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_run as launcher

import nasjax
from nasjax import table
from nasjax.models import families
from nasjax.table import schema


@pytest.fixture(scope='module')
def tiny_run():
  return launcher.finished()


def _rows(out):
  """Rows of a table in an order that does not depend on its shards."""
  rows = table.open(out).to_arrow().to_pylist()
  return sorted(rows, key=lambda row: (row['arch'], row['seed']))


def _record(tiny_run):
  return json.loads((tiny_run.out / 'run.json').read_text())


def test_table_has_every_member(tiny_run):
  t = table.open(tiny_run.out)
  assert len(t) == 4
  assert t.recipes == ('tiny',)
  assert set(t.column('macro')) == {'tiny'}
  assert t.curves('val_per').shape == (4, launcher.EPOCHS)
  cell = [[0, 1], [2, 1, 1], [0, 1, 1, 1]]
  assert 0 < t.query(cell, 'test_per', seed=2) <= 2
  assert t.query([0, 0, 1, 0, 0, 0, 0, 0, 0], 'best_epoch', seed=1) >= 1


def test_checkpoints_say_whose_they_are(tiny_run):
  t = table.open(tiny_run.out)
  found = []
  for name in sorted(set(t.column('shard'))):
    with ocp.CheckpointManager(tiny_run.out / 'checkpoints' / name) as manager:
      assert manager.latest_step() == launcher.EPOCHS
      state = manager.restore(launcher.EPOCHS, args=ocp.args.StandardRestore())
      about = manager.metadata(launcher.EPOCHS).custom_metadata
    assert about['shard'] == name
    assert about['macro']['name'] == 'tiny'
    assert about['recipe']['epochs'] == launcher.EPOCHS
    assert len(state['best']['head']['bias']) == 2
    for p, member in enumerate(about['members']):
      found.append((member['arch'], member['seed']))
      row = int(t.query(member['arch'], 'best_epoch', seed=member['seed']))
      assert state['best_epoch'][p] == row
  rows = [(row['arch'], row['seed']) for row in _rows(tiny_run.out)]
  assert sorted(found) == rows


def test_prints_plan_progress_and_cells(tiny_run):
  output = tiny_run.output
  assert '3 cells, 4 networks, 2 shards, 1 programs' in output
  assert f'shard 2/2 epoch {launcher.EPOCHS}/{launcher.EPOCHS}' in output
  t = table.open(tiny_run.out)
  per_n = t.query(t.archs, 'test_per', seed='mean')
  rows = re.findall(
    r'^│ +(\d+) │ ([a-z].*?) +│.*\n│ +│ (\S+)', output, re.MULTILINE
  )
  ranks = {rank: (words, vector) for rank, words, vector in rows}
  for rank, n in ('1', per_n.argmin()), ('3', per_n.argmax()):
    assert '\n'.join(ranks[rank]) == t.space.names(t.archs[n], '\n')


def test_says_what_to_do_next(tiny_run):
  steps = tiny_run.output.rpartition('next:\n')[2].splitlines()
  assert [step.split()[:2] for step in steps] == [
    ['python', f'experiments/{name}.py']
    for name in ('report', 'transcribe', 'search')
  ]
  for step in steps:
    assert f'={tiny_run.out} ' in step and '  # ' in step
  # None diverged, so that nothing is said of it.
  assert 'diverged' not in tiny_run.output


def test_draws_figures(tiny_run):
  for name in ('learning_curves', 'per_costs', 'best_cell'):
    pixels = matplotlib.image.imread(tiny_run.out / 'figures' / f'{name}.png')
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600
    assert pixels.std() > 0.02


def test_record_tells_where_the_corpus_lies(tiny_run):
  record = _record(tiny_run)
  t = table.open(tiny_run.out)
  assert {record['corpus_fingerprint']} == set(t.column('corpus_fingerprint'))
  assert record['prepared_corpus'].startswith(str(tiny_run.data_dir))
  assert record['flags']['epochs'] == launcher.EPOCHS
  assert record['macro']['outputs'] == 49


def _kill_after(out, flags, line):
  """Kills a run as soon as it prints a line that has `line` in it."""
  process = launcher.start(f'--out={out}', *flags)
  with process:
    for printed in process.stdout:
      if line in printed:
        process.send_signal(signal.SIGKILL)
        break
    process.communicate(timeout=60)
  assert process.returncode == -signal.SIGKILL, 'it ended before the kill'


# In small, at any moment: test_killed_runs.
@pytest.mark.slow
def test_killed_run_ends_with_the_same_table(tiny_run, tmp_path):
  """One worker ends what two did in the run that it is compared with."""
  out = tmp_path / 'out'
  _kill_after(out, tiny_run.flags, 'epoch 1/')
  flags = [*tiny_run.flags, '--cpu_devices=1']
  _kill_after(out, flags, 'shard 1/2 epoch 1/')
  assert table.committed(out / 'table') == ()
  _kill_after(out, flags, 'shard 2/2 epoch 1/')
  assert len(table.committed(out / 'table')) == 1
  status, output, errors = launcher.finish(f'--out={out}', *flags)
  assert status == 0, errors
  assert 'shard 1/2' not in output
  rows, expected = _rows(out), _rows(tiny_run.out)
  assert len(rows) == len(expected)
  for row, other in zip(rows, expected):
    assert row['shard'] == other['shard']
    assert schema.same_results(row, other), (row, other)


def test_a_full_disk_is_one_line(tiny_run, tmp_path):
  """While checkpoints are saved, by threads of libraries."""
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=32k', 'tmpfs', str(tmp_path)]
  if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('only root can make a small file system')
  try:
    out = tmp_path / 'out'
    status, _, errors = launcher.finish(f'--out={out}', *tiny_run.flags)
  finally:
    subprocess.run(['umount', str(tmp_path)], check=True)
  assert status == 1 and errors.count('\n') == 1, errors
  assert f'No space left on device: {tmp_path} (of --out={out})' in errors
  assert 'the same command goes on' in errors


def test_dry_run_plans_and_writes_no_rows(tiny_run, tmp_path):
  """With free memory asked for what stands on the devices."""
  flags = [f for f in tiny_run.flags if 'members_per_shard' not in f]
  status, output, errors = launcher.forked(
    '--dry_run',
    f'--out={tmp_path}',
    *flags,
    '--cpu_devices=4',
    '--data_devices=2',
  )
  assert status == 0, errors
  for word in ('members each', 'memory', 's / epoch', 'compile s'):
    assert word in output
  assert 'projected time: 0:0' in output
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']
  # All four in one shard, none of them padding, though there are two workers.
  assert '3 cells, 4 networks, 1 shards, 1 programs' in output
  assert 'each batch divided among 2 devices' in output
  assert ', on 2 x 2 x cpu' in output
  assert re.search(r'linear, conv\S*, linear +│ +1 │ +4 │ +0 │', output)
  found = re.search(
    r'at most 8 members a shard; 4 members a shard \((\S+) GB of (\S+) GB free',
    output,
  )
  assert 0 < float(found[1]) < float(found[2])


def test_a_plan_alone_is_that_of_any_machine(tiny_run, tmp_path):
  status, output, errors = launcher.forked(
    f'--out={tmp_path}', *tiny_run.flags, '--plan_only', '--cpu_devices=1'
  )
  assert status == 0, errors
  path = tmp_path / 'shards.json'
  assert output == f'2 shards in {path}\n'
  assert path.read_bytes() == (tiny_run.out / 'shards.json').read_bytes()
  assert {path.name for path in tmp_path.iterdir()} == {'.lock', path.name}


def test_processes_train_the_shards_of_one_directory(tiny_run, tmp_path):
  """Side by side, of one device and of two; neither finds a plan there."""
  out = tmp_path / 'out'
  plan = json.loads((tiny_run.out / 'shards.json').read_text())
  names = [shard['name'] for shard in plan['shards']]
  flags = [
    (
      f'--out={out}',
      *tiny_run.flags,
      f'--shard={name}',
      f'--cpu_devices={devices}',
    )
    for devices, name in enumerate(names, 1)
  ]
  with launcher.start(*flags[0]) as process:
    second = launcher.forked(*flags[1])
    first = process.communicate(timeout=300)
  ends = (process.returncode, *first), second
  for name, (status, output, errors) in zip(names, ends, strict=True):
    assert status == 0, errors
    assert '1 of the 2 shards of ' in output and name not in errors
    assert 'shard 1/1 epoch 1/' in output and 'by test PER' not in output
    assert ' of 2 shards are done; the same command without ' in output
  assert not (out / 'figures').exists()
  assert json.loads((out / 'shards.json').read_text()) == plan
  # Who trains all finds nothing to do, and draws.
  before = {
    path: path.stat().st_mtime_ns
    for path in out.rglob('*')
    if path.parent.name in ('table', 'checkpoints') or path.name == 'default'
  }
  status, output, errors = launcher.forked(f'--out={out}', *tiny_run.flags)
  assert status == 0, errors
  assert 'epoch 1' not in output and '3 cells by test PER' in output
  assert before and before == {path: path.stat().st_mtime_ns for path in before}
  assert (out / 'figures' / 'per_costs.png').exists()
  for row, other in zip(_rows(out), _rows(tiny_run.out), strict=True):
    assert row['shard'] == other['shard']
    assert schema.same_results(row, other), (row, other)


def test_help_lists_the_flags():
  status, output, errors = launcher.finish('--help')
  assert status == 0
  assert errors == ''
  assert output.startswith('Trains populations of cells')
  for flag in (
    '--out',
    '--cells',
    '--[no]dry_run',
    '--corpus_path',
    '--epochs',
  ):
    assert f'\n  {flag}: ' in output
  assert max(map(len, output.splitlines())) <= 80


# Flags, and what must be in the one line that is said of them. A cell of a file
# is had without going through all that are there.
_MISTAKES = {
  '--foo=1': "'foo'",
  '--epoch=3': 'Did you mean: epochs',
  'x.flags': "'x.flags'",
  '--flagfile={tmp}/none.flags': 'none.flags',
  '--macro=x': '--macro=x',
  '--recipe=x': '--recipe=x',
  '--corpus=x': '--corpus=x',
  '--synth_grammar=x': '--synth_grammar=x',
  '--epochs=a': '--epochs=a',
  '--epochs=0 {cell}': 'epochs=0',
  '--lr=-1 {cell}': 'lr=-1',
  '--lr=nan {cell}': '--lr=nan',
  '--members_per_shard=0': '--members_per_shard=0',
  '--cpu_devices=0': '--cpu_devices=0',
  '--data_devices=0': '--data_devices=0',
  '{cell} --cpu_devices=4 --data_devices=3': (
    '--data_devices=3 does not divide --cpu_devices=4'
  ),
  '--synth_utterances=5': '--synth_utterances=5',
  '--synth_words=3 {cell}': '--synth_words=3',
  '--seeds=a': '--seeds=a',
  '--seeds=-1': '--seeds=-1',
  '--seeds=': '--seeds is empty',
  '--curriculum=a {cell}': '--curriculum=a',
  '--out={tmp}/o': '--cells',
  '--random_cells=0': '--random_cells=0',
  '--random_cells=2 --cells={tmp}/good.txt': '--random_cells',
  '--cells={tmp}/none.txt': 'none.txt: No such file',
  '--cells={tmp}': 'Is a directory',
  '--cells={tmp}/empty.txt': 'no cell in it',
  '--cells={tmp}/op.txt': 'op.txt, line 3',
  '--cells={tmp}/words.txt': 'words.txt, line 1',
  '--cells={tmp}/seeds.txt': 'seeds.txt, line 2',
  '{cell} --corpus_path={tmp}': '--corpus_path does not go with',
  '{cell} --corpus=timit': 'needs --corpus_path',
  '{cell} --corpus=timit --synth_seed=1 --corpus_path={tmp}': (
    '--synth_seed does not go with --corpus=timit'
  ),
  '{cell} --corpus=timit --corpus_path={tmp}/good.txt': ('is no directory'),
  '{cell} --corpus=manifest --corpus_path={tmp}/m.jsonl': (
    'm.jsonl does not exist'
  ),
  '{cell} --corpus=manifest --corpus_path={tmp}/empty.txt': (
    'has no utterance'
  ),
  '--random_cells=1 --out=': '--out is empty',
  '{cell} --out={tmp}/good.txt/o': '--out={tmp}/good.txt/o',
  '{cell} --out={tmp}/good.txt': 'is a file, not a directory',
  '{cell} --data_dir=': '--data_dir is empty',
  '{cell} --data_dir={tmp}/good.txt/d': '--data_dir={tmp}/good.txt/d',
  '{cell} --out={tmp}/held': 'another run is writing there',
  '{cell} --out={tmp}/held --shard=a': 'that wants it alone',
  '{cell} --out={tmp}/torn --shard=a': 'torn/shards.json is damaged',
  '{cell} --out={tmp}/o --shard=': '--shard is empty',
  '{cell} --out={tmp}/held --claim': 'that wants it alone',
  '{cell} --out={tmp}/o --claim --shard=a': '--claim does not go with --shard',
  '{cell} --claim --lease_seconds=0': '--lease_seconds=0',
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
  """By mistake: status, output, errors, and what must be said."""
  tmp = tmp_path_factory.mktemp('mistakes')
  for name, text in {
    'good.txt': '[[0, 1], [0, 1, 1], [0, 1, 1, 1]]\n',
    'empty.txt': '\n',
    'op.txt': '# ops\n\n[[6, 1], [0, 1, 1], [0, 1, 1, 1]]\n',
    'words.txt': 'linear linear linear\n',
    'seeds.txt': '\n[[0, 1], [0, 1, 1], [0, 1, 1, 1]] seeds=1,-2\n',
  }.items():
    (tmp / name).write_text(text)
  (tmp / 'held').mkdir()
  (tmp / 'torn').mkdir()
  (tmp / 'torn' / 'shards.json').write_text('{"format": 1,')

  def given(mistake):
    cell = f'--cells={tmp / "good.txt"}'
    words = mistake.format(tmp=tmp, cell=cell).split()
    if not any(word.startswith('--data_dir') for word in words):
      words.append(f'--data_dir={tmp / "data"}')
    return words

  tries = [given(mistake) for mistake in _MISTAKES]
  with (tmp / 'held' / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    outcomes = launcher.tried(tries)
    # Forks end as processes of their own do.
    for n in (0, 15, len(tries) - 1):
      assert launcher.finish(*tries[n]) == outcomes[n]
  said = [words.format(tmp=tmp) for words in _MISTAKES.values()]
  return dict(zip(_MISTAKES, zip(outcomes, said)))


@pytest.mark.parametrize('mistake', _MISTAKES)
def test_mistakes_get_one_line(outcomes, mistake):
  (status, output, errors), said = outcomes[mistake]
  assert status == 1
  assert output == ''
  assert errors.startswith('benchmark.py: ')
  assert errors.count('\n') == 1 and errors.endswith('\n')
  assert said in errors


def test_flags_offer_every_macro():
  _, output, _ = launcher.finish('--help')
  listed = '|'.join(families.MACROS)
  assert f'--macro:<{listed}>' in ''.join(output.split())


@pytest.mark.slow
def test_dense_graphs_become_a_table(tmp_path):
  status, output, errors = launcher.forked(
    f'--out={tmp_path / "out"}', f'--data_dir={tmp_path / "data"}',
    '--space=darts_asr', '--macro=darts_asr_tiny', '--random_cells=2',
    '--seeds=1,2', '--cpu_devices=1', '--synth_utterances=100',
    '--synth_grammar=digits', '--synth_words=1,2', '--recipe_name=dense',
    '--epochs=1', '--batch=8', '--batch_long=8', '--buckets=1',
    '--curriculum=', '--decoder=greedy', '--l2=0', '--dropout=0',
    '--compilation_cache=',
  )  # fmt: skip
  assert status == 0, errors
  checked = table.verify(tmp_path / 'out')
  assert not checked.problems and not checked.leftovers
  found = table.open(tmp_path / 'out')
  assert len(found) == 4 and set(found.column('status')) == {'ok'}
  arch = found.row_archs[0].tolist()
  network = nasjax.load_network(tmp_path / 'out', arch, seed=1)
  assert network.arch.tolist() == arch
  # Running statistics have come along.
  moved = [own['mean'] for own in network.params.values() if 'mean' in own]
  assert moved and all(mean_c.any() for mean_c in moved)
  # A second of noise: whatever it is taken for.
  noise = np.random.default_rng(0).normal(0, 0.1, 16000)
  heard = network.transcribe(noise.astype(np.float32), 16000)
  assert np.isfinite(heard.logprobs_tv).all()
