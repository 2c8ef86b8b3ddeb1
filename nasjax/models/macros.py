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

_TDNNS = {m.name: m for m in (ST_NAS, ST_NAS_SMALL, ST_NAS_TINY)}
# By the name of a space: its macro networks by name.
BY_SPACE = {
  'nb_asr': {
    m.name: m for m in (NB_ASR, NB_ASR_49, SMALL, COMPACT, QUICK, TINY)
  },
  'st_nas': _TDNNS,
  'st_nas_swbd': _TDNNS,
}
# And which of them launchers take, where that is not the first.
DEFAULTS = {
  'nb_asr': SMALL,
  'st_nas': ST_NAS_SMALL,
  'st_nas_swbd': ST_NAS_SMALL,
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
