"""The native sums over all paths of CTC-CRF."""

import jax
import jax.numpy as jnp

from nasjax.kernels import building

_MODELS = ('trigram', 'sparse')


def crf(kind, q_btv, len_b, arrays, occupancy):
  """Sums over all paths, and finds how probable each symbol is in each frame.

  Maps over members that share `arrays`; has no derivative.

  Args:
    kind: 'trigram' or 'sparse'.
    q_btv: probabilities of the symbols, float32; the frames beyond an
      utterance's length hold certain blanks.
    len_b: frames of each utterance, int32.
    arrays: for a trigram the arrays of `ctc_crf.Trigram`; else rows, columns
      and weights of the products escape, arcs and repeats, each sorted by
      rows, then label_s, end_s and start_s of `ctc_crf.Sparse`.
    occupancy: whether the second result is wanted.

  Returns:
    log_z_b, and occupancy_btv (of no frames if not wanted): how probable each
    symbol is; beyond an utterance's length of no meaning.

  Raises:
    ValueError: there is no such kind.
  """
  if kind not in _MODELS:
    raise ValueError(f'kind is {kind!r}; it must be one of {_MODELS}')
  building.require()
  batch, frames, symbols = q_btv.shape
  return jax.ffi.ffi_call(
    f'nasjax_crf_{kind}',
    (
      jax.ShapeDtypeStruct((batch,), jnp.float32),
      jax.ShapeDtypeStruct(
        (batch, frames if occupancy else 0, symbols), jnp.float32
      ),
    ),
    vmap_method='expand_dims',
  )(q_btv, len_b.astype(jnp.int32), *arrays)
