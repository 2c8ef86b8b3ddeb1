"""Which parts of a supernet its middle-sized networks keep: learnt, not drawn.

A part is what one choice of a decision adds to the next smaller one: the
channels from 64 to 128 of a layer, the layers from the fifth to the sixth. What
a part does for the loss is told by its gate, a number that its output is
multiplied by, and that is 1: the gradient by the gate needs nothing but the
gradient by the weights behind it. Below 0, the part lowers the loss.

  topk           Xu et al. 2024, "Dynamic Encoder Size Based on Data-Driven
                 Layer-wise Pruning for Speech Recognition": a score for each
                 part, trained beside the weights; a network of some size keeps
                 the parts of the highest scores.
  orthosoftmax   Xu et al. 2025, "Efficient Supernet Training with Orthogonal
                 Softmax for Scalable ASR Model Compression": as many softmaxes
                 as there are parts, the j-th of which picks the j-th part; a
                 penalty keeps them from picking one twice. The j first make a
                 network of j parts.

Their texts leave much open; what stands here is a reading of their abstracts.
There parts are free; here a part comes with those below it, so that networks
grow from the smallest, part by part, by what their next parts promise. Scores
move once an epoch, by the mean gradient of its steps.
"""

from typing import NamedTuple

import numpy as np

METHODS = ('topk', 'orthosoftmax')
# How far scores of a softmax may lie apart.
_SURE = 8.0


class Part(NamedTuple):
  """What one choice of a decision adds to another.

  Attributes:
    decision: its number.
    before, after: numbers of the choices.
  """

  decision: int
  before: int
  after: int


def initial(method, parts):
  """Returns the scores before all training: none is better than another.

  Args:
    method: of `METHODS`.
    parts: how many.

  Returns:
    score_u; or logits_ju, of the j-th softmax, a little in favour of the j-th
    part, for softmaxes that are equal stay equal.
  """
  if method == 'topk':
    return np.zeros(parts)
  return 0.1 * np.eye(parts)


def moved(method, scores, pull_nu, kept_nu, rate, penalty=3.0):
  """Returns the scores after an epoch.

  Args:
    method: of `METHODS`.
    scores: of `initial`, or of this function.
    pull_nu: mean gradient of each network's loss by each part's gate; of parts
      that it has not, whatever.
    kept_nu: bool, the parts that it has.
    rate: by how much the scores of a part move whose gradient is as large as
      the others' (root mean square over all that are kept).
    penalty: on a softmax for what those before it pick, beside gradients whose
      root mean square is 1.
  """
  pull_nu = np.where(kept_nu, pull_nu, 0.0)
  size = np.sqrt(np.square(pull_nu[kept_nu]).mean()) if kept_nu.any() else 0
  pull_nu = pull_nu / size if size > 0 else pull_nu
  if method == 'topk':
    times_u = np.maximum(kept_nu.sum(0), 1)
    return scores - rate * pull_nu.sum(0) / times_u
  p_ju = _softmax(scores)
  count_n = kept_nu.sum(1)
  # The j-th softmax is part of all networks of more than j parts.
  in_jn = np.arange(len(scores))[:, None] < count_n[None]
  slope_ju = in_jn @ pull_nu / np.maximum(in_jn.sum(1, keepdims=True), 1)
  # A softmax makes way for those before it, they do not for it.
  slope_ju = slope_ju + penalty * (np.cumsum(p_ju, 0) - p_ju)
  # By mirror descent, whose steps do not vanish where a softmax is sure; and
  # none gets so sure that it could not be led away again.
  scores = scores - rate * slope_ju
  scores = scores - scores.max(1, keepdims=True)
  return np.maximum(scores, -_SURE)


def overlap(scores):
  """Returns how much the softmaxes of `orthosoftmax` pick the same, from 0."""
  p_ju = _softmax(scores)
  return float((p_ju @ p_ju.T).sum() - np.square(p_ju).sum())


def grown(method, scores, space, smallest, parts, fits):
  """Returns the network of the best parts that fits, int8.

  Args:
    method: of `METHODS`.
    scores: as in `moved`.
    space: whose keys tell whether a part makes a difference: channels of layers
      that are not there make none.
    smallest: arch_d, which all networks hold.
    parts: `Part`s.
    fits: of an architecture: whether it is small enough. A part that makes it
      too large is left out, with those that come after it.
  """
  arch_d, left, picked = smallest.copy(), set(range(len(parts))), 0
  while True:
    ready = {}
    for u in left:
      if arch_d[parts[u].decision] == parts[u].before:
        new_d = _with(arch_d, parts[u].decision, parts[u].after)
        if space.key(new_d) != space.key(arch_d):
          ready[u] = new_d
    if not ready:
      return arch_d
    score_u = scores
    if method == 'orthosoftmax':
      # What the softmaxes so far, and the next one, make of each part; and of
      # those to come each half as much, for the next one's may have to wait.
      ahead_j1 = np.maximum(np.arange(len(scores)) - picked, 0)[:, None]
      score_u = (_softmax(scores) * 0.5**ahead_j1).sum(0)
    best = max(ready, key=lambda u: (score_u[u], -u))
    left.remove(best)
    if fits(ready[best]):
      arch_d, picked = ready[best], picked + 1


def kept(space, arch_d, parts):
  """Returns bool [parts]: those that an architecture has."""
  digits, key, found = arch_d.tolist(), space.key(arch_d), []
  above = {(part.decision, part.before): part.after for part in parts}
  for decision, before, after in parts:
    # The choice taken is this part's, or one that comes later.
    while after != digits[decision] and (decision, after) in above:
      after = above[decision, after]
    without = _with(arch_d, decision, before)
    found.append(after == digits[decision] and space.key(without) != key)
  return np.array(found, bool)


def _with(arch_d, decision, choice):
  arch_d = arch_d.copy()
  arch_d[decision] = choice
  return arch_d


def _softmax(logits_ju):
  e_ju = np.exp(logits_ju - logits_ju.max(-1, keepdims=True))
  return e_ju / e_ju.sum(-1, keepdims=True)
