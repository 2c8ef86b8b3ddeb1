"""The released NAS-Bench-ASR files, read without trust, and as our table.

  done = published.convert('nb-asr/', 'results/released', convention='paper')
  t = table.open(done.path)

See `plain` for what a file may contain, `files` for their form, `converting`
for the two ways of reading their digits.
"""

from nasjax.published.converting import (
  CONVENTIONS,
  Conversion,
  Latencies,
  cells,
  convert,
  latencies,
  undilated,
)
from nasjax.published.files import Record, read
from nasjax.published.plain import PublishedError

__all__ = [
  'CONVENTIONS',
  'Conversion',
  'Latencies',
  'PublishedError',
  'Record',
  'cells',
  'convert',
  'latencies',
  'read',
  'undilated',
]
