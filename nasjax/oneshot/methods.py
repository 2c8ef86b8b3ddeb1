"""The one-shot methods: gates, modes and the numbers of their papers."""

import dataclasses
from collections.abc import Callable

from nasjax.oneshot import estimators


@dataclasses.dataclass(frozen=True)
class Method:
  """What tells one method from another; training is shared.

  Attributes:
    name: of the method.
    estimator: of `gates`, of both kinds of steps.
    arch_mode: `mixing` mode of the steps that update architecture parameters.
    weight_mode: that of the steps that update weights.
    single_level: whether both are updated from one loss on one batch.
    order: 1, or 2 for DARTS's unrolled gradient.
    differences: whether `order` 2 takes central differences, as the released
      code of DARTS does, for the exact product.
    warm_up: estimator of the weight steps of warm-up.
    temperature: first and last temperature.
    cooling: `estimators.exponential` or `estimators.linear`.
    alpha_lr, alpha_betas, alpha_decay: Adam of the architecture parameters;
      decay is added to the gradient.
    alpha_init: standard deviation of their first values.
    arch_every: an architecture step comes before each so many-th weight step.
    rest_epochs: first epochs of the search that have none, as in the released
      code of ProxylessNAS.
    held_out: share of the training utterances kept for architecture steps; 0
      where there are none, so that a `soft` search trains with all.
    replay: whether passes over these repeat the order of the first one, as the
      released code of ST-NAS does.
    rest_at_zero: whether an edge whose active candidate is zero gets no
      architecture gradient, as in the released code of ProxylessNAS.
    derive_zero: whether the zero operation may be what is found.
    keep_optimiser: whether the search goes on with the weights, the optimiser,
      the rate and the best loss of the last epoch of warm-up that improved; the
      paper of ST-NAS resets all but the weights, its code does not.
    derive_improved: whether the architecture of the last epoch that improved is
      taken, as in the code of ST-NAS, for that of the last.
    latency: `expected.Latency` that architecture steps mind, None for none.
    soft: whether the mixture itself is the network that is found, as in
      DARTS-ASR: it is judged after every epoch, and what is derived from it
      stands beside it. Without `held_out` its validation loss decides on rates.
  """

  name: str
  estimator: Callable
  arch_mode: str
  weight_mode: str
  single_level: bool = False
  order: int = 1
  differences: bool = False
  warm_up: Callable = estimators.uniform
  temperature: tuple[float, float] = (1.0, 1.0)
  cooling: Callable = estimators.exponential
  alpha_lr: float = 3e-4
  alpha_betas: tuple[float, float] = (0.5, 0.999)
  alpha_decay: float = 1e-3
  alpha_init: float = 1e-3
  arch_every: int = 1
  rest_epochs: int = 0
  held_out: float = 0.5
  replay: bool = False
  rest_at_zero: bool = False
  derive_zero: bool = True
  keep_optimiser: bool = False
  derive_improved: bool = False
  latency: object = None
  soft: bool = False

  def __post_init__(self):
    if self.order not in (1, 2):
      raise ValueError(f'{self.name}: order {self.order}; want 1 or 2')
    if self.order == 2 and (
      self.single_level or (self.arch_mode, self.weight_mode) != ('mixed',) * 2
    ):
      raise ValueError(
        f'{self.name}: the second order is that of mixed candidates on two '
        "levels; give arch_mode='mixed', weight_mode='mixed', "
        'single_level=False'
      )
    mixes = (self.arch_mode, self.weight_mode) == ('mixed',) * 2
    if self.soft and not mixes:
      raise ValueError(
        f'{self.name}: a soft network has all candidates; give '
        "arch_mode='mixed', weight_mode='mixed'"
      )

  @property
  def sampled(self):
    """Whether weight steps run one candidate an edge."""
    return self.weight_mode != 'mixed'

  @property
  def bilevel(self):
    """Whether there are architecture steps on held-out batches."""
    return self.arch_every > 0 and not self.single_level

  @property
  def judges_itself(self):
    """Whether validation decides, and no utterances are held out for it."""
    return self.soft and not self.bilevel and not self.held_out

  @property
  def searches(self):
    """Whether anything is learnt of architectures at all."""
    return self.single_level or self.arch_every > 0

  def describe(self):
    """Returns it as plain values, for JSON."""
    found = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      # Came later: others are described as they always were.
      if field.name not in ('soft', 'latency') or getattr(self, field.name)
    }
    if self.latency is not None:
      found['latency'] = dataclasses.asdict(self.latency)
    for name in ('estimator', 'warm_up', 'cooling'):
      found[name] = found[name].__name__
    return found

  @property
  def passes(self):
    """Gradients that an architecture step computes: 4 in the second order.

    Of the training loss for the step unrolled, of the held-out loss there, and
    two for the mixed second derivative.
    """
    return 4 if self.order == 2 else 1


