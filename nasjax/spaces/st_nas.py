"""The time-delay networks of ST-NAS.

Zheng et al., Efficient Neural Architecture Search for End-to-end Speech
Recognition via Straight-Through Gradients, SLT 2021, section 4. Six searched
blocks stand in a chain, three before and three after a layer that keeps every
third frame; each is one convolution over time,

  tdnn_c{c}d{d}: 2c + 1 taps, d frames apart: frames t - cd, .., t, .., t + cd.

`ST_NAS` is the space of the Wall Street Journal experiments, 4^6 = 4,096
networks; `ST_NAS_SWBD` that of Switchboard as the paper has it, 6^6 = 46,656
(the released configuration lists the four of the former there, too). There are
no skips and no two vectors are one function: a network's key is its layers
written out, and the same network has the same key in both spaces.
"""

from nasjax.spaces.chain import Chain

# Half context and dilation of each candidate, in frames.
CANDIDATES = {f'tdnn_c{c}d{d}': (c, d) for c in (1, 2, 3) for d in (1, 2)}
OPS = tuple(CANDIDATES)
BLOCKS = 6
# The baseline of the paper: three undilated taps in every block, which behind
# the subsampling are the frames -3, 0, 3 of the input. Inferred from its size:
# 7.64 M parameters there, 7.65 M here with 46 outputs.
TDNN_D = (0,) * BLOCKS


def written_layers(nodes):
  """The layers of a network in order: 'c1d1 c2d2 c1d1 c2d1 c1d2 c1d1'."""
  # The four operations of the one space are the first of the other.
  return ' '.join(OPS[op].removeprefix('tdnn_') for (op,) in nodes)


ST_NAS = Chain(
  name='st_nas',
  ops=OPS[:4],
  skips=(0,) * BLOCKS,
  key_of=written_layers,
  semantic_key_of=written_layers,
)
ST_NAS_SWBD = Chain(
  name='st_nas_swbd',
  ops=OPS,
  skips=(0,) * BLOCKS,
  key_of=written_layers,
  semantic_key_of=written_layers,
)
