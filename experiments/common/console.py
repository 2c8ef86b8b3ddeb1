"""What a run shows while it works: plan, projection, progress."""

import collections
import concurrent.futures
import contextlib
import math
import threading
import time

import numpy as np
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
)
from rich.table import Table

from nasjax import cost, kernels
from nasjax.benchmark import running, sizing
from nasjax.data import batching
from nasjax.programs import chips, memory
from nasjax.training import offloading
from nasjax.training.trainer import padded

CONSOLE = Console(markup=False, emoji=False, highlight=False)
if not CONSOLE.is_terminal:
  # A log has no width; 80 columns would cut the tables.
  CONSOLE = Console(markup=False, emoji=False, highlight=False, width=110)


@contextlib.contextmanager
def counter(title):
  """Shows a bar; yields the function to call with (done, total)."""
  with Progress(
    TextColumn('{task.description}', markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=CONSOLE,
    transient=True,
    disable=not CONSOLE.is_terminal,
  ) as progress:
    task = progress.add_task(title, total=None)
    yield lambda done, total: progress.update(task, completed=done, total=total)


def _programs(shards, mesh):
  """Shards by the signature and the size of the program that runs them."""
  groups = {}
  for shard in shards:
    size = padded(shard.size, mesh)
    groups.setdefault((shard.signature, size), []).append(shard)
  return groups


def _print_burden(job, corpus):
  """Says which few utterances take most of the memory or time, if any do."""
  splits = [
    batching.lengths(split)
    for split in (corpus.train, corpus.validation, corpus.test)
  ]
  found = batching.burden(splits, job.recipe)
  if found is None:
    return
  one = found.utterances == 1
  them = 'it' if one else 'them'
  who = 'the longest' if one else f'the {found.utterances} longest'
  before, after = found.batch, found.batch_without
  CONSOLE.print(
    f'{who} of {sum(len(frames_u) for frames_u, _ in splits):,} utterances '
    f'({found.frames / 100:.2f} s or more, all others at most '
    f'{found.others / 100:.2f} s) decide what training costs: without {them} '
    f'the largest batch is of {after.batch} x {after.frames} frames, not '
    f'{before.batch} x {before.frames}, and a pass takes '
    f'{found.pass_without / found.pass_frames:.0%} of the frames; '
    f'--max_seconds={_limit(found)} leaves {them} out of a manifest, '
    '--batch_frames bounds a batch'
  )


def _limit(found):
  """Returns a round number of seconds that a `batching.Burden` lasts longer."""
  # F frames are of (F + 1.5) / 100 s or more, and less than (F + 2.5) / 100 s.
  low, high = (found.others + 2.5) / 100, (found.frames + 1.5) / 100
  for digits in range(3):
    limit = math.ceil(low * 10**digits) / 10**digits
    if limit < high:
      return f'{limit:g}'
  return f'{low - 1e-4:.4f}'


def print_plan(job, corpus, shards, prepareds, reason):
  """Prints corpus, network, recipe, and the programs with their members.

  Args:
    job: `running.Job`.
    corpus: `data.corpus.Corpus`.
    shards: of `running.plan`.
    prepareds: of `running.device_corpus`, one for each worker.
    reason: why shards are of this size, and what stands on the devices.
  """
  for name in ('train', 'validation', 'test'):
    split = getattr(corpus, name)
    CONSOLE.print(
      f'{corpus.name} {name}: {len(split.ids)} utterances, '
      f'{len(set(split.speakers))} speakers, '
      f'{split.audio_seconds / 60:.1f} minutes'
    )
  prepared = prepareds[0]
  shapes = ', '.join(f'{b.batch} x {b.frames} frames' for b in prepared.buckets)
  _print_burden(job, corpus)
  CONSOLE.print(
    f'macro {job.macro.name}, {job.macro.outputs} outputs; recipe '
    f'{job.recipe.name}, {job.recipe.epochs} epochs; batches of {shapes}'
  )
  table = Table(title='programs')
  for column in ('nodes', 'shards', 'members each', 'padding', 'parameters'):
    table.add_column(column, justify='left' if column == 'nodes' else 'right')
  programs = _programs(shards, prepared.mesh)
  for (signature, size), group in programs.items():
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
    f'{len(programs)} programs, on {len(prepareds)} x '
    f'{prepared.mesh.size} x {prepared.mesh.devices.flat[0].device_kind}'
  )
  data = prepared.mesh.shape['data']
  divided = f'; each batch divided among {data} devices' if data > 1 else ''
  CONSOLE.print(reason + divided)
  platform = prepared.mesh.devices.flat[0].platform
  if platform == 'cpu' and kernels.choose(platform) == 'xla':
    why = kernels.why_not() or 'NASJAX_KERNELS=xla'
    CONSOLE.print(f'without the native kernels, so several times slower: {why}')


