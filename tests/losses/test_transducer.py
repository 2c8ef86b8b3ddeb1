"""Tests of the transducer's losses against all paths, and a plain recursion."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcripts import every_transcript, log_softmax

from nasjax.losses import transducer, transducer_pruned
from nasjax.programs import memory


def nll_by_enumeration(logits_tuv, labels, first_t=None, width=None):
  """Sums over the orders of blanks and labels; the last is a blank.

  Where `first_t` is given, over the paths that stay in those ranges.
  """
  logprobs_tuv = log_softmax(np.asarray(logits_tuv, np.float64))
  frames, total = len(logprobs_tuv), -np.inf
  steps = frames - 1 + len(labels)
  for places in itertools.combinations(range(steps), len(labels)):
    t, score, nodes = 0, 0.0, []
    for step in range(steps + 1):
      u = step - t
      nodes.append((t, u))
      if step in places:
        score += logprobs_tuv[t, u, labels[u]]
      else:
        score += logprobs_tuv[t, u, 0]
        t += 1
    if first_t is None or all(0 <= u - first_t[t] < width for t, u in nodes):
      total = np.logaddexp(total, score)
  return -total


def nll_by_loop(logits_tuv, labels, xp=np):
  """The forward recursion, a node after the other."""
  frames, columns, _ = logits_tuv.shape
  if xp is np:
    logprobs_tuv = log_softmax(np.asarray(logits_tuv, np.float64))
  else:
    logprobs_tuv = jax.nn.log_softmax(logits_tuv)
  alpha = {}
  for t, u in itertools.product(range(frames), range(columns)):
    ways = [alpha[t - 1, u] + logprobs_tuv[t - 1, u, 0]] if t else []
    if u:
      ways.append(alpha[t, u - 1] + logprobs_tuv[t, u - 1, labels[u - 1]])
    alpha[t, u] = functools.reduce(xp.logaddexp, ways) if ways else 0.0
  return -alpha[frames - 1, columns - 1] - logprobs_tuv[-1, -1, 0]


@jax.jit
def loss_and_grad(logits_btuv, len_b, labels_bl, label_len_b):
  def total(logits_btuv):
    loss_b, feasible_b = transducer.transducer_loss(
      logits_btuv, len_b, labels_bl, label_len_b
    )
    return loss_b.sum(), (loss_b, feasible_b)

  grad_btuv, found = jax.grad(total, has_aux=True)(logits_btuv)
  return *found, grad_btuv


def example(seed=0, batch=6, frames=7, labels=4, vocabulary=6):
  """The first utterance has more labels than frames, the second none."""
  rng = np.random.default_rng(seed)
  inputs = (
    rng.normal(size=(batch, frames, labels + 1, vocabulary)) * 2,
    rng.integers(4, frames + 1, batch),
    rng.integers(1, vocabulary, (batch, labels)),
    rng.integers(1, labels, batch),
  )
  inputs[1][:2], inputs[3][:2] = (2, frames), (labels, 0)
  dtypes = 'float32', 'int32', 'int32', 'int32'
  return [x.astype(dtype) for x, dtype in zip(inputs, dtypes)]


@pytest.fixture(scope='module')
def tiny():
  """Every transcript of up to 3 of 2 labels, in 4, 2, 1 or 0 frames."""
  rows, labels_bl, label_len_b = every_transcript(symbols=2, longest=3)
  len_b = np.repeat(np.array([4, 2, 1, 0], np.int32), len(rows))
  rng = np.random.default_rng(0)
  logits_btuv = rng.normal(size=(len(len_b), 4, 4, 3)).astype(np.float32) * 3
  inputs = logits_btuv, len_b, np.tile(labels_bl, (4, 1))
  inputs = *inputs, np.tile(label_len_b, 4)
  return rows * 4, inputs, jax.tree.map(np.asarray, loss_and_grad(*inputs))


def test_loss_equals_enumeration(tiny):
  rows, (logits_btuv, len_b, _, _), (loss_b, feasible_b, grad_btuv) = tiny
  for b, labels in enumerate(rows):
    assert feasible_b[b] == (len_b[b] > 0)
    if not len_b[b]:
      # Not even the transcript without labels, which takes a blank.
      assert loss_b[b] == 0 and (grad_btuv[b] == 0).all()
      continue
    expected = nll_by_enumeration(logits_btuv[b, : len_b[b]], labels)
    np.testing.assert_allclose(loss_b[b], expected, rtol=2e-6)


def test_gradient_equals_finite_differences(tiny):
  rows, (logits_btuv, len_b, _, _), (_, _, grad_btuv) = tiny
  step = 1e-5
  for b in np.flatnonzero(len_b)[::4]:
    frames, labels = len_b[b], rows[b]
    slope_tuv = np.zeros(grad_btuv.shape[1:])
    for place in np.ndindex(frames, len(labels) + 1, 3):
      losses = []
      for sign in (1, -1):
        moved = logits_btuv[b, :frames].astype(np.float64)
        moved[place] += sign * step
        losses.append(nll_by_enumeration(moved, labels))
      slope_tuv[place] = (losses[0] - losses[1]) / (2 * step)
    np.testing.assert_allclose(grad_btuv[b], slope_tuv, atol=2e-6)


@pytest.mark.slow
def test_gradient_equals_that_of_a_plain_loop():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss_b, _, grad_btuv = loss_and_grad(
    logits_btuv, len_b, labels_bl, label_len_b
  )
  b = 0
  nodes = np.s_[b, : len_b[b], : label_len_b[b] + 1]
  value, expected = jax.jit(
    jax.value_and_grad(lambda x: nll_by_loop(x, labels_bl[b], jnp))
  )(logits_btuv[nodes])
  np.testing.assert_allclose(loss_b[b], value, rtol=1e-6)
  np.testing.assert_allclose(grad_btuv[nodes], expected, atol=2e-6)
  # A softmax less arcs: no node's gradient has a sum.
  np.testing.assert_allclose(grad_btuv.sum(axis=3), 0, atol=1e-6)


@pytest.mark.slow
def test_probabilities_of_all_transcripts_sum_to_at_most_one():
  _, labels_bl, label_len_b = every_transcript(symbols=2, longest=5)
  rng = np.random.default_rng(1)
  # What has been said matters by its length alone, and blanks are likely.
  logits_tuv = rng.normal(size=(3, 6, 3)).astype(np.float32)
  logits_tuv[..., 0] += 2
  batch = len(label_len_b)
  loss_b, _ = transducer.transducer_loss(
    np.broadcast_to(logits_tuv, (batch, *logits_tuv.shape)),
    *(np.full(batch, 3), labels_bl, label_len_b),
  )
  sums = [np.exp(-loss_b[label_len_b <= most]).sum() for most in range(6)]
  assert (np.diff(sums) > 0).all() and 0.9 < sums[-1] <= 1


@pytest.mark.slow
def test_long_and_confident_utterances_keep_their_precision():
  rng = np.random.default_rng(3)
  logits_btuv = rng.normal(size=(3, 200, 31, 4)).astype(np.float32)
  logits_btuv *= np.array([0.1, 5, 60], np.float32)[:, None, None, None]
  labels_bl = rng.integers(1, 4, (3, 30)).astype(np.int32)
  loss_b, _, grad_btuv = loss_and_grad(
    logits_btuv, np.full(3, 200), labels_bl, np.full(3, 30)
  )
  expected = [nll_by_loop(*pair) for pair in zip(logits_btuv, labels_bl)]
  np.testing.assert_allclose(loss_b, expected, rtol=2e-6)
  # Every path crosses a diagonal once: its masses, by the labels that are left
  # out (all but blank and label ahead have softmax times mass), sum to 1.
  softmax = np.exp(log_softmax(logits_btuv.astype(np.float64)))
  ahead_bu = np.pad(labels_bl, ((0, 0), (0, 1)))
  other_bu = np.where(ahead_bu == 3, 2, 3)[:, None, :, None]
  share_btu = np.take_along_axis(softmax, other_bu, 3)[..., 0]
  mass_btu = np.take_along_axis(np.asarray(grad_btuv), other_bu, 3)[..., 0]
  mass_tu = (mass_btu / share_btu)[0]
  diagonals = [np.fliplr(mass_tu).trace(30 - n) for n in range(31)]
  np.testing.assert_allclose(diagonals, 1, rtol=2e-5)


@pytest.mark.parametrize('garbage', [7.0, np.nan, np.inf, -np.inf])
def test_padding_changes_nothing(garbage):
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss_b, _, grad_btuv = loss_and_grad(*example())
  beyond_btu = np.arange(7)[None, :, None] >= len_b[:, None, None]
  beyond_btu = beyond_btu | (np.arange(5) > label_len_b[:, None])[:, None]
  logits_btuv[beyond_btu] = garbage
  beyond_bl = np.arange(4)[None] >= label_len_b[:, None]
  labels_bl[beyond_bl] = -1 if np.isnan(garbage) else 99
  padded = loss_and_grad(logits_btuv, len_b, labels_bl, label_len_b)
  np.testing.assert_array_equal(padded[0], loss_b)
  np.testing.assert_array_equal(padded[2], grad_btuv)
  assert beyond_btu.any() and (np.asarray(grad_btuv)[beyond_btu] == 0).all()


@pytest.mark.slow
def test_longer_padding_changes_nothing():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss_b, _, grad_btuv = loss_and_grad(*example())
  longer = loss_and_grad(
    np.pad(
      logits_btuv, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=np.nan
    ),
    *(len_b, np.pad(labels_bl, ((0, 0), (0, 2))), label_len_b),
  )
  np.testing.assert_allclose(longer[0], loss_b, rtol=1e-6)
  np.testing.assert_allclose(longer[2][:, :7, :5], grad_btuv, atol=1e-6)


def test_vmap_equals_the_loop():
  logits_btuv, *rest = example()
  logits_pbtuv = np.stack([logits_btuv, -logits_btuv])
  mapped = jax.vmap(loss_and_grad, in_axes=(0, None, None, None))(
    logits_pbtuv, *rest
  )
  for p, logits_btuv in enumerate(logits_pbtuv):
    alone = loss_and_grad(logits_btuv, *rest)
    np.testing.assert_allclose(mapped[0][p], alone[0], rtol=1e-6)
    np.testing.assert_allclose(mapped[2][p], alone[2], atol=1e-6)


def test_a_broken_row_leaves_the_others_alone():
  inputs = example()
  loss_b, _, grad_btuv = loss_and_grad(*inputs)
  inputs[0][0, 1, 2, 4] = np.nan
  inputs[0][1, 0, 0, 1] = np.inf
  inputs[2][2, 0] = 0
  inputs[2][3, 0] = 6
  inputs[3][4] = 5
  broken_b, _, broken_grad_btuv = loss_and_grad(*inputs)
  np.testing.assert_array_equal(np.isnan(broken_b), [True] * 5 + [False])
  # A small type of integers cannot hold what stands for no label.
  small_b, _ = transducer.transducer_loss(
    *inputs[:2], inputs[2].astype(np.uint8), inputs[3]
  )
  np.testing.assert_array_equal(np.isnan(small_b), np.isnan(broken_b))
  np.testing.assert_array_equal(broken_b[5], loss_b[5])
  np.testing.assert_array_equal(broken_grad_btuv[5], grad_btuv[5])


def test_impossible_transcripts_have_an_infinite_loss():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  logits_btuv[0, :, 0, labels_bl[0, 0]] = -np.inf
  logits_btuv[2, 1, :, labels_bl[2, 0]] = -np.inf
  loss_b, _, grad_btuv = loss_and_grad(
    logits_btuv, len_b, labels_bl, label_len_b
  )
  assert loss_b[0] == np.inf and np.isfinite(loss_b[1:]).all()
  assert np.isfinite(grad_btuv[1:]).all()


def test_no_labels_at_all_and_no_frames_at_all():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss_b, feasible_b = transducer.transducer_loss(
    logits_btuv[:, :, :1], len_b, labels_bl[:, :0], 0 * label_len_b
  )
  expected = [
    -log_softmax(logits_tuv[:frames, 0])[:, 0].sum()
    for logits_tuv, frames in zip(logits_btuv, len_b)
  ]
  assert feasible_b.all()
  np.testing.assert_allclose(loss_b, expected, rtol=1e-5)
  loss_b, feasible_b = transducer.transducer_loss(
    logits_btuv[:, :0], 0 * len_b, labels_bl.astype(np.uint8), label_len_b
  )
  assert not feasible_b.any() and (loss_b == 0).all()


@pytest.mark.slow
def test_second_derivatives_follow_the_first():
  logits_btuv, *rest = example()
  direction_btuv = example(seed=9)[0] / 4
  _, curvature_btuv = jax.jit(
    lambda x, dx: jax.jvp(lambda x: loss_and_grad(x, *rest)[2], (x,), (dx,))
  )(logits_btuv, direction_btuv)
  step = 0.02
  high_btuv, low_btuv = (
    loss_and_grad(logits_btuv + sign * step * direction_btuv, *rest)[2]
    for sign in (1, -1)
  )
  slope_btuv = (high_btuv - low_btuv) / (2 * step)
  assert np.abs(slope_btuv).max() > 0.1
  np.testing.assert_allclose(curvature_btuv, slope_btuv, atol=5e-4)


@pytest.mark.slow
def test_any_blank_and_any_float_type():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss_b, _, _ = loss_and_grad(logits_btuv, len_b, labels_bl, label_len_b)
  rolled_b, _ = transducer.transducer_loss(
    np.roll(logits_btuv, -1, axis=3), len_b, labels_bl - 1, label_len_b, blank=5
  )
  np.testing.assert_allclose(rolled_b, loss_b, rtol=1e-6)
  half_btuv = jnp.asarray(logits_btuv, jnp.bfloat16)
  half = loss_and_grad(half_btuv, len_b, labels_bl, label_len_b)
  full = loss_and_grad(
    half_btuv.astype(jnp.float32), len_b, labels_bl, label_len_b
  )
  assert half[0].dtype == jnp.float32 and half[2].dtype == jnp.bfloat16
  np.testing.assert_allclose(half[0], full[0], rtol=1e-6)


@pytest.mark.parametrize('dtype', ['uint8', 'int8', 'uint32'])
def test_any_integer_type(dtype):
  # What 8 bits do not hold are the steps of a path, frames and labels.
  rng = np.random.default_rng(0)
  logits_btuv = rng.normal(size=(2, 100, 81, 3)).astype(np.float32)
  rows = np.array([100, 0]), np.full((2, 80), 2), np.array([80, 3])
  expected = transducer.transducer_loss(logits_btuv, *rows)
  narrow = [x.astype(dtype) for x in rows]
  found = transducer.transducer_loss(logits_btuv, *narrow)
  np.testing.assert_array_equal(found, expected)
  am_btv, lm_buv = logits_btuv[:, :, 0], logits_btuv[:, 0]
  found, expected = (
    transducer_pruned.pruned_transducer_loss(
      *(lambda params, x, y: x + y, (), am_btv, lm_buv, am_btv, lm_buv), *rows
    ).pruned_b
    for rows in (narrow, rows)
  )
  np.testing.assert_array_equal(found, expected)


def test_bad_arguments_are_named():
  logits_btuv, len_b, labels_bl, label_len_b = example()
  loss = transducer.transducer_loss
  with pytest.raises(ValueError, match='shapes of logits'):
    loss(logits_btuv, len_b[:2], labels_bl, label_len_b)
  with pytest.raises(ValueError, match='shapes of logits'):
    loss(logits_btuv, len_b, labels_bl[:, :3], label_len_b)
  with pytest.raises(ValueError, match='shape of logits'):
    loss(logits_btuv[0], len_b, labels_bl, label_len_b)
  with pytest.raises(ValueError, match='blank is 6'):
    loss(logits_btuv, len_b, labels_bl, label_len_b, blank=6)


def test_loss_and_gradient_equal_torchaudio():
  torch = pytest.importorskip('torch')
  rnnt_loss = pytest.importorskip('torchaudio.functional').rnnt_loss
  inputs = example(batch=9, frames=12, labels=8)
  logits, len_b, labels_bl, label_len_b = map(torch.tensor, inputs)
  logits.requires_grad_()
  lengths = len_b, label_len_b
  expected = rnnt_loss(logits, labels_bl, *lengths, blank=0, reduction='none')
  expected.sum().backward()
  loss_b, _, grad_btuv = loss_and_grad(*inputs)
  np.testing.assert_allclose(loss_b, expected.detach(), rtol=1e-5)
  np.testing.assert_allclose(grad_btuv, logits.grad, atol=1e-5)


# From encoder and predictor.


def join(params, enc_bt1d, pred_btud):
  return jnp.tanh(enc_bt1d + pred_btud) @ params['kernel'] + params['bias']


def speech(inputs, width=5, seed=4):
  """Parameters of a joiner, and outputs of encoder and predictor for it."""
  batch, frames, columns, vocabulary = inputs[0].shape
  rng = np.random.default_rng(seed)
  shapes = {
    'kernel': (width, vocabulary),
    'bias': (1, 1, 1, vocabulary),
    'enc': (batch, frames, width),
    'pred': (batch, columns, width),
  }
  found = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
  enc_btd, pred_bud = found.pop('enc'), found.pop('pred')
  return found, enc_btd, pred_bud


@pytest.mark.parametrize(
  'chunk', [3, pytest.param(None, marks=pytest.mark.slow)]
)
def test_chunks_are_the_whole(chunk):
  inputs = example()
  rows = inputs[1:]
  joined = speech(inputs)

  def whole(params, enc_btd, pred_bud):
    logits_btuv = join(params, enc_btd[:, :, None], pred_bud[:, None])
    return transducer.transducer_loss(logits_btuv, *rows)[0].sum()

  def in_chunks(*joined):
    return transducer.chunked_transducer_loss(join, *joined, *rows, chunk=chunk)

  def total(*joined):
    return in_chunks(*joined)[0].sum()

  expected, grads = jax.jit(jax.value_and_grad(whole, (0, 1, 2)))(*joined)
  # Beyond the lengths there may be anything, and no gradient goes there.
  params, enc_btd, pred_bud = jax.tree.map(np.copy, joined)
  enc_btd[np.arange(7)[None] >= rows[0][:, None]] = np.nan
  pred_bud[np.arange(5)[None] > rows[2][:, None]] = np.inf
  value, found = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(
    params, enc_btd, pred_bud
  )
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(grads)):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


def test_chunks_of_no_frames_are_refused():
  inputs = example()
  with pytest.raises(ValueError, match='chunk is 0'):
    transducer.chunked_transducer_loss(
      join, *speech(inputs), *inputs[1:], chunk=0
    )


def test_a_large_vocabulary_fits_into_memory():
  batch, frames, columns, vocabulary, width = 16, 400, 61, 4097, 512
  shapes = {'kernel': (width, vocabulary), 'bias': (1, 1, 1, vocabulary)}
  floats = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  integers = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
  program = jax.jit(
    jax.value_and_grad(
      lambda *args: transducer.chunked_transducer_loss(join, *args)[0].sum(),
      (0, 1, 2),
    )
  ).lower(
    {name: floats(shape) for name, shape in shapes.items()},
    floats((batch, frames, width)),
    floats((batch, columns, width)),
    *(integers(shape) for shape in ((batch,), (batch, columns - 1), (batch,))),
  )
  needed = memory.program_bytes(program.compile())
  assert needed < 1e9 + transducer.CHUNK_BYTES
  assert 4 * batch * frames * columns * vocabulary > 6e9


@functools.partial(jax.jit, static_argnames='width')
def pruned(inputs, width):
  """The pruned loss, the joiner's scores, and where the ranges begin."""
  params, enc_btd, pred_bud = speech(inputs)
  rows = inputs[1:]
  am_btv = enc_btd @ params['kernel']
  lm_buv = pred_bud @ params['kernel']
  found = transducer_pruned.pruned_transducer_loss(
    *(join, params, enc_btd, pred_bud, am_btv, lm_buv, *rows),
    width=width,
    chunk=4,
  )
  _, _, mass_btu = transducer_pruned.simple_transducer_loss(
    am_btv, lm_buv, *rows
  )
  first_bt = transducer_pruned.prune_ranges(mass_btu, rows[0], rows[2], width)
  logits_btuv = join(params, enc_btd[:, :, None], pred_bud[:, None])
  return found, logits_btuv, first_bt


