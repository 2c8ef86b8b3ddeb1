"""Supernets whose networks are parts of the largest one: TODM's training.

  OUT/supernets/<name>/<epoch>/     orbax: the whole state, of the last epochs
  OUT/supernets/<name>/portable.npz what its networks need to hear and to speak

Shangguan et al. 2023, "TODM: Train Once Deploy Many". In a step (the sandwich
rule: Yu et al. 2020, "BigNAS") the largest network sees the whole batch; the
smallest, and two that are drawn anew, a quarter of it each, no row twice. Their
gradients are summed, and there is one step of the optimiser. The largest may
teach the others in place: what it said in this step of their rows.

Any family with a record `Family.elastic` goes this way, with any criterion that
its networks go with. Killed at any moment, training goes on from its last epoch
and ends with the same weights.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np

from nasjax.layers import ssm
from nasjax.losses import criterion
from nasjax.models import counting, families
from nasjax.oneshot import selection
from nasjax.oneshot.rounding import fake_quantised as fake_quantised
from nasjax.oneshot.sandwich_steps import SHARE
from nasjax.oneshot.sandwich_steps import State as State
from nasjax.oneshot.sandwich_trainer import SupernetTrainer
from nasjax.storage import checkpoints
from nasjax.training import loop, portable, recipes

# Raise when a change of the code changes what is trained.
VERSION = 1
HEADS = ('none', 'ctc', 'own')


@dataclasses.dataclass(frozen=True)
class Options:
  """What of TODM trains a supernet: `ROWS` are those of the paper's table 1.

  Attributes:
    students: networks beside the largest, the first of them the smallest and
      the others drawn, every choice of a decision equally likely; 0 to 4, 0 for
      the largest alone.
    fixed: names of decisions that stay as the largest has them.
    adaptive_dropout: whether a layer of c of m channels drops c / m as much.
    distil: `criterion.Distillation` of students from the largest, or None.
    weight: of the distillation beside a student's loss (lambda).
    late: share of the epochs, the last ones, that ScaledAdam trains, from a
      fresh state; 0 for none.
    late_weight: `weight` in these.
    late_lr: the learning rate of ScaledAdam in the first of them; it then falls
      as the recipe says for epochs behind `start`.
    decay: of weights towards 0 a step of the first optimiser, times the rate
      (decoupled).
    heads: auxiliary outputs of the largest network behind the layers where a
      smaller one may end: 'ctc', on frames alone; 'own', of the recipe's loss;
      'none'.
    head_weight: of the mean of their losses.
    selection: 'drawn'; or of `selection.METHODS`: students between the smallest
      and the largest are those of the best parts, in equal steps of parameters.
    selection_rate: by how much scores of parts move an epoch.
    paths: whether a step is of one network, drawn anew, every choice equally
      likely, that sees the whole batch (Guo et al. 2020, "Single Path
      One-Shot"): no largest one, and no students.
  """

  students: int = 3
  fixed: tuple[str, ...] = ()
  adaptive_dropout: bool = False
  distil: criterion.Distillation | None = None
  weight: float = 1.0
  late: float = 0.0
  late_weight: float = 0.1
  late_lr: float = 0.045
  decay: float = 0.0
  heads: str = 'none'
  head_weight: float = 0.3
  selection: str = 'drawn'
  selection_rate: float = 1.0
  paths: bool = False

  def __post_init__(self):
    checks = {
      'students': 0 <= self.students <= SHARE,
      'weight': self.weight >= 0,
      'late': 0 <= self.late < 1,
      'late_weight': self.late_weight >= 0,
      'late_lr': self.late_lr > 0,
      'decay': self.decay >= 0,
      'heads': self.heads in HEADS,
      'head_weight': self.head_weight >= 0,
      'selection': self.selection in ('drawn', *selection.METHODS),
      'selection_rate': self.selection_rate > 0,
    }
    for field, good in checks.items():
      if not good:
        raise ValueError(f'{field}={getattr(self, field)!r} is out of range')
    if self.distil is not None:
      # They say what is wrong with it.
      _ = self.distil.function, self.distil.symbols
      if not self.students:
        raise ValueError('distil is without effect where students=0')
    if self.selects and self.students < 2:
      raise ValueError(
        f'selection={self.selection!r} is without effect where students='
        f'{self.students}: there is none between the smallest and the largest'
      )

    if self.paths and (self.students or self.heads != 'none'):
      raise ValueError(
        f'paths goes without others: want students=0 and heads={HEADS[0]!r}, '
        f'not {self.students} and {self.heads!r}'
      )

  @property
  def others(self):
    """How many networks of a step are not the largest: students, or a path."""
    return 1 if self.paths else self.students

  @property
  def selects(self):
    """Whether scores choose the middle-sized networks."""
    return self.selection != 'drawn'

  def epochs(self, total):
    """Returns how many of so many epochs the first optimiser trains."""
    return total - round(self.late * total)


_ADAPTIVE = Options(adaptive_dropout=True)
_KL = dataclasses.replace(_ADAPTIVE, distil=criterion.Distillation('kl'))
_ALPHA = dataclasses.replace(_ADAPTIVE, distil=criterion.Distillation('alpha'))
# Rows of table 1, each what the one above has and one thing more; A1 is
# networks trained alone. A2 and A3 train the largest one, with heads. What is
# called exits are networks that end early (Wang et al. 2025, "Splitformer");
# topk and orthosoftmax choose their networks (`selection`) at equal updates;
# paths draws one a step, and trains no largest.
ROWS = {
  'A2': Options(students=0, heads='ctc'),
  'A3': Options(students=0, heads='own'),
  'B0': Options(fixed=('depth',)),
  'B1': Options(),
  'C': _ADAPTIVE,
  'D': _KL,
  'E': _ALPHA,
  'F': dataclasses.replace(_ALPHA, late=1 / 3),
  'exits': Options(students=0, heads='own', head_weight=1.0),
  'topk': dataclasses.replace(_ADAPTIVE, selection='topk'),
  'orthosoftmax': dataclasses.replace(_ADAPTIVE, selection='orthosoftmax'),
  'paths': Options(students=0, paths=True),
}


def forwards(options):
  """Returns how many forward passes of a whole batch a step takes.

  1 + 3 / 4 for the sandwich of four; in passes of networks, whatever their
  sizes.
  """
  return 1 + options.students / SHARE


def multiply_accumulates(training, frames=200):
  """Returns those of a step's forward passes for each utterance of a batch.

  Args:
    training: `Training`.
    frames: of an utterance.

  Returns:
    float: the largest network's, and a quarter of each student's, those that
    are drawn having the mean of a few hundred.
  """
  space, macro = training.space, training.macro
  count = families.family(space).macs or counting.macs
  macs = functools.partial(count, space, macro=macro, frames=frames)
  students = training.options.students
  if training.options.others:
    drawn = training.drawn(np.random.default_rng(0), 300)
    mean = np.mean([macs(arch) for arch in drawn])
  if training.options.paths:
    return float(mean)
  total = float(macs(training.largest))
  if students:
    total += (macs(training.smallest) + (students - 1) * mean) / SHARE
  return total


@dataclasses.dataclass(frozen=True)
class Training:
  """All that determines a supernet's weights, but for the corpus.

  Attributes:
    space: `spaces.Space` of an elastic family.
    macro: its macro network.
    recipe: `Recipe`: epochs, the first optimiser, batches, dropout, loss.
    options: `Options`.
    seed: of weights, draws, dropout and data order.
  """

  space: object
  macro: object
  recipe: recipes.Recipe
  options: Options = Options()
  seed: int = 1234

  def __post_init__(self):
    self.network()  # says what does not go together
    for name in self.options.fixed:
      if name not in self.space.fields:
        raise ValueError(
          f'fixed: {name!r} is no decision of space {self.space.name}; there '
          f'are {", ".join(self.space.fields)}'
        )
    held = criterion.of(self.recipe)
    if self.options.distil is not None and held.distilled is None:
      raise ValueError(
        f'recipe {self.recipe.name}: loss={self.recipe.loss!r} knows of no '
        'distillation; leave distil out'
      )
    distil, outputs = self.options.distil, self.macro.outputs
    if distil is not None and (distil.symbols or 2) >= outputs:
      raise ValueError(
        f'distil: {distil.symbols or 2} of {outputs} outputs leave no rest; '
        'give a smaller count, as --ablation=kl_top2 does, or rows that do not '
        'distil, as --rows=B1,C'
      )
    if self.recipe.consistency:
      raise ValueError(
        f'recipe {self.recipe.name}: consistency={self.recipe.consistency!r} '
        'is of single networks; a supernet wants 0'
      )
    if self.options.selects and not self.parts:
      raise ValueError(
        f'selection={self.options.selection!r}: nobody has told what parts '
        f'networks of space {self.space.name} are made of'
      )
    if self.options.heads != 'none' and not self.exits:
      raise ValueError(
        f'heads={self.options.heads!r}: networks of space {self.space.name} '
        'end nowhere but behind the last layer'
      )
    if self.recipe.patience or self.recipe.curriculum:
      raise ValueError(
        f'recipe {self.recipe.name}: patience={self.recipe.patience} and '
        f'curriculum={self.recipe.curriculum} are of single networks; a '
        'supernet wants 0 and none, --patience=0 --curriculum='
      )

  @property
  def elastic(self):
    return families.elastic(self.space)

  @property
  def exits(self):
    """Layers where there is a head."""
    if self.options.heads == 'none':
      return ()
    return self.elastic.exits(self.space)

  @property
  def parts(self):
    """What makes networks larger, of decisions that are not fixed."""
    fields, fixed = self.space.fields, self.options.fixed
    parts = map(selection.Part._make, self.elastic.parts(self.space))
    return tuple(part for part in parts if fields[part.decision] not in fixed)

  @property
  def largest(self):
    return self.elastic.largest(self.space)

  @property
  def smallest(self):
    """The smallest architecture that is trained, int8."""
    return self._fixed(self.elastic.smallest(self.space)[None])[0]

  def _fixed(self, archs_nd):
    here = [self.space.fields.index(name) for name in self.options.fixed]
    archs_nd = archs_nd.copy()
    archs_nd[:, here] = self.largest[here]
    return archs_nd

  def drawn(self, rng, count):
    """Draws so many architectures, every choice equally likely; int8 [n, d]."""
    sizes = np.array(self.space.sizes)
    drawn = rng.integers(0, sizes, (count, len(sizes)))
    return self._fixed(drawn.astype(np.int8))

  def params(self, arch):
    """Counts the parameters of a network by itself."""
    count = families.family(self.space).params or counting.params
    return count(self.space, arch, self.macro)

  def selected(self, scores, most):
    """Returns the architecture that scores choose, of at most so many weights.

    Args:
      scores: of `selection`.
      most: parameters.

    Raises:
      ValueError: even the smallest network has more.
    """
    if self.params(self.smallest) > most:
      raise ValueError(
        f'no network of {most:,} parameters: the smallest has '
        f'{self.params(self.smallest):,}'
      )
    return selection.grown(
      self.options.selection,
      scores,
      self.space,
      self.smallest,
      self.parts,
      lambda arch_d: self.params(arch_d) <= most,
    )

  def network(self):
    """Returns the module that all networks are parts of."""
    exits = ()
    if self.options.heads != 'none':
      exits = self.exits
    return families.elastic_network(
      self.space,
      self.macro,
      self.recipe,
      self.options.adaptive_dropout,
      exits,
    )

  def describe(self):
    """Returns it as plain values, for JSON."""
    options = dataclasses.asdict(self.options)
    if not self.options.paths:
      del options['paths']  # Names are older than it.
    if self.options.distil is not None:
      options['distil'] = self.options.distil._asdict()
    if self.options.late:
      options['plain'] = list(ssm.DYNAMICS)  # what ScaledAdam does not scale
    return {
      'space': self.space.name,
      'macro': dataclasses.asdict(self.macro),
      'recipe': recipes.describe(self.recipe),
      'options': options,
      'seed': self.seed,
    }

  def name(self, fingerprint):
    """Returns the name of the supernet on a corpus of this fingerprint."""
    content = self.describe() | {'corpus': fingerprint, 'version': VERSION}
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place_of(training, fingerprint, out):
  """Returns the directory of a supernet's checkpoints."""
  return pathlib.Path(out) / 'supernets' / training.name(fingerprint)


def run(
  training,
  prepared,
  fingerprint,
  out,
  on_epoch=lambda epoch, history, resumed: None,
  say=print,
):
  """Trains a supernet, or what is left of it.

  Args:
    training: `Training`.
    prepared: of `trainer.device_corpus`.
    fingerprint: of the corpus.
    out: directory of the run.
    on_epoch: called with an epoch, `State.history`, and whether the epoch was
      read from a checkpoint, after every epoch.
    say: called with a line of text when a checkpoint cannot be restored.

  Returns:
    `SupernetTrainer`, at its last epoch.

  Raises:
    ValueError: a loss or a gradient is not finite. So does every further call.
  """
  trainer = SupernetTrainer(training, prepared)
  place = place_of(training, fingerprint, out)
  about = training.describe() | {'corpus': fingerprint}
  portable.keep(place, prepared, about)

  def tell(epoch, host, resumed):
    on_epoch(epoch, host.history, resumed)

  epochs = training.recipe.epochs
  host = loop.run(trainer, place, epochs, about, tell, say)
  if trainer.state is None or trainer.epochs_done < epochs:
    trainer.resume(host)
  if not host.alive:
    raise ValueError(
      f'supernet of {training.macro.name}, seed {training.seed}, diverged '
      f'behind step {int(host.step)}: a loss or a gradient is not finite; '
      'give a lower learning rate, or clip gradients, in another directory'
    )
  return trainer


def restore(training, prepared, fingerprint, out, say=print):
  """Returns the `SupernetTrainer` of a supernet that was trained.

  Raises:
    ValueError: there is no checkpoint of it.
  """
  trainer = SupernetTrainer(training, prepared)
  place = place_of(training, fingerprint, out)
  with checkpoints.manager(place) as manager:
    epoch, host, _ = checkpoints.restore(manager, place, trainer.target(), say)
  if not epoch:
    raise ValueError(f'{place} has no checkpoint that can be restored')
  trainer.resume(host)
  return trainer