def print_steps(steps):
  """Prints how many networks at a time were tried, and what a step costs.

  Args:
    steps: of `sizing.Size`.
  """
  if not steps:
    return
  view = Table(title='networks at a time, a network and step')
  columns = ('at a time', 'cells', 'least ms', 'TFLOP', 'HBM GB', 'kernels')
  columns += ('temp. GB',)
  for column in columns:
    view.add_column(column, justify='right')
  for s in steps:
    view.add_row(
      str(s.members),
      'computed again' if s.checkpoint else 'kept',
      *(
        f'{value / s.members:,.3g}'
        for value in (
          1e3 * s.seconds,
          s.flops / 1e12,
          s.hbm_bytes / 1e9,
          s.launches,
          s.temp_bytes / 1e9,
        )
      ),
    )
  CONSOLE.print(view)


def print_absent(job, shards, prepared, together, checkpoint):
  """Prints what training takes on chips that are not there.

  Args:
    job: `running.Job`.
    shards: of `running.plan`.
    prepared: of `running.device_corpus`.
    together: networks that run as one program.
    checkpoint: whether cells are computed again for their gradient.
  """
  view = Table(title=f'by the compiler, for {chips.of(prepared.mesh).name}')
  for column in ('nodes', 'shards', 'compile s', 'GB', 's / epoch', 'total s'):
    view.add_column(column, justify='left' if column == 'nodes' else 'right')
  largest = batching.largest(prepared.train_buckets)
  total = 0.0
  for (signature, size), group in _programs(shards, prepared.mesh).items():
    turns = offloading.cut(group[0], together)
    trainer = running.Trainer(job, turns[0], prepared, checkpoint)
    started = time.perf_counter()
    compiled = trainer.compiled()
    compile_s = time.perf_counter() - started
    step = sizing.step_of(trainer, compiled)

    def seconds(plan, step=step):
      # Other buckets by their share of the largest one's frames.
      frames_k = np.array([b.frames * b.batch for b in prepared.buckets])
      share_k = frames_k / (largest.frames * largest.batch)
      return step.seconds * float(share_k[plan.bucket_s].sum())

    epoch_s = len(turns) * sum(map(seconds, trainer.plans(1)))
    early_s = len(turns) * sum(map(seconds, trainer.curriculum))
    shard_s = job.recipe.epochs * epoch_s + early_s
    total += compile_s + len(group) * shard_s
    view.add_row(
      ', '.join(signature),
      str(len(group)),
      f'{compile_s:.1f}',
      f'{sizing.needed(trainer, size) / 1e9:,.3g}',
      f'{epoch_s:.3g}',
      f'{compile_s + len(group) * shard_s:,.0f}',
    )
  CONSOLE.print(view)
  CONSOLE.print(
    "least times of training at the chip's published peaks; evaluation, "
    'decoding and checkpoints come on top'
  )
  CONSOLE.print(f'projected time: at least {_clock(total)}')


