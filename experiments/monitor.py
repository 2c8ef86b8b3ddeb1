"""What a run shows while it works: plan, projection, progress."""

import contextlib
import time

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)
from rich.table import Table

from nasjax import cost, runs

CONSOLE = Console(highlight=False)
if not CONSOLE.is_terminal:
  # A log has no width; 80 columns would cut the tables.
  CONSOLE = Console(highlight=False, width=110)


@contextlib.contextmanager
def counter(title):
  """Shows a bar; yields the function to call with (done, total)."""
  with Progress(
    TextColumn('{task.description}'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=CONSOLE,
    transient=True,
    disable=not CONSOLE.is_terminal,
  ) as progress:
    task = progress.add_task(title, total=None)
    yield lambda done, total: progress.update(
      task, completed=done, total=total
    )


def _programs(shards):
  """Shards by the program that runs them."""
  groups = {}
  for shard in shards:
    shape = (shard.signature, shard.size, len(shard.seeds))
    groups.setdefault(shape, []).append(shard)
  return groups


def print_plan(job, corpus, shards, prepared):
  """Prints corpus, network, recipe, and the programs with their members."""
  for name in ('train', 'validation', 'test'):
    split = getattr(corpus, name)
    CONSOLE.print(
      f'{corpus.name} {name}: {len(split.ids)} utterances, '
      f'{len(set(split.speakers))} speakers, '
      f'{split.audio_seconds / 60:.1f} minutes'
    )
  shapes = ', '.join(
    f'{b.batch} x {b.frames} frames' for b in prepared.buckets
  )
  CONSOLE.print(
    f'macro {job.macro.name}, {job.macro.outputs} outputs; recipe '
    f'{job.recipe.name}, {job.recipe.epochs} epochs; batches of {shapes}'
  )
  table = Table(title='programs')
  for column in ('nodes', 'shards', 'members each', 'padding', 'parameters'):
    table.add_column(column, justify='left' if column == 'nodes' else 'right')
  for (signature, size, _), group in _programs(shards).items():
    counts = [
      cost.params(job.space, np.array(arch), job.macro)
      for shard in group
      for arch, _ in shard.members
    ]
    members = sum(len(shard.members) for shard in group)
    table.add_row(
      ', '.join(signature),
      str(len(group)),
      str(size),
      str(size * len(group) - members),
      f'{np.mean(counts):,.0f}',
    )
  CONSOLE.print(table)
  cells = {arch for shard in shards for arch, _ in shard.members}
  total = sum(len(shard.members) for shard in shards)
  CONSOLE.print(
    f'{len(cells)} cells, {total} networks, {len(shards)} shards, '
    f'{len(_programs(shards))} programs, on {prepared.mesh.size} x '
    f'{jax.devices()[0].device_kind}'
  )


def print_projection(job, shards, prepared):
  """Runs each program for one batch and prints memory and projected time."""
  table = Table(title='calibration')
  for column in ('nodes', 'compile s', 'memory MB', 's / epoch', 'total s'):
    table.add_column(column, justify='left' if column == 'nodes' else 'right')
  total = 0.0
  for (signature, _, _), group in _programs(shards).items():
    runner = runs.Runner(job, group[0], prepared)
    compile_s, epoch_s, memory = _calibrate(runner)
    seconds = compile_s + epoch_s * job.recipe.epochs * len(group)
    total += seconds
    table.add_row(
      ', '.join(signature),
      f'{compile_s:.1f}',
      f'{memory / 2**20:,.0f}',
      f'{epoch_s:.2f}',
      f'{seconds:,.0f}',
    )
  CONSOLE.print(table)
  CONSOLE.print(f'projected time: {_clock(total)}')


def _calibrate(runner):
  """Returns (seconds to compile, seconds an epoch, bytes) of a program."""
  started = time.perf_counter()
  state = runner.initial()
  memory = runner.memory(state)
  # The first batches compile; a few more are timed.
  members_p = runner.some_steps(state['members'], 1)
  runner.evaluate(members_p.params, 'validation')
  compile_s = time.perf_counter() - started
  steps = min(runner.steps, 4)
  started = time.perf_counter()
  members_p = runner.some_steps(members_p, steps)
  step_s = (time.perf_counter() - started) / steps
  started = time.perf_counter()
  runner.evaluate(members_p.params, 'validation')
  return compile_s, step_s * runner.steps + time.perf_counter() - started, memory


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'


class Bar:
  """The progress bar of a run: epochs, PER so far, time left.

  Where the output is no terminal, one line an epoch instead.
  """

  def __init__(self, shards, epochs):
    self._shards, self._epochs = shards, epochs
    self._best = np.inf
    self._number = self._done = 0
    self._total = sum(len(s.members) for s in shards) * epochs
    self._started = time.perf_counter()
    self._progress = Progress(
      TextColumn('{task.description}'),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn('epochs,'),
      TimeElapsedColumn(),
      TextColumn('gone,'),
      TimeRemainingColumn(elapsed_when_finished=False),
      TextColumn('left'),
      console=CONSOLE,
      speed_estimate_period=600,
      disable=not CONSOLE.is_terminal,
    )

  def __enter__(self):
    self._progress.start()
    self._task = self._progress.add_task('', total=self._total)
    return self

  def __exit__(self, *_):
    self._progress.stop()

  def begin(self, shard):
    self._number += 1
    self._describe(shard, 0)

  def _describe(self, shard, epoch):
    best = f'{self._best:.1%}' if np.isfinite(self._best) else '--'
    self._progress.update(
      self._task,
      description=(
        f'shard {self._number}/{len(self._shards)} '
        f'({len(shard.members)} networks) epoch {epoch}/{self._epochs}, '
        f'best validation PER {best}'
      ),
    )

  def update(self, progress):
    """Takes a `runs.Progress`."""
    per_p = progress.curves['val_per'][:, -1]
    alive_p = per_p[~np.isnan(per_p)]
    if alive_p.size:
      self._best = min(self._best, alive_p.min())
    self._advance(len(per_p))
    self._describe(progress.shard, progress.epoch)
    if not CONSOLE.is_terminal:
      done = self._done
      low = f'{alive_p.min():.1%}' if alive_p.size else 'none'
      CONSOLE.print(
        f'{_clock(time.perf_counter() - self._started)} '
        f'shard {self._number}/{len(self._shards)} '
        f'epoch {progress.epoch}/{self._epochs}: '
        f'{len(per_p) - alive_p.size} diverged, best validation PER {low} '
        f'({self._best:.1%} so far), {progress.seconds:.1f} s, '
        f'{done}/{self._total} epochs of networks'
      )

  def finish(self, shard, skipped):
    if skipped:
      self._advance(len(shard.members) * self._epochs)

  def _advance(self, epochs):
    self._done += epochs
    self._progress.advance(self._task, epochs)
