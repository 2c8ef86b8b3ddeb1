"""Checkpoints of runs and searches: orbax, wherever they lie and if need be
without the last one."""

import contextlib
import os
import pathlib
import re
import tempfile
import threading

import orbax.checkpoint as ocp

from nasjax import memory

# Two managers of one process that save at the same moment wait for each other
# for ever (orbax 0.12.8).
SAVING = threading.Lock()
# Orbax looks for the parts of a checkpoint with a glob, and commits it without
# them where the path itself is a pattern (0.12.8); what writes them takes text
# only.
_PLAIN = re.compile(r'[\w /.,:;=@~#%+-]*', re.ASCII)
_SAID = 200  # characters of an error that are passed on


@contextlib.contextmanager
def manager(directory):
  """Opens a manager of orbax checkpoints that keeps the last one.

  Args:
    directory: of the checkpoints, made if need be. Its path may have any
      characters.

  Yields:
    `ocp.CheckpointManager`, closed at the end.
  """
  directory = pathlib.Path(directory).absolute()
  directory.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    place = directory
    if not _PLAIN.fullmatch(str(directory)):
      place = pathlib.Path(stack.enter_context(_alias_of(directory)))
    with SAVING:
      made = ocp.CheckpointManager(
        place,
        options=ocp.CheckpointManagerOptions(max_to_keep=1, create=True),
      )
    yield stack.enter_context(made)


@contextlib.contextmanager
def _alias_of(directory):
  """Yields a path without special characters that leads to a directory."""
  base = tempfile.gettempdir()
  base = base if _PLAIN.fullmatch(base) else '/tmp'
  with tempfile.TemporaryDirectory(prefix='nasjax-', dir=base) as place:
    alias = os.path.join(place, 'checkpoints')
    os.symlink(directory, alias)
    yield alias


def restore(saved, directory, target, say):
  """Returns the last checkpoint that can be restored.

  One that cannot is set aside beside the directory, as
  DIRECTORY.unreadable-EPOCH, and the one before it is taken.

  Args:
    saved: of `manager`.
    directory: of the checkpoints.
    target: function that returns a state as it was saved, for its structure.
    say: called with a line of text for each that cannot be restored.

  Returns:
    its epoch and the state; 0 and None if there is none.
  """
  directory = pathlib.Path(directory)
  for epoch in sorted(saved.all_steps(), reverse=True):
    try:
      with SAVING:
        return epoch, saved.restore(
          epoch, args=ocp.args.StandardRestore(target())
        )
    except Exception as e:  # each part of a checkpoint fails in its own way
      if memory.exhausted(e):
        raise
      fault = ' '.join(str(e).split())[:_SAID] or type(e).__name__
    aside = _set_aside(directory, epoch)
    with SAVING:
      saved.reload()
    left = [step for step in saved.all_steps() if step < epoch]
    then = f'epoch {max(left)}' if left else 'the start'
    say(
      f'the checkpoint {directory / str(epoch)} cannot be restored ({fault}); '
      f'it is now {aside}, training goes on from {then}'
    )
  return 0, None


def _set_aside(directory, epoch):
  """Moves a checkpoint out of a directory; returns where to."""
  name, n = f'{directory.name}.unreadable-{epoch}', 0
  while (aside := directory.with_name(name + f'-{n}' * bool(n))).exists():
    n += 1
  (directory / str(epoch)).rename(aside)
  return aside
