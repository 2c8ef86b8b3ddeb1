"""Macro networks: the numbers of a network, beside its architecture.

No JAX is imported here: flags name macro networks before anything is.
"""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Cells:
  """The numbers of a macro network (Mehrotra et al. 2021, section 3.1).

  Attributes:
    name: what tables call it.
    filters: channels of each block.
    cells: cells of each block.
    strides: of the convolution that opens each block.
    lstm: hidden units; 0 leaves the LSTM out.
    outputs: symbols, one of which (0) is the CTC blank.
    groups: of the cells' convolutions.
    kernel: taps of the blocks' convolutions.
    features: input channels.
    epsilon: of the layer normalisations.
  """

  name: str
  filters: tuple[int, ...]
  cells: tuple[int, ...]
  strides: tuple[int, ...]
  lstm: int
  outputs: int = 48
  groups: int = 100
  kernel: int = 8
  features: int = 80
  epsilon: float = 1e-3

  def __post_init__(self):
    if not len(self.filters) == len(self.cells) == len(self.strides) > 0:
      raise ValueError(
        f'macro {self.name}: filters {self.filters}, cells {self.cells} and '
        f'strides {self.strides} must have one number for each block'
      )
    sizes = (*self.filters, *self.cells, *self.strides, self.outputs)
    sizes += (self.groups, self.kernel, self.features)
    if min(sizes) < 1 or self.lstm < 0:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')
    for stride in self.strides:
      if self.kernel % stride:
        raise ValueError(
          f'macro {self.name}: kernel {self.kernel} is not a multiple of '
          f'stride {stride}'
        )
    for width in self.filters:
      if width % self.groups:
        raise ValueError(
          f'macro {self.name}: {width} filters do not divide into '
          f'{self.groups} groups'
        )

  @property
  def layers(self):
    """Layers with weights: one that opens a block, three a cell, and so on."""
    blocks = len(self.filters) + 3 * sum(self.cells)
    return blocks + (self.lstm > 0) + 1

  @property
  def channels(self):
    """Channels of the layers, each number once."""
    return tuple(dict.fromkeys(self.filters))

  @property
  def reduction(self):
    """Input frames for each output frame."""
    product = 1
    for stride in self.strides:
      product *= stride
    return product

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    for stride in self.strides:
      frames = -(-frames // stride)
    return frames

  def with_outputs(self, outputs):
    """The same network with another output alphabet."""
    return dataclasses.replace(self, outputs=outputs)


# 48 outputs give the published parameter counts (one of them the blank);
# the released code itself makes 49: 48 phones and the blank.
NB_ASR = Cells(
  'nb_asr', (600, 800, 1000, 1200), (3, 4, 5, 6), (1, 1, 2, 2), 500
)
NB_ASR_49 = dataclasses.replace(NB_ASR, name='nb_asr_49', outputs=49)
# For LibriSpeech: 780 sub-words and the blank.
NB_ASR_WORDS = dataclasses.replace(NB_ASR, name='nb_asr_words', outputs=781)
SMALL = dataclasses.replace(NB_ASR, name='small', filters=(100, 100, 200, 200))
# Early subsampling and one cell a block: real speech on two cores.
COMPACT = Cells('compact', (100, 100, 100), (1, 1, 1), (2, 2, 1), 100)
QUICK = Cells('quick', (64, 64), (1, 1), (2, 2), 64, groups=64)
TINY = Cells('tiny', (16, 16), (1, 1), (2, 2), 16, groups=8)


@dataclasses.dataclass(frozen=True)
class Tdnn:
  """The numbers of a network, beside its blocks.

  Attributes:
    name: what tables call it.
    width: channels of every layer.
    before, after: blocks before and after the subsampling layer.
    subsampling: kernel and stride of that layer.
    outputs: symbols, one of which (0) is the CTC blank.
    features: input channels.
    epsilon: of the layer normalisations; None leaves them out.
  """

  name: str
  width: int = 640
  before: int = 3
  after: int = 3
  subsampling: int = 3
  outputs: int = 72
  features: int = 120
  epsilon: float | None = 1e-5

  def __post_init__(self):
    sizes = (self.width, self.subsampling, self.outputs, self.features)
    blocks = self.before, self.after
    if min(*sizes, sum(blocks)) < 1 or min(blocks) < 0:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')

  @property
  def layers(self):
    """Layers with weights: blocks, what subsamples, and the output."""
    return self.before + self.after + 2

  @property
  def channels(self):
    """Channels of the layers."""
    return (self.width,)

  @property
  def reduction(self):
    """Input frames for each output frame."""
    return self.subsampling

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    return -(-frames // self.subsampling)

  def with_outputs(self, outputs):
    """The same network with another output alphabet."""
    return dataclasses.replace(self, outputs=outputs)


@dataclasses.dataclass(frozen=True)
class _Planes:
  """What networks have in common whose features are a plane.

  The front end reads time and frequency as two axes of a plane; layers of
  LSTMs in both directions and a linear output follow.

  Attributes:
    name: what tables call it.
    lstm: hidden units of each direction.
    lstms: layers of them.
    outputs: symbols, one of which (0) is the CTC blank.
    features: of a frame, the height of the plane.
    heads: of several languages the symbols of each one's own linear output, the
      blank among them; no more than `outputs`. None for one output of all.
    stride: of the projection before the front end, along both axes; 1 in the
      paper.
    epsilon: of batch normalisations.
    momentum: weight of a batch in their running statistics.
  """

  name: str
  lstm: int = 360
  lstms: int = 3
  outputs: int = 48
  features: int = 83
  heads: tuple[int, ...] = ()
  stride: int = 1
  epsilon: float = 1e-5
  momentum: float = 0.1

  def __post_init__(self):
    sizes = (self.lstm, self.lstms, self.outputs, self.features, self.stride)
    if min(*sizes, *self.widths, *self.heads) < 1 or not 0 < self.momentum <= 1:
      raise ValueError(f'macro {self.name}: a size is out of range in {self}')
    if self.heads and max(self.heads) > self.outputs:
      raise ValueError(
        f'macro {self.name}: heads {self.heads} have more than the '
        f'{self.outputs} outputs; give outputs={max(self.heads)}'
      )

  @property
  def languages(self):
    """How many linear outputs there are."""
    return max(1, len(self.heads))

  @property
  def channels(self):
    """Channels of the front end, each number once, and of the LSTMs."""
    return tuple(dict.fromkeys((*self.widths, 2 * self.lstm)))

  def with_outputs(self, outputs):
    """The same network with another output alphabet."""
    return dataclasses.replace(self, outputs=outputs)

  def with_heads(self, heads):
    """The same network with an output for each language, of so many symbols."""
    heads = tuple(heads)
    return dataclasses.replace(self, outputs=max(heads), heads=heads)


@dataclasses.dataclass(frozen=True)
class Graph(_Planes):
  """The numbers of a network whose front end is a dense graph.

  Attributes:
    width: channels of every node.
  """

  width: int = 32

  @property
  def widths(self):
    """Channels of the front end."""
    return (self.width,)

  @property
  def layers(self):
    """Layers with weights on the way through all nodes of DARTS-ASR."""
    return 1 + 5 + self.lstms + 1

  @property
  def reduction(self):
    """Input frames for each output frame."""
    return self.stride

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    return -(-frames // self.stride)


@dataclasses.dataclass(frozen=True)
class Vgg(_Planes):
  """The numbers of a network behind VGG: twice two convolutions and a pool.

  Attributes:
    small, large: channels of the convolutions of the two front ends.
  """

  small: int = 128
  large: int = 512

  @property
  def widths(self):
    """Channels of the front ends."""
    return self.small, self.large

  @property
  def layers(self):
    """Layers with weights."""
    return (self.stride > 1) + 4 + self.lstms + 1

  @property
  def reduction(self):
    """Input frames for each output frame."""
    return 4 * self.stride

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    for stride in (self.stride, 2, 2):
      frames = -(-frames // stride)
    return frames


@dataclasses.dataclass(frozen=True)
class Plain:
  """The least that a macro network is: for a family of one's own.

  Attributes:
    name: what tables call it.
    width: channels.
    outputs: symbols, one of which (0) is the CTC blank.
    features: input channels.
    reduction: input frames for each of the output.
  """

  name: str
  width: int = 64
  outputs: int = 48
  features: int = 80
  reduction: int = 4

  def __post_init__(self):
    sizes = self.width, self.outputs, self.features, self.reduction
    if min(sizes) < 1:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    return -(-frames // self.reduction)

  def with_outputs(self, outputs):
    """The same network with another output alphabet."""
    return dataclasses.replace(self, outputs=outputs)


class _Stacked:
  """What networks have in common that put `stacked` frames into one."""

  @property
  def channels(self):
    """Channels of the layers."""
    return (self.width,)

  @property
  def reduction(self):
    """Input frames for each output frame."""
    return self.stacked

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    return -(-frames // self.stacked)

  def with_outputs(self, outputs):
    """The same network with another output alphabet."""
    return dataclasses.replace(self, outputs=outputs)


@dataclasses.dataclass(frozen=True)
class Todm(_Stacked):
  """The numbers of an encoder of TODM, with or without a transducer behind it.

  Attributes:
    name: what tables call it.
    blocks: layers of the largest encoder.
    width: channels of every layer.
    joined: numbers that encoder and predictor have for each other.
    stacked: input frames that become one.
    padded: whether stacked frames are filled up with zeros to `width`, which
      they then may not exceed; a product brings them there if not.
    heads, depth, gate, states, causal: of its layers (`layers.ssm`).
    predictor: 'lstm' or 'stateless', of a transducer; 'none' for an encoder
      with outputs of its own, for CTC.
    predictor_width, predictor_depth: channels and LSTMs of the predictor.
    context: labels that a stateless one knows.
    outputs: symbols, one of which (0) is the blank.
    features: input channels.
  """

  name: str
  blocks: int = 16
  width: int = 512
  joined: int = 1024
  stacked: int = 6
  padded: bool = False
  heads: int = 1
  depth: int = 2
  gate: str = 'none'
  states: int = 32
  causal: bool = False
  predictor: str = 'lstm'
  predictor_width: int = 512
  predictor_depth: int = 3
  context: int = 2
  outputs: int = 4097
  features: int = 80

  def __post_init__(self):
    sizes = (self.blocks, self.width, self.joined, self.stacked, self.heads)
    sizes += (self.depth, self.predictor_width, self.predictor_depth)
    sizes += (self.context, self.outputs, self.features)
    if min(sizes) < 1 or self.states < 2:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')
    if self.predictor not in ('lstm', 'stateless', 'none'):
      raise ValueError(
        f'macro {self.name}: predictor is {self.predictor!r}; it must be lstm, '
        'stateless or none'
      )
    if self.padded and self.stacked * self.features > self.width:
      raise ValueError(
        f'macro {self.name}: {self.stacked} frames of {self.features} features '
        f'are not to be padded to {self.width} channels'
      )

  @property
  def transduces(self):
    """Whether its outputs are those of a transducer."""
    return self.predictor != 'none'

  @property
  def layers(self):
    """Layers with weights of the largest network; a block counts once."""
    behind = 1 + (self.predictor_depth + 3 if self.transduces else 0)
    return (not self.padded) + self.blocks + behind


@dataclasses.dataclass(frozen=True)
class Transducer(_Stacked):
  """The numbers of a transducer whose predictor and joiner are searched.

  Attributes:
    name: what tables call it.
    blocks: layers of the encoder.
    hidden: of the feed-forward part of each.
    width: channels of every layer.
    joined: numbers that encoder and predictor have for each other.
    stacked: input frames that become one.
    depth, states, causal: of its layers (`layers.ssm`).
    outputs: symbols, one of which (0) is the blank.
    features: input channels.
  """

  name: str
  blocks: int = 6
  hidden: int = 256
  width: int = 64
  joined: int = 128
  stacked: int = 4
  depth: int = 2
  states: int = 16
  causal: bool = False
  outputs: int = 49
  features: int = 80
  transduces: ClassVar[bool] = True

  def __post_init__(self):
    sizes = (self.blocks, self.hidden, self.width, self.joined, self.stacked)
    sizes += (self.depth, self.outputs, self.features)
    if min(sizes) < 1 or self.states < 2:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')

  @property
  def layers(self):
    """Layers with weights: a block counts once, a predictor three times.

    What brings frames to the channels, blocks, what leaves the encoder; the
    embedding, one layer and what leaves the predictor; and the joiner.
    """
    return 1 + self.blocks + 1 + 3 + 1


@dataclasses.dataclass(frozen=True)
class Conformer(_Stacked):
  """The numbers of a conformer-like encoder, beside its layers.

  Attributes:
    name: what tables call it.
    blocks: layers of the largest.
    width: channels between layers.
    head: channels of a head of attention, even.
    stacked: input frames that become one before the first layer; an encoder
      halves them once more.
    attention: what frames see of each other: 'full'; to stream 'causal', no
      later frame, or 'chunked', no later chunk. Convolutions of the latter two
      read no later frame.
    chunk: frames of the output in a chunk.
    left: chunks before its own that a frame sees.
    outputs: symbols, one of which (0) is the CTC blank.
    features: input channels.
    epsilon: of the normalisations.
    momentum: weight of a batch in their running statistics.
  """

  name: str
  blocks: int = 12
  width: int = 256
  head: int = 16
  stacked: int = 2
  attention: str = 'full'
  chunk: int = 16
  left: int = 4
  outputs: int = 49
  features: int = 80
  epsilon: float = 1e-5
  momentum: float = 0.1

  def __post_init__(self):
    sizes = (self.blocks, self.width, self.head, self.stacked, self.chunk)
    if min(*sizes, self.outputs, self.features) < 1 or self.left < 0:
      raise ValueError(f'macro {self.name}: a size is below 1 in {self}')
    if self.head % 2:
      raise ValueError(
        f'macro {self.name}: heads have {self.head} channels; want an even '
        'number'
      )
    if self.attention not in ('full', 'causal', 'chunked'):
      raise ValueError(
        f'macro {self.name}: attention is {self.attention!r}; it must be full, '
        'causal or chunked'
      )
    if not 0 < self.momentum <= 1:
      raise ValueError(f'macro {self.name}: momentum is {self.momentum}')

  @property
  def streams(self):
    """Whether no output waits for more than its chunk."""
    return self.attention != 'full'

  @property
  def layers(self):
    """Layers with weights of the largest network; a block counts once."""
    return 1 + self.blocks + 1

  @property
  def reduction(self):
    """Input frames for each output frame."""
    return 2 * self.stacked

  def output_frames(self, frames):
    """Frames of the output for `frames` (int or array) of the input."""
    for stride in (self.stacked, 2):
      frames = -(-frames // stride)
    return frames


# 72 outputs: the phones of the Wall Street Journal and the blank.
ST_NAS = Tdnn('st_nas')
ST_NAS_SMALL = Tdnn('st_nas_small', width=128)
ST_NAS_TINY = Tdnn('st_nas_tiny', width=16)

# With six frames of 80 filters, padded to 512, it has the paper's parameters.
TODM = Todm('todm', padded=True)
TODM_CTC = dataclasses.replace(TODM, name='todm_ctc', predictor='none')
TODM_SMALL = Todm(
  'todm_small',
  blocks=6,
  width=64,
  joined=128,
  stacked=4,
  states=16,
  predictor_width=64,
  predictor_depth=1,
  outputs=49,
)
TODM_SMALL_CTC = dataclasses.replace(
  TODM_SMALL, name='todm_small_ctc', predictor='none'
)

# The encoder of TODM_SMALL at its widest.
TRANSDUCER = Transducer('transducer')
TRANSDUCER_TINY = Transducer(
  'transducer_tiny', blocks=1, hidden=16, width=16, joined=16, depth=1, states=4
)
# Up to 15 M parameters, and for two cores; each also to stream, in chunks of
# 640 ms.
CONFORMER = Conformer('conformer')
CONFORMER_SMALL = Conformer('conformer_small', blocks=4, width=64, head=8)


def _streaming(*sizes):
  """Returns sizes by name, each also causal and in chunks."""
  found = {}
  for size in sizes:
    found[size.name] = size
    for mode in ('causal', 'chunked'):
      name = f'{size.name}_{mode}'
      found[name] = dataclasses.replace(size, name=name, attention=mode)
  return found


# 83 features: 80 energies and three of pitch, as in the paper. Sizes without
# pitch, and sizes for two cores: few channels, planes of a quarter.
DARTS_ASR = Graph('darts_asr')
DARTS_ASR_CONV3 = Graph('darts_asr_conv3', width=256)
DARTS_ASR_QUICK = Graph(
  'darts_asr_quick', lstm=64, features=80, stride=2, width=8
)
DARTS_ASR_TINY = Graph(
  'darts_asr_tiny', lstm=8, lstms=1, features=80, stride=4, width=4
)
VGG = Vgg('vgg')
VGG_QUICK = Vgg('vgg_quick', lstm=64, features=80, small=16, large=64)
VGG_TINY = Vgg('vgg_tiny', lstm=8, lstms=1, features=80, small=4, large=8)


def _planes(*sizes):
  """Returns sizes by name, each also with the other number of features."""
  found = {}
  for size in sizes:
    other = 83 if size.features == 80 else 80
    found[size.name] = size
    name = f'{size.name}_{other}'
    found[name] = dataclasses.replace(size, name=name, features=other)
  return found


_TDNNS = {m.name: m for m in (ST_NAS, ST_NAS_SMALL, ST_NAS_TINY)}
# By the name of a space: its macro networks by name.
BY_SPACE = {
  'nb_asr': {
    m.name: m
    for m in (NB_ASR, NB_ASR_49, SMALL, COMPACT, QUICK, TINY, NB_ASR_WORDS)
  },
  'st_nas': _TDNNS,
  'st_nas_swbd': _TDNNS,
  'todm': {m.name: m for m in (TODM, TODM_CTC)},
  'todm_small': {m.name: m for m in (TODM_SMALL, TODM_SMALL_CTC)},
  'todm_low_rank': {m.name: m for m in (TODM_SMALL, TODM_SMALL_CTC)},
  'transducer': {m.name: m for m in (TRANSDUCER, TRANSDUCER_TINY)},
  'darts_asr': _planes(
    DARTS_ASR, DARTS_ASR_CONV3, DARTS_ASR_QUICK, DARTS_ASR_TINY
  ),
  'vgg': _planes(VGG, VGG_QUICK, VGG_TINY),
  'conformer': _streaming(CONFORMER),
  'conformer_small': _streaming(CONFORMER_SMALL),
}
# And which of them launchers take, where that is not the first.
DEFAULTS = {
  'nb_asr': SMALL,
  'st_nas': ST_NAS_SMALL,
  'st_nas_swbd': ST_NAS_SMALL,
  'darts_asr': DARTS_ASR_QUICK,
  'vgg': VGG_QUICK,
}


def names():
  """Returns the names of all macro networks, each once."""
  return list(dict.fromkeys(name for m in BY_SPACE.values() for name in m))


def transduces(space, name):
  """Tells whether networks of a macro network, by names, are transducers.

  Args:
    space: name of the space.
    name: of the macro network; None for the one that launchers take.

  Returns:
    bool; False for what there is not.
  """
  named = {m.name: m for m in BY_SPACE.get(space, {}).values()}
  name = name or DEFAULTS.get(space, next(iter(named), None))
  return getattr(named.get(name), 'transduces', False)


def check_loss(macro, loss):
  """Refuses a loss that does not read what a macro network's outputs are.

  Raises:
    ValueError: naming both, and what goes with either.
  """
  transduces = getattr(macro, 'transduces', False)
  if transduces == (loss == 'transducer'):
    return
  if transduces:
    raise ValueError(
      f'macro {macro.name} is a transducer, and loss={loss!r} reads outputs of '
      "frames; give loss='transducer', or a macro without a predictor"
    )
  raise ValueError(
    f"loss='transducer' wants a predictor, and macro {macro.name} has none; "
    'give another loss, or a macro that is a transducer'
  )


def default(space):
  """Returns the name of the macro network that launchers take for a space.

  Raises:
    ValueError: no networks run its architectures.
  """
  if space.name not in BY_SPACE:
    raise ValueError(
      f'no network for space {space.name!r}; there are networks for '
      f'{", ".join(BY_SPACE)}'
    )
  named = BY_SPACE[space.name]
  return DEFAULTS.get(space.name, next(iter(named.values()))).name
