"""What the flags of device.py ask for, checked before anything is prepared."""

import math
from typing import NamedTuple

import numpy as np
from absl import flags

FLAGS = flags.FLAGS

PREDICTORS = ('operations', 'macs', 'boosting', 'forest')
_FLAGS = {'latency': 'max_latency_ms', 'params': 'max_params'}


class Asked(NamedTuple):
  """A limit as a flag has it.

  Attributes:
    what: 'latency' or 'params'.
    number: milliseconds, parameters, or a share of those of the manual network.
    share: whether it is a share.
    flag: with its value, for people.
  """

  what: str
  number: float
  share: bool
  flag: str


def limit():
  """Returns the `Asked` of the flags.

  Raises:
    ValueError: there is none, there are two, or it is no number above 0.
  """
  given = [what for what, name in _FLAGS.items() if FLAGS[name].value]
  if len(given) != 1:
    which = 'contradict; leave one out' if given else 'are empty; give one'
    raise ValueError(f'--max_latency_ms and --max_params {which}')
  text = FLAGS[_FLAGS[given[0]]].value
  flag = f'--{_FLAGS[given[0]]}={text}'
  share = text.endswith('%')
  try:
    number = float(text.removesuffix('%')) / (100 if share else 1)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise ValueError(f'{flag}: want a number above 0, or a share, as 70%')
  return Asked(given[0], number, share, flag)


def manual(space):
  """Returns the architectures of --manual, `{name: arch}`, int8.

  Raises:
    ValueError: one is none, or two are one network.
  """
  from common import training_flags

  from nasjax.models import families

  family, elastic = families.family(space), families.elastic(space)
  least, most = elastic.smallest(space), elastic.largest(space)
  middle = np.rint((least + most.astype(float)) / 2).astype(np.int8)
  known = {'smallest': least, 'middle': middle, 'largest': most}
  known |= {name: space.parse(a) for name, a in family.baselines.items()}
  words = FLAGS.manual or [next(iter(family.baselines), 'middle'), 'largest']
  found, keys = {}, {}
  for word in words:
    try:
      arch = known.get(word)
      arch = space.parse(training_flags.digits(word)) if arch is None else arch
    except ValueError as e:
      raise ValueError(
        f'--manual={word}: {e}; want {", ".join(known)}, or digits with spaces'
      ) from None
    same = keys.setdefault(space.semantic_key(arch), word)
    if same != word or word in found:
      raise ValueError(f'--manual: {same} and {word} are one network')
    found[word] = arch
  return found


def predictors():
  """Returns the names of the predictors that are tried.

  Raises:
    ValueError: --predictor names none.
  """
  from studies import latency_predictors

  if FLAGS.predictor == 'best':
    return PREDICTORS
  latency_predictors.check('predictor', FLAGS.predictor, 'best')
  return (FLAGS.predictor,)


def options():
  """Returns the `sandwich.Options` of --row.

  Raises:
    ValueError: there is none, or it trains no network but the largest.
  """
  from nasjax.oneshot import sandwich

  able = [name for name, row in sandwich.ROWS.items() if row.others]
  if FLAGS.row not in able:
    raise ValueError(
      f'--row={FLAGS.row}: rows that train smaller networks are '
      f'{", ".join(able)}'
    )
  return sandwich.ROWS[FLAGS.row]


def check(space):
  """Refuses what cannot go all the way.

  Raises:
    ValueError: naming the flag.
  """
  predictors(), options()
  if FLAGS.profiled < max(space.sizes):
    raise ValueError(
      f'--profiled={FLAGS.profiled}: a decision of {space.name} has '
      f'{max(space.sizes)} choices; want as many networks at least'
    )
  if not FLAGS.mutants + FLAGS.crossings:
    raise ValueError('--mutants=0 and --crossings=0: want a child at least')
  if not 0 < FLAGS.mutation_rate <= 1:
    raise ValueError(
      f'--mutation_rate={FLAGS.mutation_rate}: want a probability above 0'
    )
  if FLAGS.clock == 'cpu' and (FLAGS.runtime != 'onnx' or FLAGS.threads > 1):
    raise ValueError('--clock=cpu is of --runtime=onnx and --threads=1')
  if not (FLAGS.export or FLAGS.runtime == 'onnx'):
    return
  from nasjax.export import hearing, onnx

  try:
    onnx.library(), hearing.runtime(), onnx.writer(space)
  except onnx.ExportError as e:
    raise ValueError(f'{e}; or give --noexport --runtime=jax') from None
