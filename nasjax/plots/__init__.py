"""Figures of a benchmark and of what its networks hear.

Every function takes arrays and returns a matplotlib Figure that no window and
no global state knows of: show it in a notebook, or `save` it.
"""

from nasjax.plots import findings, todm
from nasjax.plots.cell_key import cell
from nasjax.plots.comparison import Row, comparison
from nasjax.plots.costs import pareto, paretos
from nasjax.plots.curves import by_rate, learning_curves, search_curves
from nasjax.plots.dense import dense, losses
from nasjax.plots.drawing import COLOURS, save
from nasjax.plots.graphs import cells, derived, search_space
from nasjax.plots.makeup import composition, rankings
from nasjax.plots.oneshot import (
  decisions,
  entropies,
  probabilities,
  supernet_ranks,
)
from nasjax.plots.rates import (
  agreement,
  correlations,
  distributions,
  seed_ranges,
)
from nasjax.plots.searches import search_forest
from nasjax.plots.speech import log_mel, posteriors
from nasjax.plots.transfer import transfer

__all__ = [
  'COLOURS',
  'Row',
  'agreement',
  'by_rate',
  'cell',
  'cells',
  'comparison',
  'composition',
  'correlations',
  'decisions',
  'dense',
  'derived',
  'distributions',
  'findings',
  'entropies',
  'learning_curves',
  'log_mel',
  'losses',
  'pareto',
  'paretos',
  'posteriors',
  'probabilities',
  'rankings',
  'save',
  'search_curves',
  'search_forest',
  'search_space',
  'seed_ranges',
  'supernet_ranks',
  'todm',
  'transfer',
]
