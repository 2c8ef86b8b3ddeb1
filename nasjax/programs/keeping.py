"""Programs that are kept for who asks next, as long as there is room for them.

Linux lets a process map so many pieces of memory (vm.max_map_count, 65,530 as
it comes), and ends it without a word that helps when it asks for more. XLA's
programs for CPUs are in many pieces: 800 for a pass over a small dense graph,
10,000 for a step of its supernet.
"""

import functools
import pathlib

from nasjax.programs import memory

_MAPS = pathlib.Path('/proc/self/maps')
_LIMIT = pathlib.Path('/proc/sys/vm/max_map_count')
# Share of the pieces up to which programs are kept.
_SHARE = 0.5
_CACHES = []


def kept(most):
  """Decorates a function that makes a program, or several: its last are kept.

  As `functools.lru_cache`, but for this: before one more is made, all programs
  that are kept anywhere are forgotten where they take too many pieces of
  memory. Those that somebody still holds stay.

  Args:
    most: how many are kept.
  """

  def decorate(make):
    @functools.wraps(make)
    def made(*arguments, **named):
      make_room()
      return make(*arguments, **named)

    cache = functools.lru_cache(maxsize=most)(made)
    _CACHES.append(cache)
    return cache

  return decorate


def make_room():
  """Forgets all programs that are kept, if they take too many pieces."""
  if not crowded():
    return
  for cache in _CACHES:
    cache.cache_clear()
  memory.give_back()


def crowded():
  """Whether this process has mapped too much to keep more programs."""
  try:
    limit = int(_LIMIT.read_text())
    with _MAPS.open('rb') as lines:
      return sum(1 for _ in lines) > _SHARE * limit
  except (OSError, ValueError):  # No Linux: there is no such limit.
    return False