def print_projection(job, shards, prepareds):
  """Runs a few batches of each program; prints memory and projected time.

  Args:
    job: `running.Job`.
    shards: those that are still to be trained.
    prepareds: of `running.device_corpus`, one for each worker; all are timed at
      once, for they share the machine.
  """
  view = Table(title='calibration')
  for column in ('nodes', 'shards', 'compile s', 'MB', 's / epoch', 'total s'):
    view.add_column(column, justify='left' if column == 'nodes' else 'right')
  total = 0.0
  for (signature, _), group in _programs(shards, prepareds[0].mesh).items():
    trainer, *others = [running.Trainer(job, group[0], p) for p in prepareds]
    with concurrent.futures.ThreadPoolExecutor(len(prepareds)) as pool:
      futures = [pool.submit(_calibrate, other) for other in others]
      compile_s, step_s, eval_s, needed = _calibrate(trainer)
      for future in futures:
        future.result()
    epoch_s = step_s * _batches(trainer.plans(1)) + eval_s
    early = _batches(trainer.curriculum)
    shard_s = job.recipe.epochs * epoch_s + step_s * early + eval_s
    seconds = compile_s + len(group) * shard_s / len(prepareds)
    total += seconds
    view.add_row(
      ', '.join(signature),
      str(len(group)),
      f'{compile_s:.1f}',
      f'{needed / 2**20:,.0f}',
      f'{epoch_s:.2f}',
      f'{seconds:,.0f}',
    )
  CONSOLE.print(view)
  CONSOLE.print('MB: memory of the training program on one device')
  most = ' at most' if job.recipe.plateau else ''
  CONSOLE.print(f'projected time: {_clock(total)}{most}')


def _batches(plans):
  return sum(len(plan.bucket_s) for plan in plans)


def _calibrate(trainer):
  """Returns seconds to compile, of a batch, of an evaluation; and bytes."""
  started = time.perf_counter()
  needed = memory.program_bytes(trainer.compiled())
  state = trainer.initial()
  # The first batch compiles; more are timed.
  members_p = trainer.some_steps(state.members, 1)
  trainer.evaluate(members_p.params, 'validation')
  compile_s = time.perf_counter() - started
  steps = min(trainer.steps, 8)
  started = time.perf_counter()
  members_p = trainer.some_steps(members_p, steps)
  step_s = (time.perf_counter() - started) / steps
  started = time.perf_counter()
  trainer.evaluate(members_p.params, 'validation')
  return compile_s, step_s, time.perf_counter() - started, needed


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'


# A network that emits fewer labels than this share of the references' emits
# (almost) only blanks: so all training by CTC begins.
SILENT = 0.1
REMEDIES = (
  'Usual remedies: more updates (--epochs, a smaller --batch), a higher --lr '
  'or a later --start of its decay, short utterances first (--curriculum, '
  '--max_seconds), more speech'
)


class Pace:
  """How much time is left, once that is known.

  Of the first epochs compiling takes most, and says nothing of the others: the
  clock starts where all that runs is past them.
  """

  def __init__(self):
    self._begun = None

  def left(self, trained, remaining, steady):
    """Returns ', 1:19 left', or nothing as long as that is not known.

    Args:
      trained: how much has been done here, in any unit.
      remaining: how much of it is left.
      steady: whether nothing that runs is in its first epoch.
    """
    now = time.perf_counter()
    if self._begun is None:
      if steady:
        self._begun = now, trained
      return ''
    then, had = self._begun
    if trained <= had:
      return ''
    return f', {short((now - then) / (trained - had) * remaining)} left'


def short(seconds):
  """Returns '1:19', from an hour on '1:02:03'."""
  return _clock(seconds).removeprefix('0:').removeprefix('0')


def print_line(text):
  """Prints one line, however long it is: a log has no width."""
  CONSOLE.print(text, soft_wrap=True)


def print_next(commands):
  """Prints what can be done next: commands, by what they are good for."""
  CONSOLE.print('next:')
  for what, command in commands.items():
    print_line(f'  {command}  # {what}')


