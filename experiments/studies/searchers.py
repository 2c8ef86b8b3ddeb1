"""Which searchers the flags name: ours, one's own, curves from elsewhere."""

import json
import pathlib

from absl import flags
from common import own
from studies import more_searchers
from summaries import search_curves

FLAGS = flags.FLAGS


def named():
  """Returns `{name: make}` of the searchers wanted, random search first."""
  from nasjax import search

  names = list(search.SEARCHERS) if FLAGS.searchers is None else FLAGS.searchers
  known = search.SEARCHERS | more_searchers.MORE
  for name in names:
    if name not in known:
      raise ValueError(
        f'--searchers: {name!r}; there are {", ".join(known)}; '
        "--searcher=module:make takes one's own"
      )
  if not names and not FLAGS.searcher:
    raise ValueError('--searchers is empty; name at least one')
  # What the others are compared with.
  found = {name: known[name] for name in ['random', *names]}
  for text in FLAGS.searcher:
    name, make = _own(text)
    if name in found:
      raise ValueError(
        f'--searcher={text}: there is a searcher {name!r} already; rename it'
      )
    found[name] = make
  for name in _counts():
    if name not in found:
      raise ValueError(
        f'--repeats_of: {name!r} is not searched; want of {", ".join(found)}'
      )
  return found


def _own(text):
  """Returns what a searcher is called, and what makes it."""
  told = f'--searcher={text}'
  module, _, make = text.rpartition(':')
  if not module or not make:
    raise ValueError(
      f"{told}: want module:make or path/file.py:make, with make's name"
    )
  held = own.load(told, module)
  if not callable(getattr(held, make, None)):
    there = [n for n in vars(held) if not n.startswith('_')]
    raise ValueError(
      f'{told}: {module} has no function or class {make!r}; it has '
      f'{", ".join(there[:8]) or "nothing"}'
    )
  name = make
  if make == 'make':
    name = pathlib.Path(module).stem if module.endswith('.py') else module
  return name, getattr(held, make)


def _counts():
  """Returns `{name: repeats}` of --repeats_of."""
  counts = {}
  for text in FLAGS.repeats_of:
    name, _, count = text.partition('=')
    if not count.isdecimal() or int(count) < 1:
      raise ValueError(f'--repeats_of: {text!r}; want name=repeats, as gcn=100')
    counts[name] = int(count)
  return counts


def repeats(name):
  """Returns how many searches of it there are to be."""
  # One with a warm start is called as it is without, and its proxy.
  name = name.partition('+')[0]
  return min(FLAGS.repeats, _counts().get(name, FLAGS.repeats))


def warm(made, scape, rows):
  """Returns searchers of --warm_searchers that begin with a proxy's best.

  Args:
    made: searchers by name; those to start are among them.
    scape: landscape of the table.
    rows: the table.

  Raises:
    ValueError: there are no scores of these cells, or no such searcher.
  """
  if not FLAGS.warm_start:
    return {}
  if not FLAGS.proxy_scores:
    raise ValueError('--warm_start wants --proxy_scores, of proxies.py --json')
  from nasjax.search import landscape
  from nasjax.search.algorithms import base
  from nasjax.search.algorithms import warm as warm_lib

  told = f'--proxy_scores={FLAGS.proxy_scores}'
  try:
    record = json.loads(
      pathlib.Path(FLAGS.proxy_scores).expanduser().read_text()
    )
    keys = rows.space.semantic_keys(record['archs'])
    ranks = {name: p['rank'] for name, p in record['proxies'].items()}
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise ValueError(f'{told}: {e!r}; want what proxies.py --json wrote') from e
  vectors = landscape.candidates(scape)
  wanted = rows.space.semantic_keys(scape.archs(vectors))
  warmed = FLAGS.warm_searchers
  if warmed is None:
    warmed = [name for name in ('evolution', 'gcn') if name in made]
  if not warmed:
    raise ValueError(
      '--warm_start: neither evolution nor gcn is among --searchers; name some '
      'of them by --warm_searchers'
    )
  found = {}
  for proxy in FLAGS.warm_start:
    if proxy not in ranks:
      raise ValueError(f'{told}: no {proxy!r}; it has {", ".join(ranks)}')
    by_key = dict(zip(keys.tolist(), ranks[proxy]))
    lacking = [key for key in wanted.tolist() if key not in by_key]
    if lacking:
      raise ValueError(f'{told}: no score of {len(lacking)} cells of the table')
    scores = [by_key[key] for key in wanted.tolist()]
    for name in warmed:
      if not isinstance(made.get(name), base.Searcher):
        raise ValueError(
          f'--warm_searchers: {name!r} is not among --searchers, or in Python'
        )
      found[f'{name}+{proxy}'] = warm_lib.start(
        made[name], scape.epochs, vectors, scores, FLAGS.warm_first,
        FLAGS.warm_pool,
      )  # fmt: skip
  return found


def made(name, make, sizes, epochs, batch, graphs):
  """Returns the searcher, `driver.Plain` or `search.Searcher`.

  Args:
    name, make: of `named`.
    sizes: how many values each digit takes.
    epochs: of a full training.
    batch: how many architectures a suggestion holds.
    graphs: a function that returns the vectors and the graphs that gcn ranks.
  """
  from nasjax import search
  from nasjax.search import driver

  if make is search.SEARCHERS['gcn']:
    candidates, graphs = graphs()
    return make(
      sizes, epochs, FLAGS.budget, batch=batch, candidates=candidates,
      graphs=graphs,
    )  # fmt: skip
  return driver.made(
    make, sizes, epochs, FLAGS.budget, batch, f'the searcher {name}'
  )


def added(about, names):
  """Returns the curves of --add, by name; `search_curves.read` refuses.

  One that is called as another has the name of its file, too.
  """
  found = {}
  for path in FLAGS.add:
    for name, curve in search_curves.read(path, FLAGS.budget, about).items():
      if name in names or name in found:
        name = f'{name} ({pathlib.Path(path).stem})'
      if name in found:
        raise ValueError(f'--add={path}: {name!r} is there already; rename it')
      found[name] = curve
  return found
