"""The training split on the devices: whole, or a piece after the other.

Training scans over batches that lie on the devices. Of a corpus that does not
fit there are pieces, each a drawn part of its utterances, as large as a budget
allows twice: while one trains, a thread reads the next and sends it there.
Order of the pieces from the epoch alone (as order of buckets), so that members
with different seeds visit them together; order in a piece from (seed, epoch).
"""

import concurrent.futures

import numpy as np

from nasjax.training import batches, population


class Whole:
  """A split that lies on the devices, in one piece.

  Attributes:
    count: 1.
  """

  count = 1

  def __init__(self, split, buckets, mesh, dtype):
    data = batches.device_data(split, buckets, dtype=dtype)
    self._data = population.on_all(data, mesh)

  def utterances(self, piece):
    """Returns the numbers of the utterances of a piece; None for all."""
    del piece

  def order(self, epoch):
    """Returns the pieces in the order of a pass."""
    del epoch
    return np.zeros(1, int)

  def example(self):
    """Returns `Data` of the shapes of every piece."""
    return self._data

  def visit(self, order):
    """Yields the `Data` of each of these pieces."""
    for _ in order:
      yield self._data


class Pieces:
  """A split of which pieces visit the devices; see `Whole`.

  Attributes:
    count: how many there are.
  """

  def __init__(self, split, buckets, mesh, dtype, budget):
    """
    Args:
      split: `data.corpus.Split`.
      buckets: shapes into which it will be cut.
      mesh: of `population.member_mesh`.
      dtype: of features on the devices.
      budget: bytes of features on each device, of two pieces together.

    Raises:
      ValueError: an utterance and the longest batch's padding do not fit.
    """
    self._split, self._buckets, self._mesh = split, buckets, mesh
    self._dtype = np.dtype(dtype)
    row = batches.ROW * split.features.shape[1] * self._dtype.itemsize
    rows_u = batches.rows_of(split.frames_u)
    spare = int(batches.rows_of(buckets[-1].frames))
    most = int(budget / 2) // row - spare
    if most < rows_u.max():
      raise ValueError(
        f'pieces of {budget / 2e9:g} GB do not hold the longest utterance; '
        f'twice {(spare + int(rows_u.max())) * row / 1e9:.3g} GB would'
      )
    # A drawn order, cut into pieces of about equally many rows.
    order_n = np.random.default_rng(0).permutation(len(rows_u))
    end_n = np.cumsum(rows_u[order_n])
    count = -(-int(end_n[-1]) // most)
    while True:
      cut = np.linspace(0, end_n[-1], count + 1)[1:-1]
      self._pieces = np.split(order_n, np.searchsorted(end_n, cut))
      rows = [int(rows_u[piece].sum()) for piece in self._pieces]
      if max(rows) <= most:
        break
      count += 1
    self.count = count
    self._most = max(rows) * batches.ROW, max(map(len, self._pieces))
    self._reader = concurrent.futures.ThreadPoolExecutor(1)

  def utterances(self, piece):
    return self._pieces[piece]

  def order(self, epoch):
    entropy = np.random.SeedSequence((epoch, self.count, 0))
    return np.random.default_rng(entropy).permutation(self.count)

  def example(self):
    return self._sent(0)

  def visit(self, order):
    ahead = [self._reader.submit(self._sent, piece) for piece in order[:1]]
    for following in [*order[1:], None]:
      data = ahead.pop().result()
      if following is not None:
        ahead.append(self._reader.submit(self._sent, following))
      yield data
      # It must go before the one after the next comes.
      del data

  def _sent(self, piece):
    frames, utterances = self._most
    data = batches.device_data(
      self._split,
      self._buckets,
      frames - utterances * batches.ROW,
      utterances,
      self._dtype,
      self._pieces[piece],
    )
    return population.on_all(data, self._mesh)


def of(split, buckets, mesh, dtype, budget=None):
  """Returns a split as the devices have it; whole without a budget."""
  if budget is None:
    return Whole(split, buckets, mesh, dtype)
  return Pieces(split, buckets, mesh, dtype, budget)
