"""Architectures trained from scratch, each (architecture, seed) once."""

import numpy as np
from common import jobs


class Lab:
  """Trains architectures, or finds that they were trained already.

  Rows stand in the table of `out`; those of a benchmark table of the same
  space, macro network, recipe and corpus are taken as they are.
  """

  def __init__(self, work, out, benchmark=None):
    self._work, self._out = work, out
    self.benchmark = None if benchmark is None else self._select(benchmark)
    self._own = self._read()

  def train(self, pairs, say):
    """Trains what of the (architecture, seed) pairs is missing."""
    job = self._work.job
    pairs = {(tuple(int(d) for d in arch), seed) for arch, seed in pairs}
    missing = sorted(pair for pair in pairs if self._row(*pair) is None)
    if not missing:
      return
    say(f'training {len(missing)} networks from scratch')
    jobs.train(self._work, job, missing, len(missing), self._out)
    self._own = self._read()

  def has(self, arch, seed):
    """Tells whether an architecture was trained with a seed."""
    return self._row(tuple(int(d) for d in arch), seed) is not None

  def value(self, arch, seed, column, metric=None):
    """Returns one number of a network that was trained.

    `metric` is which error rate a column of them means; None for what decides.

    'val_per' is the lowest of the epochs; a network that failed has 1.0 for
    its error rates.
    """
    rows = self._row(tuple(int(d) for d in arch), seed)
    epoch = 'best' if column == 'val_per' else None
    found = rows.query(
      np.asarray(arch, np.int8), column, seed=seed, epoch=epoch, metric=metric
    )
    if column.endswith('per') and not np.isfinite(found):
      return 1.0
    return float(found)

  def word_errors(self, archs, seeds):
    """Returns the test WER of each architecture, the mean over seeds.

    Of one architecture, one for each seed; a network that failed has 1.0. None
    where transcripts say nothing of words, or a table nothing of their errors.
    """
    from nasjax.decoding import metrics

    units = metrics.Units(tuple(self._work.corpus.symbols))
    if 'wer' not in metrics.beside(self._work.job.metric.lower(), units):
      return None
    rate_as = np.array([[self._word_error(a, s) for s in seeds] for a in archs])
    if np.isnan(rate_as).any():
      return None
    return (rate_as[0] if len(rate_as) == 1 else rate_as.mean(1)).tolist()

  def _word_error(self, arch, seed):
    rows = self._row(tuple(int(d) for d in arch), seed)
    key = self._work.job.space.semantic_key(np.asarray(arch, np.int8))
    at = np.flatnonzero(
      (rows.column('semantic_key') == key) & (rows.column('seed') == seed)
    )[0]
    return rows.rates('wer')[at] if rows.column('status')[at] == 'ok' else 1.0

  def _read(self):
    """Returns the rows that were trained here, or None."""
    from nasjax import table

    if not table.committed(self._out / 'table'):
      return None
    return self._select(table.open(self._out, verify=False))

  def _row(self, arch, seed):
    """Returns the table that has a row of this network, or None."""
    job = self._work.job
    key = job.space.semantic_key(np.array(arch, np.int8))
    for rows in (self.benchmark, self._own):
      if rows is None:
        continue
      same = rows.column('semantic_key') == key
      if (same & (rows.column('seed') == seed)).any():
        return rows
    return None

  def _select(self, rows):
    """Returns the rows of this very job, or None."""
    from nasjax import table
    from nasjax.benchmark.rows import recipe_json

    job = self._work.job
    try:
      found = jobs.rows(job, rows)
    except table.MissingEntryError:
      return None
    texts = set(found.column('recipe_json'))
    if texts - {recipe_json(job)}:
      raise ValueError(
        f'a table has rows of another recipe named {job.recipe.name!r}; give '
        'another --recipe_name'
      )
    return found
