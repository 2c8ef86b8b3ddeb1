"""Searches of the planted-operation task (`data.planted`)."""

import dataclasses

from nasjax import spaces
from nasjax.data.synthetic import planted
from nasjax.models import macros
from nasjax.oneshot import search as searching
from nasjax.oneshot import stages, steps
from nasjax.oneshot.supernet import Supernet
from nasjax.training import recipes, trainer

SOLUTION = 'tdnn_c2d2'
RECIPE = recipes.Recipe(
  'planted',
  1,
  lr=1e-2,
  dropout=0.0,
  l2=0.0,
  batch=8,
  batch_long=8,
  buckets=1,
  curriculum=(),
  loss_norm='none',
  decoder='greedy',
)


def search(method, seed, warm_up=80, epochs=25, width=64, symbols=3):
  """Returns the corpus and the `Search` of one seed.

  One block of the four candidates of ST-NAS stands behind the subsampling
  layer; `SOLUTION` alone reads what the labels need.

  Args:
    method: `Method`.
    seed: of the corpus and of the search.
    warm_up, epochs: of the stages.
    width: channels.
    symbols: kinds of labels.
  """
  corpus = planted.corpus(seed, symbols=symbols)
  space = dataclasses.replace(spaces.ST_NAS, skips=(0,))
  macro = macros.Tdnn(
    'planted', width, before=0, after=1, outputs=symbols + 1,
    features=symbols + 1,
  )  # fmt: skip
  return corpus, searching.Search(
    Supernet(space, macro, space.ops, ()),
    method,
    steps.Weights('adam', RECIPE),
    stages.fixed(warm_up, epochs, RECIPE.lr),
    seed,
  )


def run(method, seed, mesh, out, on_epoch=lambda progress: None, **sizes):
  """Runs a search of the task; `on_epoch` as of `search.run`.

  `sizes` are those of `search`.

  Returns:
    the result (`search.run`), and whether it found the solution.
  """
  corpus, own = search(method, seed, **sizes)
  prepared = trainer.device_corpus(corpus, RECIPE, mesh)
  result = searching.run(own, prepared, corpus.fingerprint, out, on_epoch)
  choice = own.supernet.space.ops.index(SOLUTION)
  return result, result['arch'] == [choice]
