"""Checkpoints that come back, whatever their path contains.

orbax looks for the parts of a checkpoint with a glob whose directory it does
not escape (0.12.8): below a path with brackets it finds none and commits
nothing, below one with `*` or `?` it may find those of others. So it is handed
a link with a plain name wherever a path has more than letters and digits.

Nor does it notice a bit that changed in a file of numbers, and one in a file of
its own words keeps it from looking at any checkpoint there (0.12.8). So each
gets a seal, the digests of its files, and is held against it before orbax sees
it. The newest has none yet where a process was killed.
"""

import contextlib
import hashlib
import pathlib
import re
import secrets
import shutil
import tempfile
import threading

import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import atomicity

from nasjax.programs import memory
from nasjax.storage import disk

SEAL = 'nasjax.sha256'

# Seconds. Orbax takes a clock that is set to another day for a disk that has
# answered nothing since; with directories made in a thread, after 5 minutes.
_PATIENCE = 10 * 365 * 86400
# Two managers of one process that save at the same moment wait for each other
# for ever (orbax 0.12.8).
SAVING = threading.Lock()


class _OwnPath(atomicity.AtomicRenameTemporaryPath):
  """Where a checkpoint is written: nobody else writes there.

  Orbax gives all who save an epoch the same directory, into which one that was
  stopped, and wakes when another has gone on, would write.
  """

  @classmethod
  def from_final(cls, final_path, **options):
    name = f'{final_path.name}{atomicity.TMP_DIR_SUFFIX}{secrets.token_hex(4)}'
    return cls(final_path.parent / name, final_path, **options)


def _clear(path):
  """Removes what is half written: it is of who was killed, or has lost it."""
  for left in path.glob(f'*{atomicity.TMP_DIR_SUFFIX}*'):
    shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def manager(directory, keep=1, say=print):
  """Yields a manager of orbax checkpoints.

  What is not as its seal says is set aside first.

  Args:
    directory: where they are.
    keep: so many stay, the last ones.
    say: called with a line of text for each that is set aside.
  """
  directory = pathlib.Path(directory).absolute()
  for path in _steps(directory):
    if reason := broken(path):
      _say_aside(path, reason, say)
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    create=True,
    temporary_path_class=_OwnPath,
    async_options=ocp.AsyncOptions(
      timeout_secs=_PATIENCE, create_directories_asynchronously=False
    ),
  )
  with _plain(directory) as path:
    _clear(path)
    with SAVING:
      try:
        saved = ocp.CheckpointManager(path, options=options)
      except Exception as e:  # orbax may raise anything here
        loose = [p for p in _steps(directory) if not (p / SEAL).exists()]
        if memory.exhausted(e) or not loose:
          raise
        for one in loose:
          _say_aside(one, _reason(e), say)
        saved = ocp.CheckpointManager(path, options=options)
    with saved:
      yield saved


def _steps(directory):
  """Returns the paths of the checkpoints in a directory, by their epoch."""
  if not directory.is_dir():
    return []
  found = [p for p in directory.iterdir() if p.name.isdecimal() and p.is_dir()]
  return sorted(found, key=lambda path: int(path.name))


def seal(path):
  """Writes down the digests of a checkpoint that is whole, unless it has them.

  Args:
    path: of the checkpoint, a directory.
  """
  if path.is_dir() and not (path / SEAL).exists():
    disk.clear(path, f'.{SEAL}.')
    disk.publish(path / SEAL, _digests(path).encode())


def broken(path):
  """Returns in what a checkpoint is not as its seal says; None if it is.

  None, too, where it has no seal.
  """
  try:
    wanted = (path / SEAL).read_text()
  except FileNotFoundError:
    return None
  except (OSError, UnicodeError) as e:
    return _reason(e)
  if _digests(path) == wanted:
    return None
  return 'its files do not have the digests that were written down'


