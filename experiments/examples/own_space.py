"""A space and networks of one's own: a table of it, and searches.

  python experiments/benchmark.py --own=experiments/examples/own_space.py \\
    --space=stack --random_cells=12 --macro=stack_64 --recipe=e5 \\
    --synth_utterances=600 --synth_grammar=small --out=results/stack
  python experiments/report.py --own=experiments/examples/own_space.py \\
    --table=results/stack
  python experiments/search.py --own=experiments/examples/own_space.py \\
    --table=results/stack --budget=6

An architecture is a choice at each decision of a space, here how many layers of
convolutions there are, how many frames each reads, and whether an LSTM follows.
A family says which networks run them: a linen module, which gets as `ops` the
choice at each place, and macro networks, the numbers that no search decides.
x_btf are features (batch, time, feature), len_b the frames of each utterance;
CTC reads what it returns, logits of each output frame and their lengths. What
lies behind an utterance's end is zeroed before every convolution.

Each architecture has a program of its own, in which costs are counted. With two
more functions there are one-shot searches, too (tests/support/toy_family.py).
"""

import flax.linen as nn

from nasjax import spaces
from nasjax.layers import dropout, modules
from nasjax.models import families, macros

SPACE = spaces.Space(
  'stack', {'layers': ('1', '2', '3'), 'taps': ('3', '7'), 'end': ('-', 'lstm')}
)


class Network(nn.Module):
  macro: macros.Plain
  ops: tuple
  rate: float = 0.0
  conv_dropout: bool = True
  kernels: str = 'xla'
  precision: str = 'float32'
  mode: str = 'mixed'

  @nn.compact
  def __call__(self, x_btf, len_b, gates, key=None):
    (layers,), (taps,), (end,) = self.ops
    x_btc, stride, taps = x_btf, self.macro.reduction, int(taps)
    for n in range(int(layers)):
      ends = [(taps // 2, taps // 2)]
      conv = nn.Conv(self.macro.width, (taps,), stride, ends)
      x_btc = nn.relu(conv(modules.mask_frames(x_btc, len_b)))
      x_btc = modules.LayerNorm()(dropout.dropout(x_btc, key, n, self.rate))
      len_b, stride = -(-len_b // stride), 1
    if end == 'lstm':
      x_btc = modules.LSTM(self.macro.width, self.precision)(x_btc)
    return modules.Dense(self.macro.outputs)(x_btc), len_b


MACROS = {f'stack_{n}': macros.Plain(f'stack_{n}', width=n) for n in (64, 16)}
families.add(SPACE, families.Family(MACROS, Network))
