"""Expected latency of a search, differentiable in its architecture parameters.

ProxylessNAS (Cai et al. 2019, section 3.3): an edge's latency is the mean over
its candidates, each as likely as softmax(alpha) has it, and a network's is the
sum over edges. It is added to the loss of the steps that update architecture
parameters, with every method: whatever runs there, softmax(alpha) is the law of
what a search would derive.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

FORMS = ('linear', 'product')


@dataclasses.dataclass(frozen=True)
class Latency:
  """What latency costs a search.

  Attributes:
    seconds_e: of the candidates of each edge, a tuple of tuples, from a table
      of operations (`predictors.latency.Operations.of_edges`).
    base: seconds of all that is not searched.
    reference: seconds that are aimed at.
    weight: of the penalty.
    form: 'linear', loss + weight * (E - reference) / reference, or 'product',
      loss * (log E / log reference)^weight as the released code of ProxylessNAS
      has it, with E and the reference in milliseconds and its factor of 0.2
      left out, for Adam sees no factor.
  """

  seconds_e: tuple
  base: float
  reference: float
  weight: float = 0.1
  form: str = 'linear'

  def __post_init__(self):
    seconds = [s for seconds_k in self.seconds_e for s in seconds_k]
    if not seconds or not all(math.isfinite(s) and s >= 0 for s in seconds):
      raise ValueError(
        f'seconds of candidates {seconds}; want numbers from 0 for each edge'
      )
    if not math.isfinite(self.base):
      raise ValueError(
        f'base is {self.base}: what is not searched was not measured'
      )
    for name in 'reference', 'weight':
      value = getattr(self, name)
      if not 0 < value < math.inf:
        raise ValueError(f'{name} is {value}; want a number above 0')
    if self.form not in FORMS:
      raise ValueError(f'form {self.form!r}; there are {", ".join(FORMS)}')
    if self.form == 'product' and self.reference <= 1e-3:
      raise ValueError(
        f'reference is {self.reference} s; the product wants more than a '
        'millisecond'
      )

  def expected(self, alpha_e):
    """Returns the expected seconds of a network; traced."""
    if len(alpha_e) != len(self.seconds_e):
      raise ValueError(
        f'{len(alpha_e)} edges, seconds of {len(self.seconds_e)}'
      )
    return self.base + sum(
      jnp.sum(jax.nn.softmax(alpha_k) * np.asarray(seconds_k, np.float32))
      for alpha_k, seconds_k in zip(alpha_e, self.seconds_e)
    )

  def added(self, loss, alpha_e):
    """Returns the loss of an architecture step with its latency."""
    seconds = self.expected(alpha_e)
    if self.form == 'linear':
      return loss + self.weight * (seconds / self.reference - 1)
    # Below a millisecond the logarithm changes its sign.
    log = jnp.log(jnp.maximum(1e3 * seconds, 1.001))
    return loss * (log / math.log(1e3 * self.reference)) ** self.weight


def from_operations(table, supernet, reference, weight=0.1, form='linear'):
  """Returns the `Latency` of a supernet from a table of operations.

  Args:
    table: `predictors.latency.Operations`.
    supernet: `Supernet` of the same space.
    reference, weight, form: of `Latency`.

  Raises:
    ValueError: a candidate was not measured.
  """
  found = table.of_edges(supernet.edges)
  searched = {name for name, _ in supernet.edges}
  # What is not searched is absent: a skip's first choice.
  rest = sum(
    float(seconds_k[0])
    for field, seconds_k in zip(table.space.fields, table.seconds_dk)
    if field not in searched
  )
  return Latency(
    tuple(tuple(map(float, seconds_k)) for seconds_k in found),
    table.base + rest,
    reference,
    weight,
    form,
  )