@pytest.mark.slow
def test_wide_ranges_prune_nothing():
  inputs = example()
  found, logits_btuv, first_bt = pruned(inputs, width=5)
  loss_b, _, _ = loss_and_grad(logits_btuv, *inputs[1:])
  np.testing.assert_allclose(found.pruned_b, loss_b, rtol=1e-5)
  assert found.feasible_b.all() and (first_bt == 0).all()
  np.testing.assert_allclose(
    found.total(), 0.5 * found.simple_b + found.pruned_b, rtol=1e-6
  )


@pytest.mark.parametrize('width', [pytest.param(2, marks=pytest.mark.slow), 3])
def test_pruned_losses_are_those_of_the_paths_in_range(width):
  inputs = example()
  _, len_b, labels_bl, label_len_b = inputs
  len_b[0] = 7 if width == 3 else 2
  found, logits_btuv, first_bt = pruned(inputs, width)
  feasible_b = label_len_b <= len_b * (width - 1)
  np.testing.assert_array_equal(found.feasible_b, feasible_b)
  assert feasible_b.all() == (width == 3)
  for b in range(len(len_b)):
    if not feasible_b[b]:
      assert found.simple_b[b] == found.pruned_b[b] == 0
      continue
    first_t = first_bt[b, : len_b[b]]
    assert first_t[0] == 0
    assert first_t[-1] == max(label_len_b[b] - width + 1, 0)
    assert np.isin(np.diff(first_t), range(width)).all()
    labels = labels_bl[b, : label_len_b[b]]
    logits_tuv = logits_btuv[b, : len_b[b]]
    expected = nll_by_enumeration(logits_tuv, labels, first_t, width)
    np.testing.assert_allclose(found.pruned_b[b], expected, rtol=1e-5)


