"""Tables whose error rates follow from the cells: what analyses must find.

Cells without an identity path hardly train; otherwise each zero costs 4 points,
each linear 2, each missing skip 0.5, and fewer epochs more. Seeds scatter.
"""

import numpy as np
import table_rows

from nasjax import table

SPACE = table_rows.SPACE
MACRO = 2_000_000


def truth(archs):
  """Returns the error rate of cells at 40 epochs, without noise."""
  archs_nd = SPACE.parse_all(archs)
  op_nk = archs_nd[:, list(SPACE.op_positions)]
  skips_n = SPACE.skip_matrices(archs_nd).sum(axis=(1, 2))
  per_n = 0.2 + 0.02 * (op_nk == SPACE.ops.index('linear')).sum(axis=1)
  per_n += 0.04 * (op_nk == SPACE.ops.index('zero')).sum(axis=1)
  per_n += 0.005 * (6 - skips_n)
  return np.where(SPACE.has_skip_paths(archs_nd), per_n, 0.9 + 0.1 * per_n)


def row(arch, seed, recipe='e40', noise=0.008):
  """Returns a row whose curve falls to the truth, and its noise."""
  arch_d = SPACE.parse(arch)
  epochs = table_rows.RECIPES[recipe]
  rng = np.random.default_rng([SPACE.index(arch_d), seed, epochs])
  lasting = 1 + 1.2 / epochs
  end = truth([arch_d])[0] * lasting + noise * rng.normal(size=2)
  end = np.maximum(end, 0.05)
  curve = end[0] + (1.3 - end[0]) * np.exp(-np.arange(epochs) / epochs * 8)
  linear = int((arch_d[list(SPACE.op_positions)] == 0).sum())
  return table_rows.row(
    arch_d,
    seed,
    recipe,
    val_per=curve,
    val_loss=3 * curve.astype(np.float32),
    train_loss=3 * curve.astype(np.float32),
    test_per=float(end[1]),
    params=MACRO + 700_000 * linear + 1_000 * int(arch_d[0]),
    macs=150_000_000 + 40_000_000 * linear,
  )


def cells(count, seed=0):
  """Returns that many cells, no two alike, in the order of the space."""
  rng = np.random.default_rng(seed)
  # Twice as many are drawn, for few are alike; to hash the space would be slow.
  places = rng.choice(SPACE.size, min(2 * count + 20, SPACE.size), False)
  for keys_of in (SPACE.keys, SPACE.semantic_keys):
    _, first = np.unique(keys_of(SPACE.from_index(places)), return_index=True)
    places = places[np.sort(first)]
  return SPACE.from_index(np.sort(places[:count]))


def write(path, archs, seeds=(1, 2, 3), recipes=('e5', 'e40'), failed=0):
  """Writes a table, the first `failed` rows of each recipe as diverged."""
  for recipe in recipes:
    rows = [row(arch, seed, recipe) for arch in archs for seed in seeds]
    for r in range(failed):
      arch, seed = rows[r]['arch'], rows[r]['seed']
      rows[r] = table_rows.diverged(arch, 3, seed, recipe)
    table.write_shard(path, recipe, rows)
  return table.open(path)
