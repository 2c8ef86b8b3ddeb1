"""Programs that are kept, and forgotten where they take too much room."""

import gc
import weakref

import jax
import jax.numpy as jnp
import pytest

from nasjax.programs import keeping


@pytest.fixture
def caches(monkeypatch):
  """Those of this test alone: others' programs stay."""
  monkeypatch.setattr(keeping, '_CACHES', [])


def _kept():
  """Returns a maker of programs that are kept, and what was made."""
  made = []

  @keeping.kept(2)
  def program(factor):
    """Multiplies."""
    run = jax.jit(lambda x: x * factor)
    made.append(factor)
    return run

  return program, made


def test_the_last_are_kept(caches):
  program, made = _kept()
  for factor in (1, 2, 2, 1, 3, 1, 2):
    assert program(factor)(jnp.float32(5)) == 5 * factor
  assert made == [1, 2, 3, 2]
  assert program.__name__ == 'program' and program.__doc__ == 'Multiplies.'


def test_all_are_forgotten_where_they_take_too_many_pieces(caches, monkeypatch):
  (first, _), (other, made) = _kept(), _kept()
  assert first(1)(jnp.float32(5)) == 5 and other(1)(jnp.float32(5)) == 5
  gone, held = weakref.ref(first(1)), other(1)
  monkeypatch.setattr(keeping, '_SHARE', 1e-9)
  # What is there already is no reason to look.
  assert first(1) is gone()
  other(2)
  gc.collect()
  assert gone() is None
  # Who holds one still has it; who asks again gets another.
  assert held(jnp.float32(5)) == 5
  monkeypatch.undo()
  assert other(1) is not held and made == [1, 2, 1]


def test_pieces_are_those_of_the_system(tmp_path, monkeypatch):
  maps, limit = tmp_path / 'maps', tmp_path / 'limit'
  monkeypatch.setattr(keeping, '_MAPS', maps)
  monkeypatch.setattr(keeping, '_LIMIT', limit)
  assert not keeping.crowded()  # another system
  limit.write_text('100\n')
  maps.write_bytes(b'a\n' * 50)
  assert not keeping.crowded()
  maps.write_bytes(b'a\n' * 51)
  assert keeping.crowded()
