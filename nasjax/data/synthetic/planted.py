"""A task that only one candidate operation can solve.

Frames hold symbols and, now and then, a marker; they come in threes, so that a
subsampling layer loses none. Every marker stands for one label: the symbol
`distance` threes before it. All frames hold some symbol, so a network must see
a marker and the frame that far before it at once. In a network of the
subsampling layer and one searched TDNN layer, the taps of half context 2 and
dilation 2 (-4, -2, 0, 2, 4) do so at a distance of 8; those of the other
candidates of ST-NAS's space span 5 frames at most.
"""

import numpy as np

from nasjax.data import corpus as corpus_lib

DISTANCE = 8


def split(rng, utterances, symbols, distance, noise):
  """Returns a `data.corpus.Split` of drawn utterances.

  Args:
    rng: NumPy generator.
    utterances: how many.
    symbols: kinds of labels.
    distance: threes of frames from a symbol that counts to its marker.
    noise: standard deviation of what is added to every feature.
  """
  features, labels = [], []
  for _ in range(utterances):
    gaps = rng.integers(2, 5, size=rng.integers(3, 7))
    markers = distance + np.cumsum(gaps)
    frames = int(markers[-1] + distance)
    code_t = rng.integers(symbols, size=frames)
    x_tf = np.zeros((frames, symbols + 1))
    x_tf[np.arange(frames), code_t] = 1
    x_tf[markers, symbols] = 1
    x_tf = np.repeat(x_tf, 3, axis=0)
    features.append(x_tf + noise * rng.normal(size=x_tf.shape))
    labels.append((1 + code_t[markers - distance]).astype(np.int32))
  return corpus_lib.drawn('planted', features, labels)


def corpus(
  seed, train=512, held_out=64, symbols=4, distance=DISTANCE, noise=0.1
):
  """Returns a `data.corpus.Corpus`; arguments as of `split`.

  Args:
    seed: of all that is drawn.
    train, held_out: utterances of training, and of validation and test each.
    symbols, distance, noise: as in `split`.

  Raises:
    ValueError: a size below 1.
  """
  if min(train, held_out, symbols, distance) < 1:
    raise ValueError(
      f'train {train}, held_out {held_out}, symbols {symbols}, distance '
      f'{distance}: all must be at least 1'
    )
  rng = np.random.default_rng(seed)
  names = tuple('abcdefghijklmnopqrstuvwxyz'[:symbols])
  ids = np.arange(symbols + 1, dtype=np.int32)
  return corpus_lib.Corpus(
    name='planted',
    fingerprint=f'planted-{seed}-{train}-{held_out}-{symbols}-{distance}-{noise}',
    symbols=names,
    fold_v=ids,
    classes=names,
    train=split(rng, train, symbols, distance, noise),
    validation=split(rng, held_out, symbols, distance, noise),
    test=split(rng, held_out, symbols, distance, noise),
    mean_f=np.zeros(symbols + 1, np.float32),
    variance_f=np.ones(symbols + 1, np.float32),
  )
