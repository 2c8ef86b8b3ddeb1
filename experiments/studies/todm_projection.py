"""What a study of elastic networks would cost: by formula, or timed here.

By formula there need be neither corpus nor device: multiply-accumulates of a
mean utterance, the chip's published peak, and the share of it that training is
said to reach.
"""

from typing import NamedTuple

from nasjax.models.todm import cost as todm_cost
from nasjax.models.todm import family as todm_family
from nasjax.spaces import todm as todm_spaces

# What backward passes cost, forward passes being 1: of products twice as much,
# and joiners are computed again, chunk by chunk.
_TRAINED, _JOINED = 3, 4
# Students see a quarter of the batch each.
STUDENTS, QUARTER = 3, 0.25


class Speech(NamedTuple):
  """A corpus in four numbers.

  Attributes:
    hours: of speech, of the training split.
    utterances: of it.
    labels: mean number of an utterance.
    epochs: of training.
  """

  hours: float
  utterances: int
  labels: float
  epochs: int

  @property
  def frames(self):
    """Mean frames of an utterance, 10 ms each."""
    return max(1, round(self.hours * 360_000 / self.utterances))


def flops(space, arch, macro, frames, labels):
  """Returns FLOPs of an utterance in training: of the network, of its joiner.

  A multiply-accumulate is two; the joiner is that of one pass forward, which
  distillation adds to.
  """
  built = todm_family.encoder(macro, todm_spaces.widths(space, arch))
  frames = macro.output_frames(frames)
  body = todm_cost.encoder_macs(built, macro.features, frames)
  joiner = 0
  if macro.transduces:
    predictor = todm_family.predictor(macro)
    body += (labels + 1) * todm_cost.predictor_macs(predictor)
    joiner = frames * (labels + 1) * macro.joined * macro.outputs
  return 2.0 * body, 2.0 * joiner


def training(space, macro, speech, supernet, distilled):
  """Returns the FLOPs of a whole training, padding and decoding left out.

  Args:
    space, macro: of the networks.
    speech: `Speech`.
    supernet: whether it is a sandwich of four, or the largest network alone.
    distilled: whether students are held against the largest one's scores.
  """

  def one(arch):
    return flops(space, arch, macro, speech.frames, speech.labels)

  largest, smallest = (
    one(pick(space)) for pick in (todm_spaces.largest, todm_spaces.smallest)
  )
  total = _TRAINED * largest[0] + _JOINED * largest[1]
  if supernet:
    # The two that are drawn are as large as the mean of the two others.
    body = smallest[0] + (largest[0] + smallest[0])
    total += QUARTER * (_TRAINED * body + _JOINED * STUDENTS * largest[1])
    if distilled:
      # Teachers' scores are computed with those of students, twice.
      total += QUARTER * STUDENTS * 2 * largest[1]
  return total * speech.utterances * speech.epochs


def memory(space, macro, params, batch, frames, labels, working):
  """Returns bytes that a step takes at least, float32.

  Weights, their gradients and two moments; of every layer of the largest
  encoder what its gradient needs, ten numbers a channel and frame; what the
  loss says of itself.
  """
  frames = macro.output_frames(frames)
  layers = todm_spaces.layers(space)
  channels = 10 * macro.width + max(map(int, space.choices[0]))
  kept = 4 * batch * frames * layers * channels
  return 16 * params + kept + working


def seconds(total, chip, share):
  """Returns seconds on one chip of a share of its peak for bfloat16."""
  return total / (share * chip.bf16_flops_per_second)