def _digests(path):
  lines = []
  for file in sorted(path.rglob('*')):
    if file.is_file() and not file.name.startswith((SEAL, f'.{SEAL}')):
      with file.open('rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest()
      lines.append(f'{digest}  {file.relative_to(path)}\n')
  return ''.join(lines)


class Saver:
  """Saves the states of a training, one after another, and seals them.

  Digests are computed beside the training. A state whose saving failed is
  heard of when the next one is saved, an epoch later.
  """

  def __init__(self, saved, directory):
    """
    Args:
      saved: of `manager`, which keeps two or more.
      directory: that of the manager.
    """
    self._saved, self._directory = saved, pathlib.Path(directory)
    self._last, self._thread = None, None

  def save(self, epoch, state, about):
    """Begins to save a state; the one before is on the disk by then.

    Args:
      epoch: of the state.
      state: a pytree, or a NamedTuple (`by_field`).
      about: dict of plain values that is saved with it.

    Raises:
      whatever was raised when the one before was saved.
    """
    self._join()
    with SAVING:
      self._saved.save(
        epoch,
        args=ocp.args.StandardSave(by_field(state)),
        custom_metadata=about,
      )
    if self._last is not None:
      self._thread = threading.Thread(target=self._seal, args=(self._last,))
      self._thread.start()
    self._last = epoch

  def finish(self):
    """Waits for the last one, and lets none but that stay."""
    self._join()
    self._saved.wait_until_finished()
    steps = sorted(self._saved.all_steps())
    for step in steps[-1:]:
      self._seal(step)
    for step in steps[:-1]:
      with SAVING:
        self._saved.delete(step)

  def _seal(self, epoch):
    # Without one, a checkpoint is what orbax makes of it.
    with contextlib.suppress(OSError):
      seal(self._directory / str(epoch))

  def _join(self):
    if self._thread is not None:
      self._thread.join()
      self._thread = None


@contextlib.contextmanager
def _plain(path):
  """Yields a path to the same directory that no glob misreads."""
  if re.fullmatch(r'[\w./+@,=-]*', str(path), re.ASCII):
    yield path
    return
  path.mkdir(parents=True, exist_ok=True)
  # Not where TMPDIR says: that is a user's path as well.
  with tempfile.TemporaryDirectory(prefix='nasjax-', dir='/tmp') as place:
    link = pathlib.Path(place) / 'checkpoints'
    link.symlink_to(path, target_is_directory=True)
    yield link


def last(directory):
  """Returns the last epoch, its state and what it says of itself.

  For who only reads: nothing there is changed, and others may write.

  Returns:
    int; the state as dicts of NumPy arrays; a dict.

  Raises:
    ValueError: there is none, or it cannot be restored.
  """
  directory = pathlib.Path(directory).absolute()
  options = ocp.CheckpointManagerOptions(create=False)
  none = (
    f'{directory} has no checkpoint; give the command of the run again, which '
    'trains what is not there'
  )
  if not directory.is_dir():
    raise ValueError(none)
  with _plain(directory) as path:
    with SAVING:
      saved = ocp.CheckpointManager(path, options=options)
    with saved:
      epoch = saved.latest_step()
      if epoch is None:
        raise ValueError(none)
      try:
        if reason := broken(directory / str(epoch)):
          raise ValueError(reason)
        with SAVING:
          state = saved.restore(epoch, args=ocp.args.StandardRestore())
        return epoch, state, saved.metadata(epoch).custom_metadata
      except Exception as e:  # as in `restore`
        if memory.exhausted(e):
          raise
        saved.reload()
        if saved.latest_step() not in (epoch, None):
          # Who trains has saved the next epoch, and removed this one.
          return last(directory)
        raise ValueError(
          f'the checkpoint of epoch {epoch} in {directory} cannot be restored '
          f'({_reason(e)}); copy it anew from where it is whole, or train the '
          'network again in another directory'
        ) from e


def by_field(state):
  """Returns a state as it is saved: fields of a NamedTuple that are not None.

  orbax tells None from what is not there, and a state that has got a field
  since shall come back without it.
  """
  if not hasattr(state, '_fields'):
    return state
  return {k: v for k, v in state._asdict().items() if v is not None}


def restore(saved, directory, target, say):
  """Returns the last state that can be restored.

  One that cannot be is set aside, under a name that no manager reads, and
  counts as absent.

  Args:
    saved: of `manager`.
    directory: that of the manager, as it is called in messages.
    target: state of the shapes and types that are wanted; None takes them as
      they were saved. Of a NamedTuple that `by_field` saved it is one, too.
    say: called with a line of text for each that cannot be restored.

  Returns:
    its epoch, the state, and the dict that was saved with it; 0, None and None
    where there is none.
  """
  for epoch in sorted(saved.all_steps(), reverse=True):
    try:
      with SAVING:
        state = saved.restore(
          epoch, args=ocp.args.StandardRestore(by_field(target))
        )
      about = saved.metadata(epoch).custom_metadata
      if not about:
        raise ValueError('it does not say what it is of')
      if hasattr(target, '_fields'):
        state = target._replace(**state)
      return epoch, state, about
    except Exception as e:  # files may hold anything, and orbax raise anything
      if memory.exhausted(e):
        raise
      reason = _reason(e)
    _say_aside(pathlib.Path(directory) / str(epoch), reason, say)
    saved.reload()
  return 0, None, None


def _say_aside(path, reason, say):
  """Sets a checkpoint aside, and says so."""
  aside = _set_aside(path)
  left = [p.name for p in _steps(path.parent) if int(p.name) < int(path.name)]
  instead = f'that of epoch {left[-1]} is next' if left else 'there is no other'
  say(
    f'the checkpoint of epoch {path.name} in {path.parent} cannot be restored; '
    f'it is {aside.name} now and counts as absent, {instead} ({reason})'
  )


def _reason(error):
  """Returns what an error says in one line."""
  return ' '.join(str(error).split())[:200] or type(error).__name__


def _set_aside(path):
  count, aside = 1, path.with_name(f'{path.name}.unreadable')
  while aside.exists():
    count += 1
    aside = path.with_name(f'{path.name}.unreadable-{count}')
  return path.rename(aside)
