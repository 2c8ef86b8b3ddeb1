"""The table of `table_speed.py`, and what a fresh process asks of it."""

import json
import pathlib
import time

BUDGETS, SEEDS = (40, 10, 5), (1, 2, 3)
REPEATS = 30
SCALARS = ('test_per', 'test_loss', 'params', 'macs', 'status')
CURVES = ('val_per', 'train_loss', 'val_loss', 'learning_rate', 'epoch_seconds')


def make(directory, cells, shards, tick):
  """Writes a table of random values.

  Args:
    directory: where.
    cells: how many cells.
    shards: how many shards, at least.
    tick: called with shards done and in all.
  """
  import numpy as np

  from nasjax import spaces, table

  archs = spaces.NB_ASR.unique()[:cells]
  parts = np.array_split(archs, -(-shards // (len(BUDGETS) * len(SEEDS))))
  plan = [
    (epochs, seed, p, part)
    for epochs in BUDGETS
    for seed in SEEDS
    for p, part in enumerate(parts)
  ]
  for done, (epochs, seed, p, part) in enumerate(plan):
    tick(done, len(plan))
    rng = np.random.default_rng([epochs, seed, p])
    table.write_shard(
      directory,
      f'e{epochs}-seed{seed}-part{p}',
      random_rows(rng, spaces.NB_ASR, part, epochs, seed),
    )


def random_rows(rng, space, archs, epochs, seed):
  """Returns rows of one budget and seed as columns; all is drawn but cells."""
  count = len(archs)
  alike = {
    'space': space.name,
    'seed': seed,
    'recipe': f'e{epochs}',
    'recipe_json': json.dumps({'epochs': epochs}),
    'macro': 'random',
    'corpus': 'random',
    'corpus_fingerprint': 'random',
    'epochs': epochs,
    'status': 'ok',
    'diverged_epoch': None,
    'versions': '{}',
    'commit': 'none',
    'created': '2026-01-01T00:00:00+00:00',
  }
  curves = ('train_loss', 'val_loss', 'learning_rate', 'epoch_seconds')
  return {name: [value] * count for name, value in alike.items()} | {
    'arch': list(archs),
    'key': space.keys(archs).tolist(),
    'semantic_key': space.semantic_keys(archs).tolist(),
    **{n: list(rng.random((count, epochs), 'float32')) for n in curves},
    'val_per': list(rng.random((count, epochs))),
    'test_per': rng.random(count),
    'test_loss': rng.random(count),
    'best_epoch': rng.integers(1, epochs + 1, count),
    'params': rng.integers(10**6, 10**8, count),
    'macs': rng.integers(10**8, 10**10, count),
    'seconds': rng.random(count),
  }


def measure(directory, archs):
  """Returns the figures of one table, as plain values.

  Args:
    directory: the table, of random values as `make` writes it.
    archs: its cells, int8 [n, d].

  Returns:
    dict: open_ms (without digests), open_verified_ms, verify_mb_per_s,
    first_query_ms (it builds the index), query_us and vector_ns_per_row (the
    mean over all kinds of questions about one seed), the same of seed means,
    memory_mb, and each question in `kinds`.
  """
  from nasjax import spaces, table

  one_by_one = [
    spaces.NB_ASR.nested(a) for a in archs[:: -(-len(archs) // 100)]
  ]
  before = resident()
  open_s = best(lambda: table.open(directory, verify=False))
  verified_s = best(lambda: table.open(directory), 3)
  speed = max(table.verify(directory).mb_per_s for _ in range(3))
  t = table.open(directory, verify=False)
  recipe = t.recipes[-1]
  started = time.perf_counter()
  t.query(one_by_one[0], 'test_per', seed=1, recipe=recipe)
  first_s = time.perf_counter() - started

  kinds = []
  for how in questions():
    question = ', '.join(f'{name}={value!r}' for name, value in how.items())

    def ask(arch, how=how):
      return t.query(arch, recipe=recipe, **how)

    ask(one_by_one[0])
    single_s = best(lambda ask=ask: [ask(arch) for arch in one_by_one])
    many_s = best(lambda ask=ask: ask(archs))
    kinds.append(
      {
        'question': question,
        'seed': how['seed'],
        'query_us': 1e6 * single_s / len(one_by_one),
        'vector_ns_per_row': 1e9 * many_s / len(archs),
      }
    )
  memory = resident() - before
  figures = {
    'rows': len(t),
    'shards': len(t.shards),
    'open_ms': 1e3 * open_s,
    'open_verified_ms': 1e3 * verified_s,
    'first_query_ms': 1e3 * first_s,
    'verify_mb_per_s': speed,
    'memory_mb': memory,
  }
  for name in ('query_us', 'vector_ns_per_row'):
    for word, seed in (('', 1), ('mean_', 'mean')):
      values = [kind[name] for kind in kinds if kind['seed'] == seed]
      figures[word + name] = sum(values) / len(values)
  return figures | {'kinds': kinds}


def questions():
  """Yields the arguments of each question, but for cell and recipe."""
  for seed in (1, 'mean'):
    for column in SCALARS:
      if seed == 1 or column != 'status':
        yield {'column': column, 'seed': seed}
    for column in CURVES:
      yield {'column': column, 'seed': seed, 'epoch': 4}
    for epoch in ('best', 'last'):
      yield {'column': 'val_per', 'seed': seed, 'epoch': epoch}


def best(work, repeats=REPEATS):
  """Returns the least seconds of several calls: other work only adds."""
  seconds = []
  for _ in range(repeats):
    started = time.perf_counter()
    work()
    seconds.append(time.perf_counter() - started)
  return min(seconds)


def resident():
  """Returns the memory of this process in MB, files that it maps included."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('VmRSS:'):
      return int(line.split()[1]) / 1024
  raise OSError('/proc/self/status tells no VmRSS')
