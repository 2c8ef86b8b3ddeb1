"""Tests of nasjax/losses/distillation.py against the formulas in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcripts import log_softmax

from nasjax.losses import distillation, transducer

ALPHAS = (-1.0, 0.0, 0.5, 1.0, 2.0)


def formula(p, q, alpha, clip):
  """Divergence and surrogate of one row, as AlphaNet's code has them."""
  ratio = p / q
  if abs(alpha) < 1e-3:
    ratio = np.clip(ratio, 0, clip)
    value, base, rho = -np.log(ratio), 0.0, np.log(ratio) - 1
  elif abs(alpha - 1) < 1e-3:
    value, base, rho = ratio * np.log(ratio), 0.0, ratio
  else:
    weight = np.clip(ratio**alpha, 0, clip)
    base = 1 / (alpha * (alpha - 1))
    value, rho = weight * base, weight / alpha + base
  return (q * (value - base)).sum(), -(q * rho * np.log(q)).sum()


def drawn(seed=0, rows=40, vocabulary=6, scale=2):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(2, rows, vocabulary)) * scale
  return logits.astype(np.float32)


def probabilities(logits):
  return np.exp(log_softmax(np.asarray(logits, np.float64)))


@pytest.mark.parametrize('alpha', ALPHAS)
def test_divergences_are_those_of_the_formula(alpha):
  teacher, student = drawn()
  for clip in (5.0, 1e9):
    found = distillation.divergence(teacher, student, alpha, clip)
    expected = [
      formula(p, q, alpha, clip)[0]
      for p, q in zip(probabilities(teacher), probabilities(student))
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('pair', [(-1.0, 1.0), (0.0, 0.5)])
def test_the_loss_is_the_surrogate_of_the_larger_divergence(pair):
  teacher, student = drawn()
  found = distillation.alpha_divergence(teacher, student, *pair, clip=5)
  expected, lefts = [], 0
  for p, q in zip(probabilities(teacher), probabilities(student)):
    left, right = (formula(p, q, alpha, 5.0) for alpha in pair)
    lefts += left[0] > right[0]
    expected.append(left[1] if left[0] > right[0] else right[1])
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
  if pair == (-1.0, 1.0):
    assert 0 < lefts < len(expected)
    by_default = distillation.alpha_divergence(teacher, student)
    np.testing.assert_array_equal(by_default, found)


@pytest.mark.parametrize(
  'alpha',
  [-1.0, *(pytest.param(a, marks=pytest.mark.slow) for a in ALPHAS[1:])],
)
def test_unclipped_its_gradient_is_that_of_the_divergence(alpha):
  teacher, student = drawn(scale=1)
  total = {
    'surrogate': lambda x: distillation.alpha_divergence(
      teacher, x, alpha, alpha, 1e9
    ).sum(),
    'divergence': lambda x: distillation.divergence(
      teacher, x, alpha, 1e9
    ).sum(),
  }
  grads = {name: jax.grad(f)(student) for name, f in total.items()}
  np.testing.assert_allclose(
    grads['surrogate'], grads['divergence'], rtol=1e-4, atol=2e-6
  )
  if alpha == 1:
    difference = probabilities(student) - probabilities(teacher)
    np.testing.assert_allclose(grads['surrogate'], difference, atol=1e-6)


def test_who_agrees_has_no_divergence_and_no_gradient():
  logits, _ = drawn()
  for alpha in ALPHAS:
    value = distillation.divergence(logits, logits, alpha)
    np.testing.assert_allclose(value, 0, atol=1e-6)
  grad = jax.grad(lambda x: distillation.alpha_divergence(logits, x).sum())
  np.testing.assert_allclose(grad(logits), 0, atol=1e-6)


@pytest.mark.slow
def test_near_one_it_is_the_divergence_of_kullback_and_leibler():
  teacher, student = drawn(scale=0.5)
  expected = distillation.kl_divergence(teacher, student)
  p, q = probabilities(teacher), probabilities(student)
  np.testing.assert_allclose(expected, (p * np.log(p / q)).sum(-1), rtol=1e-5)
  for alpha in (0.98, 1.02):
    near = distillation.divergence(teacher, student, alpha, 1e9)
    np.testing.assert_allclose(near, expected, rtol=0.03, atol=1e-4)
  np.testing.assert_array_equal(
    distillation.divergence(teacher, student, 0.9999), expected
  )


def test_the_choice_flips_from_unsure_to_sure_students():
  teacher = np.log(np.float32([[0.9, 0.1], [0.5, 0.5]]))
  student = np.log(np.float32([[0.5, 0.5], [0.999, 0.001]]))
  left, right = (
    np.asarray(distillation.divergence(teacher, student, alpha))
    for alpha in (-1.0, 1.0)
  )
  # Of an unsure student alpha -1 sees more, of a sure one alpha 1.
  assert left[0] > right[0] and left[1] < right[1]


def test_only_the_student_learns_and_the_clip_bounds_its_gradient():
  teacher, student = drawn()
  # What the teacher thinks impossible, and the student certain.
  teacher[0, 0], student[0, 0] = -200, 200
  by_teacher, by_student = jax.grad(
    lambda *pair: distillation.alpha_divergence(*pair).sum(), (0, 1)
  )(teacher, student)
  assert (by_teacher == 0).all()
  assert np.isfinite(by_student).all() and np.abs(by_student).max() < 6
  assert (np.abs(by_student).max(axis=1) > 0)[1:].all()
  with pytest.raises(ValueError, match='clip is 0'):
    distillation.alpha_divergence(teacher, student, clip=0)


def test_numbers_that_train_nothing_are_named():
  logits_bv = np.ones((2, 3), np.float32)
  for name, value in ('clip', 0), ('alpha_min', np.nan), ('alpha_max', np.inf):
    with pytest.raises(ValueError, match=f'{name} (is )?{value}'):
      distillation.alpha_divergence(logits_bv, logits_bv, **{name: value})
  with pytest.raises(ValueError, match='count is 0; it must be 1 symbol'):
    distillation.top_symbols(logits_bv, 0)


def test_what_both_rule_out_changes_nothing():
  teacher, student = drawn()

  def of(teacher, student):
    def total(student):
      loss = distillation.alpha_divergence(teacher, student, -1.0, 0.0)
      return loss.sum(), loss

    return jax.grad(total, has_aux=True)(student)

  grad, loss = of(teacher, student)
  more = [
    np.pad(x, ((0, 0), (0, 1)), constant_values=-np.inf)
    for x in (teacher, student)
  ]
  padded_grad, padded = of(*more)
  np.testing.assert_allclose(padded, loss, rtol=1e-5)
  np.testing.assert_allclose(
    padded_grad, np.pad(grad, ((0, 0), (0, 1))), atol=1e-6
  )
  with pytest.raises(ValueError, match='of the same symbols'):
    distillation.alpha_divergence(teacher, student[:, :1])


@pytest.mark.parametrize(
  'dtype', ['float32', pytest.param('bfloat16', marks=pytest.mark.slow)]
)
def test_reduced_to_the_teachers_best(dtype):
  teacher, student = (jnp.asarray(x, dtype) for x in drawn(vocabulary=9))
  taken = distillation.top_symbols(teacher, 3)
  found = distillation.reduced(student, taken)
  assert found.log_probs.dtype == found.rest.dtype == jnp.float32
  p = probabilities(teacher.astype(jnp.float32))
  q = probabilities(student.astype(jnp.float32))
  # Of bfloat16 a score is often there twice; both are taken then.
  best = np.stack([row >= np.unique(row)[-3] for row in p])
  np.testing.assert_array_equal(found.taken, best)
  np.testing.assert_allclose(
    np.exp(found.log_probs)[best], q[best], rtol=1e-5
  )
  rest = np.where(best, 0.0, q).sum(axis=1)
  np.testing.assert_allclose(np.exp(found.rest), rest, rtol=1e-5)
  with pytest.raises(ValueError, match='9 of 9 symbols leave no rest'):
    distillation.top_symbols(teacher, 9)


@pytest.mark.slow
def test_the_gradient_goes_through_the_rest():
  teacher, student = drawn(rows=3, vocabulary=9)
  taken = distillation.top_symbols(teacher, 2)

  def total(student):
    return distillation.kl_divergence(
      distillation.reduced(teacher, taken), distillation.reduced(student, taken)
    ).sum()

  # By the rule of the chain: within the rest a symbol moves by its share.
  p, q = probabilities(teacher), probabilities(student)
  expected = q - p
  for row in range(3):
    rest = np.flatnonzero(~np.array(taken[row]))
    share = q[row, rest] / q[row, rest].sum()
    expected[row, rest] = q[row, rest] - p[row, rest].sum() * share
  np.testing.assert_allclose(jax.grad(total)(student), expected, atol=2e-6)


def test_label_and_blank_of_nodes():
  taken = distillation.label_and_blank(
    np.array([[3, 4], [2, 9]]), np.array([2, 1]), symbols=6, blank=1
  )
  np.testing.assert_array_equal(
    np.argwhere(taken[:, 0]),
    [
      *([0, 0, 1], [0, 0, 3], [0, 1, 1], [0, 1, 4], [0, 2, 1]),
      *([1, 0, 1], [1, 0, 2], [1, 1, 1], [1, 2, 1]),
    ],
  )
  student = drawn(rows=6)[1].reshape(2, 1, 3, 6)
  rest = np.exp(distillation.reduced(student, taken).rest)
  q = probabilities(student)
  label_and_blank = q[0, 0, 1, [4, 1]].sum()
  np.testing.assert_allclose(rest[0, 0, 1], 1 - label_and_blank, rtol=1e-5)
  # Without a label there are the blank and the rest.
  np.testing.assert_allclose(rest[1, 0, 2], 1 - q[1, 0, 2, 1], rtol=1e-5)


def join(params, enc_bt1d, pred_btud):
  return jnp.tanh(enc_bt1d + pred_btud) @ params


@pytest.mark.slow
@pytest.mark.parametrize('count', [3, None])
def test_in_chunks_it_is_the_mean_over_nodes(count):
  rng = np.random.default_rng(0)
  shapes = (4, 7), (3, 5, 4), (3, 4, 4)
  teacher, student = (
    [rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(2)
  )
  len_b, label_len_b = np.array([5, 3, 0]), np.array([3, 1, 0])
  labels_bl = rng.integers(1, 7, (3, 3))

  @functools.partial(jax.jit, static_argnames='reduction')
  def run(teacher, student, reduction='mean'):
    def total(teacher, student):
      loss_b, _, apart_b = distillation.distilled_transducer_loss(
        *(join, teacher, student, len_b, labels_bl, label_len_b),
        count=count,
        differ=distillation.alpha_divergence,
        reduction=reduction,
        chunk=2,
      )
      return (loss_b + apart_b).sum(), (loss_b, apart_b)

    return jax.grad(total, (0, 1), has_aux=True)(teacher, student)

  def plain(params, enc_btd, pred_bud):
    return join(params, enc_btd[:, :, None], pred_bud[:, None])

  def expected(student):
    student_btuv, teacher_btuv = plain(*student), plain(*teacher)
    taken = distillation.label_and_blank(labels_bl, label_len_b, 7)
    if count:
      taken = distillation.top_symbols(teacher_btuv, count)
    apart_btu = distillation.alpha_divergence(
      *(distillation.reduced(x, taken) for x in (teacher_btuv, student_btuv))
    )
    apart_b = jnp.stack(
      [apart_btu[0, :5, :4].mean(), apart_btu[1, :3, :2].mean(), 0.0]
    )
    loss_b, _ = transducer.transducer_loss(
      student_btuv, len_b, labels_bl, label_len_b
    )
    return (loss_b + apart_b).sum(), (loss_b, apart_b)

  grads, (loss_b, apart_b) = jax.jit(jax.grad(expected, has_aux=True))(student)
  (to_teacher, to_student), found = run(teacher, student)
  np.testing.assert_allclose(found[0], loss_b, rtol=1e-5)
  np.testing.assert_allclose(found[1], apart_b, rtol=1e-5, atol=1e-6)
  for one, other in zip(to_student, grads):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
  assert all((x == 0).all() for x in to_teacher)


def test_over_nodes():
  loss_btu = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
  len_b, label_len_b = np.array([2, 0]), np.array([1, 0])
  lengths = loss_btu, len_b, label_len_b
  np.testing.assert_allclose(distillation.over_nodes(*lengths), [2.5, 0])
  np.testing.assert_allclose(distillation.over_nodes(*lengths, 'sum'), [10, 0])
  with pytest.raises(ValueError, match="reduction is 'max'"):
    distillation.over_nodes(*lengths, 'max')
