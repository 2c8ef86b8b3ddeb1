"""Searchers: init, ask and tell over vectors of integers, one file each."""

from nasjax.search.algorithms import (
  brp_nas,
  evolution,
  hyperband,
  local_search,
  q_learning,
  random,
  reinforce,
)
from nasjax.search.algorithms.base import Searcher, Suggestion

# By the names that flags give them.
SEARCHERS = {
  'random': random.make,
  'evolution': evolution.make,
  'local_search': local_search.make,
  'hyperband': hyperband.make,
  'successive_halving': hyperband.make_halving,
  'q_learning': q_learning.make,
  'reinforce': reinforce.make,
  # Also takes candidates= and graphs=, of `gcn.graphs`.
  'gcn': brp_nas.make,
}

__all__ = ['SEARCHERS', 'Searcher', 'Suggestion']
