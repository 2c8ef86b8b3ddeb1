"""Random search: every vector equally likely, with replacement.

Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 2012.
What every other searcher has to beat: NAS-Bench-ASR (Mehrotra et al., ICLR
2021, section 6) finds none that does so consistently.
"""

from nasjax.search.algorithms import base, draws


def make(sizes, epochs, budget, batch=1):
  """Returns the Searcher; see `base.check` for what it refuses."""
  sizes_d = base.check(sizes, epochs, budget, batch)

  def init(key):
    del key
    return ()

  def ask(key, state):
    u_nd = draws.floats(key, batch, len(sizes_d))
    return base.full(draws.integers(u_nd, sizes_d[None]), epochs), state

  def tell(state, suggestion, per_n):
    del suggestion, per_n
    return state

  return base.Searcher(init, ask, tell, batch)