DARTS = Method(
  'darts',
  estimators.softmax,
  'mixed',
  'mixed',
  warm_up=estimators.softmax,
  derive_zero=False,
)
DARTS_SECOND = dataclasses.replace(DARTS, name='darts_second', order=2)
DARTS_DIFFERENCES = dataclasses.replace(
  DARTS_SECOND, name='darts_differences', differences=True
)
SNAS = Method(
  'snas',
  estimators.gumbel_softmax,
  'mixed',
  'mixed',
  single_level=True,
  warm_up=estimators.softmax,
  temperature=(1.0, 0.03),
  held_out=0.1,
)
PROXYLESS = Method(
  'proxyless',
  estimators.binary,
  'recomputed',
  'path',
  alpha_lr=1e-3,
  alpha_betas=(0.0, 0.999),
  alpha_decay=0.0,
  arch_every=5,
  rest_epochs=1,
)
PROXYLESS_FULL = dataclasses.replace(
  PROXYLESS, name='proxyless_full', arch_mode='straight'
)
PROXYLESS_TWO = dataclasses.replace(
  PROXYLESS,
  name='proxyless_two',
  estimator=estimators.binary_pair,
  arch_mode='pair',
)
GDAS = Method(
  'gdas',
  estimators.gdas,
  'scaled',
  'path',
  temperature=(10.0, 0.1),
  cooling=estimators.linear,
)
# With the weights of candidates that do not run, which the released code adds.
GDAS_CODE = dataclasses.replace(
  GDAS, name='gdas_code', estimator=estimators.gdas_all, arch_mode='scaled_sum'
)
ST_NAS = Method(
  'st_nas',
  estimators.straight_through,
  'straight',
  'path',
  alpha_lr=1e-3,
  alpha_betas=(0.9, 0.999),
  alpha_decay=0.0,
  alpha_init=0.0,
  held_out=0.1,
)
# The released code: another rate, held-out batches in the same order again,
# the state of warm-up kept, and what the last improvement had is derived.
ST_NAS_CODE = dataclasses.replace(
  ST_NAS,
  name='st_nas_code',
  alpha_lr=5e-3,
  replay=True,
  keep_optimiser=True,
  derive_improved=True,
)
# Chen et al. 2020, section 3: one loss for both, all weights from zero.
DARTS_ASR = Method(
  'darts_asr',
  estimators.softmax,
  'mixed',
  'mixed',
  single_level=True,
  warm_up=estimators.softmax,
  alpha_lr=1e-4,
  alpha_init=0.0,
  held_out=0.0,
  soft=True,
)
# On two levels, as DARTS has it.
DARTS_ASR_BILEVEL = dataclasses.replace(
  DARTS_ASR, name='darts_asr_bilevel', single_level=False, held_out=0.5
)
# Weights alone: a supernet that is trained and never searched.
UNIFORM = Method('uniform', estimators.uniform, 'path', 'path', arch_every=0)

METHODS = {
  m.name: m
  for m in (
    DARTS, DARTS_SECOND, DARTS_DIFFERENCES, SNAS, PROXYLESS, PROXYLESS_FULL,
    PROXYLESS_TWO, GDAS, GDAS_CODE, ST_NAS, ST_NAS_CODE, DARTS_ASR,
    DARTS_ASR_BILEVEL, UNIFORM,
  )
}  # fmt: skip