class Bar:
  """The progress bar of a run: epochs, error rate so far, time left.

  Where the output is no terminal, one line an epoch instead. Networks that have
  learnt next to nothing after a third of the epochs are named.
  """

  def __init__(self, shards, job):
    """
    Args:
      shards: of `running.plan`.
      job: `running.Job`.
    """
    self._places = {shard.name: n for n, shard in enumerate(shards, 1)}
    self._space = job.space
    self._epochs, self._metric = job.recipe.epochs, job.metric
    epochs = self._epochs
    self._best = np.inf
    self._done = 0
    self._total = sum(len(s.members) for s in shards) * epochs
    self._started = time.perf_counter()
    self._trained = 0
    self._epochs_told = {}
    # The epochs of each shard that runs, of those that were trained here.
    self._running = {}
    self._pace = Pace()
    self._progress = Progress(
      TextColumn('{task.description}', markup=False),
      BarColumn(8),
      MofNCompleteColumn(),
      TextColumn('network-epochs{task.fields[left]}', markup=False),
      console=CONSOLE,
      disable=not CONSOLE.is_terminal,
    )

  def __enter__(self):
    self._progress.start()
    self._task = self._progress.add_task('', total=self._total, left='')
    if not CONSOLE.is_terminal:
      CONSOLE.print(
        f'by line: time gone; best validation {self._metric} of the shard '
        '(of all so far)'
      )
    return self

  def __exit__(self, *_):
    self._progress.stop()

  def begin(self, shard):
    self._running[shard.name] = 0
    self._describe(shard, 0)

  def _place(self, shard):
    return f'shard {self._places[shard.name]}/{len(self._places)}'

  def _describe(self, shard, epoch):
    best = f'{self._best:.1%}' if np.isfinite(self._best) else '--'
    self._progress.update(
      self._task,
      description=(
        f'{self._place(shard)} epoch {epoch}/{self._epochs} '
        f'best {self._metric} {best}'
      ),
    )

  def update(self, progress):
    """Takes a `running.ShardProgress`."""
    per_p = progress.curves['val_per'][:, -1]
    alive_p = per_p[~np.isnan(per_p)]
    if alive_p.size:
      self._best = min(self._best, alive_p.min())
    name = progress.shard.name
    if not progress.resumed:
      self._trained += len(per_p)
      self._running[name] = self._running.get(name, 0) + 1
    self._epochs_told[name] = progress.epoch
    left = self._advance(len(per_p))
    self._describe(progress.shard, progress.epoch)
    if not CONSOLE.is_terminal:
      low = f'{alive_p.min():.1%}' if alive_p.size else 'none'
      best = f'{self._best:.1%}' if np.isfinite(self._best) else 'none'
      diverged = f', {progress.diverged} diverged' * bool(progress.diverged)
      print_line(
        f'{short(time.perf_counter() - self._started)} '
        f'{self._place(progress.shard)} '
        f'epoch {progress.epoch}/{self._epochs}: '
        f'{self._metric} {low} ({best}){diverged}, '
        f'{self._done}/{self._total} network-epochs{left}'
      )
    if progress.epoch == -(-self._epochs // 3):
      self._name_silent(progress)

  def _name_silent(self, progress):
    """Names the networks that emit (almost) only blanks."""
    alive_p = ~np.isnan(progress.curves['val_per'][:, -1])
    silent_p = alive_p & (progress.emitted < SILENT)
    if not silent_p.any():
      return
    names = [
      f'{self._space.names(np.array(arch, np.int8))} (seed {seed})'
      for (arch, seed), silent in zip(progress.shard.members, silent_p)
      if silent
    ]
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    CONSOLE.print(
      f'{self._place(progress.shard)}: after {progress.epoch} of '
      f'{self._epochs} epochs {len(names)} of {len(silent_p)} networks emit '
      f'(almost) only blanks, at most '
      f'{progress.emitted[silent_p].max():.1%} as many labels as there are: '
      f'{"; ".join(names[:3])}{more}. {REMEDIES}'
    )

  def finish(self, shard, skipped):
    # What a finished shard has not been trained for, it never will be.
    del skipped
    self._running.pop(shard.name, None)
    left = self._epochs - self._epochs_told.pop(shard.name, 0)
    self._advance(len(shard.members) * left)

  def _advance(self, epochs):
    """Counts epochs of networks; returns what is told of the time left."""
    self._done += epochs
    # Epochs that were read from checkpoints say nothing of the speed.
    steady = bool(self._running) and min(self._running.values()) > 0
    left = self._pace.left(self._trained, self._total - self._done, steady)
    self._progress.update(self._task, advance=epochs, left=left)
    return left


class Searches:
  """The progress bar of one-shot searches, called with what they report.

  Where the output is no terminal, one line an epoch instead.
  """

  def __init__(self, searches, metric='PER'):
    self._searches, self._metric = searches, metric
    self._done = {}
    self._lock = threading.Lock()
    self._started = time.perf_counter()
    self._progress = Progress(
      TextColumn('{task.description}', markup=False),
      BarColumn(8),
      MofNCompleteColumn(),
      TextColumn('search-epochs{task.fields[left]}', markup=False),
      console=CONSOLE,
      disable=not CONSOLE.is_terminal,
    )
    self._total = sum(search.epochs for search in searches)
    self._trained = collections.Counter()
    self._pace = Pace()

  def __enter__(self):
    self._progress.start()
    self._task = self._progress.add_task(
      'searching', total=self._total, left=''
    )
    if not CONSOLE.is_terminal:
      CONSOLE.print(
        'by line: time gone; loss on held-out utterances, and validation '
        f'{self._metric} of what is derived'
      )
    return self

  def __exit__(self, *_):
    self._progress.stop()

  def __call__(self, progress):
    """Takes a `search.SearchProgress`."""
    search, epoch = progress.search, progress.epoch
    loss = progress.history['held_out_loss'][epoch - 1]
    per = progress.history['val_per'][epoch - 1]
    text = (
      f'{search.method.name}, seed {search.seed}: {progress.stage} epoch '
      f'{epoch}/{search.epochs}'
    )
    with self._lock:
      self._done[search] = epoch
      if not progress.resumed:
        self._trained[search] += 1
      done = sum(self._done.values())
      # Searches beside this one are then past their first epochs, too.
      steady = max(self._trained.values(), default=0) > 1
      left = self._pace.left(self._trained.total(), self._total - done, steady)
      self._progress.update(
        self._task, completed=done, description=text, left=left
      )
      if not CONSOLE.is_terminal and not progress.resumed:
        gone = short(time.perf_counter() - self._started)
        print_line(
          f'{gone} {text}: loss {loss:.2f}, {self._metric} {per:.1%}, '
          f'{done}/{self._total} search-epochs{left}'
        )


class Trainings:
  """The progress of trainings with labels, a line an epoch or a bar."""

  def __init__(self, total):
    """
    Args:
      total: how many trainings there are.
    """
    self._lock, self._done, self._total = threading.Lock(), set(), total
    self._started = time.perf_counter()
    self._progress = Progress(
      TextColumn('{task.description}', markup=False),
      BarColumn(8),
      MofNCompleteColumn(),
      TextColumn('trainings', markup=False),
      TimeElapsedColumn(),
      console=CONSOLE,
      disable=not CONSOLE.is_terminal,
    )

  def __enter__(self):
    self._progress.start()
    self._task = self._progress.add_task('training', total=self._total)
    return self

  def __exit__(self, *_):
    self._progress.stop()

  def __call__(self, label, progress):
    """Takes a label and a `search.SearchProgress`."""
    epoch, history = progress.epoch, progress.history
    text = f'{label}: epoch {epoch}/{progress.search.epochs}'
    with self._lock:
      self._progress.update(self._task, description=text)
      if not CONSOLE.is_terminal and not progress.resumed:
        gone = short(time.perf_counter() - self._started)
        loss = history['soft_val_loss'][epoch - 1]
        rate = history['soft_val_per'][epoch - 1]
        print_line(f'{gone} {text}: validation loss {loss:.2f}, CER {rate:.1%}')

  def finish(self, label):
    """Counts a training that is over."""
    with self._lock:
      self._done.add(label)
      self._progress.update(self._task, completed=len(self._done))


class Parts:
  """The progress bar of work in parts, called with a line after each.

  Where the output is no terminal, the lines instead.

  Args:
    total: how many parts there are at most.
  """

  def __init__(self, total):
    self._total, self._done, self._here = total, 0, 0
    self._lock, self._pace = threading.Lock(), Pace()
    self._started = time.perf_counter()
    self._progress = Progress(
      TextColumn('{task.description}', markup=False),
      BarColumn(8),
      MofNCompleteColumn(),
      TextColumn('{task.fields[left]}', markup=False),
      console=CONSOLE,
      disable=not CONSOLE.is_terminal,
    )

  def __enter__(self):
    self._progress.start()
    self._task = self._progress.add_task('', total=self._total, left='')
    return self

  def __exit__(self, *_):
    self._progress.stop()

  def __call__(self, line, known=False):
    """Counts a part; `known` where it was done before, and cost nothing."""
    with self._lock:
      self._done += 1
      self._here += not known
      remaining = max(0, self._total - self._done)
      left = self._pace.left(self._here, remaining, self._here > 1)
      self._progress.update(
        self._task, completed=self._done, description=line, left=left
      )
      if not CONSOLE.is_terminal and not known:
        gone = short(time.perf_counter() - self._started)
        print_line(f'{gone} {line}{left}')