def test_ranges_keep_what_has_the_most_mass():
  mass_tu = np.full((7, 7), 1e-3, np.float32)
  # The second is too high for what comes, the third too low.
  for t, columns in enumerate([[0], [3, 4], [0], [6], [6], [6], [6]]):
    mass_tu[t, columns] = 1
  first_bt = transducer_pruned.prune_ranges(
    mass_tu[None], np.array([7]), np.array([6]), width=3
  )
  np.testing.assert_array_equal(first_bt[0], [0, 0, 2, 4, 4, 4, 4])
  with pytest.raises(ValueError, match='width is 1'):
    transducer_pruned.prune_ranges(
      mass_tu[None], np.array([7]), np.array([6]), width=1
    )


@pytest.mark.slow
def test_the_simple_loss_is_that_of_the_sum_and_its_gradient_the_mass():
  inputs = example()
  rows = inputs[1:]
  rng = np.random.default_rng(2)
  am_btv = rng.normal(size=(6, 7, 6)).astype(np.float32) * 3
  lm_buv = rng.normal(size=(6, 5, 6)).astype(np.float32) * 3

  @jax.jit
  def simple(am_btv, scale):
    def total(am_btv):
      loss_b, _, mass_btu = transducer_pruned.simple_transducer_loss(
        am_btv, lm_buv, *rows, lm_scale=scale
      )
      return loss_b.sum(), (loss_b, mass_btu)

    grad_btv, found = jax.grad(total, has_aux=True)(am_btv)
    return *found, grad_btv

  loss_b, mass_btu, grad_btv = simple(am_btv, 0.0)
  logits_btuv = am_btv[:, :, None] + lm_buv[:, None]
  expected_b, _, grad_btuv = loss_and_grad(logits_btuv, *rows)
  np.testing.assert_allclose(loss_b, expected_b, rtol=1e-5)
  np.testing.assert_allclose(grad_btv, grad_btuv.sum(axis=2), atol=1e-5)
  # Of what is neither blank nor the label ahead: softmax times mass.
  v = 5
  share_btu = np.exp(log_softmax(logits_btuv.astype(np.float64)))[..., v]
  free_bu = np.pad(rows[1], ((0, 0), (0, 1))) != v
  free_btu = np.broadcast_to(free_bu[:, None], mass_btu.shape)
  np.testing.assert_allclose(
    (share_btu * mass_btu)[free_btu], grad_btuv[..., v][free_btu], atol=1e-6
  )
  # With nothing but `lm` the frames do not matter.
  by_lm, _, grad_btv = simple(am_btv, 1.0)
  moved, _, _ = simple(am_btv[:, ::-1], 1.0)
  np.testing.assert_allclose(by_lm, moved, rtol=1e-6)
  assert (grad_btv == 0).all()
