"""Macro networks: the numbers of a network, beside its architecture.

No JAX is imported here: flags name macro networks before anything is.
"""

import dataclasses


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
    epsilon: of the layer normalisations.
  """

  name: str
  width: int = 640
  before: int = 3
  after: int = 3
  subsampling: int = 3
  outputs: int = 72
  features: int = 120
  epsilon: float = 1e-5

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


# 72 outputs: the phones of the Wall Street Journal and the blank.
ST_NAS = Tdnn('st_nas')
ST_NAS_SMALL = Tdnn('st_nas_small', width=128)
ST_NAS_TINY = Tdnn('st_nas_tiny', width=16)

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
VGG_TINY = Vgg(
  'vgg_tiny', lstm=8, lstms=1, features=80, small=4, large=8
)


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
    m.name: m for m in (NB_ASR, NB_ASR_49, SMALL, COMPACT, QUICK, TINY)
  },
  'st_nas': _TDNNS,
  'st_nas_swbd': _TDNNS,
  'darts_asr': _planes(
    DARTS_ASR, DARTS_ASR_CONV3, DARTS_ASR_QUICK, DARTS_ASR_TINY
  ),
  'vgg': _planes(VGG, VGG_QUICK, VGG_TINY),
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
