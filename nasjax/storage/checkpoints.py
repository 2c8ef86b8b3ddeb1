"""Checkpoints that come back, whatever their path contains.

orbax looks for the parts of a checkpoint with a glob whose directory it does
not escape (0.12.8): below a path with brackets it finds none and commits
nothing, below one with `*` or `?` it may find those of others. So it is handed
a link with a plain name wherever a path has more than letters and digits.
"""

import contextlib
import pathlib
import re
import secrets
import shutil
import tempfile
import threading

import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import atomicity

from nasjax.programs import memory

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
def manager(directory):
  """Yields a manager of orbax checkpoints that keeps the last one."""
  with _plain(pathlib.Path(directory).absolute()) as path:
    _clear(path)
    with SAVING:
      saved = ocp.CheckpointManager(
        path,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=1,
          create=True,
          temporary_path_class=_OwnPath,
          async_options=ocp.AsyncOptions(
            timeout_secs=_PATIENCE, create_directories_asynchronously=False
          ),
        ),
      )
    with saved:
      yield saved


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
        reason = ' '.join(str(e).split())[:200] or type(e).__name__
        raise ValueError(
          f'the checkpoint of epoch {epoch} in {directory} cannot be restored '
          f'({reason}); copy it anew from where it is whole, or train the '
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
      reason = ' '.join(str(e).split())[:200] or type(e).__name__
    aside = _set_aside(pathlib.Path(directory) / str(epoch))
    saved.reload()
    say(
      f'the checkpoint of epoch {epoch} in {directory} cannot be restored; it '
      f'is {aside.name} now and counts as absent ({reason})'
    )
  return 0, None, None


def _set_aside(path):
  count, aside = 1, path.with_name(f'{path.name}.unreadable')
  while aside.exists():
    count += 1
    aside = path.with_name(f'{path.name}.unreadable-{count}')
  return path.rename(aside)
