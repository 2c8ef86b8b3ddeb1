"""An operation of one's own in the cells of NAS-Bench-ASR: its cost, a table.

  python experiments/examples/own_operation.py
  python experiments/benchmark.py --own=experiments/examples/own_operation.py \\
    --space=light --ops=linear,light9 --macro=quick --recipe=e5 \\
    --synth_utterances=600 --synth_grammar=small --out=results/light
  python experiments/oneshot.py --own=experiments/examples/own_operation.py \\
    --space=light --ops=linear,light9 --macro=quick --recipe=e5 \\
    --synth_utterances=600 --synth_grammar=small --out=results/light_search

`light9` weighs each channel over nine frames by itself, a depthwise
convolution. An operation is what a node computes before clipped ReLU and
dropout: parameters, each a pair of initialiser and shape, and the function that
applies them to x_btc (batch, time, channel). Utterances of a batch are padded
to one length: `mask_frames` keeps what lies behind their ends from the frames
before. All parameters count, and as multiply-accumulates of a frame the
weights of two axes or more (else `Operation` takes a function `macs`).

The space says which operations a cell chooses from. Its networks are those of
NAS-Bench-ASR, with the same macro networks. A launcher learns of it by --own, a
script of one's own by importing this file.
"""

import jax
import jax.numpy as jnp

from nasjax import cost, spaces
from nasjax.layers.modules import mask_frames
from nasjax.models import families, macros
from nasjax.models.nb_asr import ops

TAPS = 9


def params(width, groups):
  """Returns initialisers and shapes; `groups` are those of convolutions."""
  del groups
  kernel = jax.nn.initializers.normal(TAPS**-0.5), (TAPS, width)
  return {'kernel': kernel, 'bias': (jax.nn.initializers.zeros, (width,))}


def apply(params, x_btc, len_b):
  """Returns z_btc, of the shape of x_btc."""
  ends = (0, 0), (TAPS // 2, TAPS // 2), (0, 0)
  padded, frames = jnp.pad(mask_frames(x_btc, len_b), ends), x_btc.shape[1]
  x_kbtc = jnp.stack([padded[:, k : k + frames] for k in range(TAPS)])
  z_btc = jnp.einsum('kbtc,kc->btc', x_kbtc, params['kernel'])
  return z_btc + params['bias'][None, None]


ops.add('light9', ops.Operation(params, apply))
SPACE = spaces.Chain('light', ('linear', 'conv5', 'light9', 'zero'), (1, 2, 3))
families.add(SPACE, families.FAMILIES['nb_asr'])

if __name__ == '__main__':
  for o, name in enumerate(SPACE.ops):
    about = SPACE, [[o, 0], [o, 0, 0], [o, 0, 0, 0]], macros.QUICK
    print(f'{name:6} {cost.params(*about):7,} parameters', end=', ')
    print(f'{cost.macs(*about, frames=100):,} multiply-accumulates a second')
