"""Times CTC-CRF's sums over all paths beside CTC, value and gradient.

  python experiments/ctc_crf_speed.py --json=results/ctc_crf_speed.json

The language models are estimated from drawn sentences; the pruned one has
about --arcs arcs. All losses take their turns in every round, so that other
work on the machine meets them alike. The limit of a loss is what its
multiply-adds take at the rate of a matrix product that is measured in the same
rounds, or what its stored masses take to be written and read, whichever is
longer. NASJAX_KERNELS=xla times it without native kernels.

Least and median on two cores of an AMD EPYC, other work beside it: bigram 7.6
and 13.3 ms, trigram 83 and 104 ms (1.2 times its limit), pruned 4-gram 164 and
210 ms (1.7 times), CTC 11 and 14 ms.
"""

import time

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_integer('utterances', 16, 'Utterances a batch.', lower_bound=1)
flags.DEFINE_integer('frames', 300, 'Frames of each.', lower_bound=1)
flags.DEFINE_integer('labels', 60, 'Labels of each.', lower_bound=1)
flags.DEFINE_integer('symbols', 49, 'Symbols, blank included.', lower_bound=3)
flags.DEFINE_integer(
  'arcs', 31_000, 'Arcs of the pruned 4-gram, about.', lower_bound=1
)
flags.DEFINE_integer('rounds', 15, 'Times of each loss.', lower_bound=1)

# A product of this size gives the rate of multiply-adds.
_SIDE = 768


def sentences(symbols, count, seed=0):
  """Draws sentences of a Markov chain of second order."""
  import numpy as np

  rng = np.random.default_rng(seed)
  cumulative = rng.dirichlet([0.16] * (symbols - 1), (symbols, symbols))
  cumulative = cumulative.cumsum(axis=-1)
  drawn = []
  for _ in range(count):
    labels = [0, 0]
    for uniform in rng.random(rng.integers(20, 60)):
      row = cumulative[labels[-2], labels[-1]]
      labels.append(min(int(np.searchsorted(row, uniform)), symbols - 2) + 1)
    drawn.append(np.array(labels[2:]))
  return drawn


def pruned(drawn, symbols, arcs):
  """Returns the pruned 4-gram of so many arcs, as nearly as halving finds."""
  from nasjax.losses import ngram

  # Fewer sentences, fewer arcs, at the size of models that recipes use.
  low, high = 1, len(drawn)
  while high - low > max(1, len(drawn) // 100):
    middle = (low + high) // 2
    lm = ngram.estimate_pruned(drawn[:middle], symbols, extra_states=1000)
    low, high = (low, middle) if lm.prob_a.size > arcs else (middle, high)
  return ngram.estimate_pruned(drawn[:low], symbols, extra_states=1000)


def losses():
  """Returns programs by name, each with its multiply-adds and bytes."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from nasjax.losses import ctc, ctc_crf, ngram

  batch, frames, symbols = FLAGS.utterances, FLAGS.frames, FLAGS.symbols
  rng = np.random.default_rng(1)
  logits_btv = jnp.asarray(rng.normal(size=(batch, frames, symbols)), 'float32')
  len_b = jnp.full(batch, frames)
  labels_bu = jnp.asarray(rng.integers(1, symbols, (batch, FLAGS.labels)))
  label_len_b = jnp.full(batch, FLAGS.labels)
  drawn = sentences(symbols, 3000)
  models = {
    'bigram': ngram.estimate(drawn, symbols, 2),
    'trigram': ngram.estimate(drawn, symbols, 3),
    'pruned 4-gram': pruned(drawn, symbols, FLAGS.arcs),
  }
  found = {}
  for name, lm in models.items():
    den = ctc_crf.denominator(lm)
    grad = jax.jit(
      jax.value_and_grad(
        lambda x, den: ctc_crf.log_partition(x, len_b, den).sum()
      )
    )
    states = den.ends().size
    is_pruned = isinstance(lm, ngram.Pruned)
    arcs = lm.prob_a.size if is_pruned else lm.probs.size
    found[name] = {
      'run': lambda grad=grad, den=den: grad(logits_btv, den),
      'states': states,
      'arcs': arcs,
      # Forward, forward again and backward.
      'multiply_adds': 3 * arcs * batch * frames,
      # Two masses a state, written and read.
      'bytes': 4 * states * batch * frames * 4,
    }
  own = jax.jit(
    jax.value_and_grad(
      lambda x: ctc.ctc_loss(x, len_b, labels_bu, label_len_b)[0].sum()
    )
  )
  theirs = jax.jit(
    jax.value_and_grad(
      lambda x: optax.ctc_loss(
        *(x, jnp.zeros((batch, frames)), labels_bu, jnp.zeros(labels_bu.shape))
      ).sum()
    )
  )
  found['CTC'] = {'run': lambda: own(logits_btv)}
  found['CTC of optax'] = {'run': lambda: theirs(logits_btv)}
  square = jnp.ones((_SIDE, _SIDE))
  product = jax.jit(lambda x: x @ x)
  found['product'] = {'run': lambda: product(square)}
  long = jnp.ones(2**24)
  copy = jax.jit(lambda x: x + 1)
  found['copy'] = {'run': lambda: copy(long)}
  return found


def measure(found, rounds):
  """Adds to each its times in milliseconds."""
  import jax
  import numpy as np

  times = {name: [] for name in found}
  for loss in found.values():
    jax.block_until_ready(loss['run']())
  for _ in range(rounds):
    for name, loss in found.items():
      start = time.perf_counter()
      jax.block_until_ready(loss['run']())
      times[name].append(1e3 * (time.perf_counter() - start))
  for name, loss in found.items():
    quartiles = np.percentile(times[name], [0, 25, 50, 75])
    keys = ('least', 'quarter', 'median', 'three_quarters')
    loss['ms'] = dict(zip(keys, quartiles.round(2).tolist()))
    del loss['run']
  # In multiply-adds and bytes a millisecond.
  adds = _SIDE**3 / found.pop('product')['ms']['least']
  memory = 2 * 4 * 2**24 / found.pop('copy')['ms']['least']
  for loss in found.values():
    if 'arcs' in loss:
      limits = (loss['multiply_adds'] / adds, loss['bytes'] / memory)
      loss['limit_ms'] = round(max(limits), 2)


def show(found):
  """Prints the figures."""
  from rich.console import Console
  from rich.table import Table

  from nasjax import kernels

  view = Table(title=f'value and gradient, ms ({kernels.choose()} kernels)')
  for column in ('', 'arcs', 'least', 'median', 'quartiles', 'limit', 'times'):
    view.add_column(column, justify='right' if column else 'left')
  for name, loss in found.items():
    ms, limit = loss['ms'], loss.get('limit_ms')
    view.add_row(
      name,
      f'{loss["arcs"]:,}' if limit else '',
      f'{ms["least"]:.1f}',
      f'{ms["median"]:.1f}',
      f'{ms["quarter"]:.1f} to {ms["three_quarters"]:.1f}',
      f'{limit:.1f}' if limit else '',
      f'{ms["least"] / limit:.1f}' if limit else '',
    )
  Console(markup=False, emoji=False, highlight=False, width=100).print(view)


def run():
  """Measures, prints and writes."""
  found = losses()
  measure(found, FLAGS.rounds)
  show(found)
  if FLAGS.json:
    command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
