"""Stage `race`: ways to compute a convolution's node, on the card.

The kernels of `nasjax.kernels.gpu_conv`, cut in several ways, and what XLA
offers (`gpu_ways`). Times are of a node, forward and backward: mask,
convolution, bias, clipped ReLU. Repetitions are a loop in one program; each
takes what the one before made of its input (nothing, by a factor of 0 that the
compiler does not know), so that none is left out. Results are compared with
those of products tap by tap.
"""

import concurrent.futures
import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from card import gpu_ways
from jax import lax

from nasjax.kernels import gpu_conv
from nasjax.kernels import node as node_lib
from nasjax.kernels.taps import UNION, placement
from nasjax.layers.custom_vjps import CLIP
from nasjax.training import population

GROUPS = 100
# How the kernels are cut: lanes, frames, utterances of a partial sum, warps.
_TILES = (
  (32, 64, 2, 4), (32, 64, 1, 4), (32, 32, 2, 2), (16, 64, 2, 4),
  (64, 64, 2, 4), (64, 64, 1, 4), (64, 64, 2, 8), (32, 32, 2, 4),
)  # fmt: skip
KERNELS = {f'kernel {" ".join(map(str, t))}': t for t in _TILES}
# Width, frames and members, of the blocks at full width and small; the most
# important come first.
_SIZES = (
  (600, 304, 1), (200, 152, 16), (600, 304, 8), (1200, 76, 1), (800, 304, 1),
  (100, 304, 16), (1000, 152, 1),
)  # fmt: skip
_FIRST = 'tap_products'
# XLA tries the convolutions of its libraries out when it compiles, which can
# take longer than the stage has: they come last, at two sizes.
_LIBRARY = ('block_conv_128', 'block_conv_64', 'grouped')
_THREADS = 8
# Of ||a - b|| / ||b|| to a result of the same dtype: sums differ in order.
_ERRORS = {'bfloat16': 2e-2, 'float32': 1e-4}
_REPEATS, _PASSES = 10, 5


class Entry(NamedTuple):
  """One line of the result."""

  way: str
  width: int
  frames: int
  members: int
  dtype: str


def entries(rehearse):
  """Returns what is raced, the most important first."""
  if rehearse:
    ways = (_FIRST, 'kernel 32 32 2 2', 'block_conv_64')
    return [Entry(way, GROUPS, 40, 2, 'bfloat16') for way in ways]
  own, library = [], []
  for dtype in ('bfloat16', 'float32'):
    for n, size in enumerate(_SIZES):
      for way in (_FIRST, *KERNELS, *gpu_ways.WAYS):
        entry = Entry(way, *size, dtype)
        if way in _LIBRARY:
          library += [entry] * (n < 2 and dtype == 'bfloat16')
        elif way == 'multiply_adds' and size[0] > 2 * GROUPS:
          pass  # it takes half a minute to compile at 6 channels of a group
        elif way != _FIRST or entry not in own:
          own.append(entry)
  return own + library


def race(stage):
  """Compiles in threads, runs alone, one line after the other."""
  mesh = population.member_mesh(jax.devices()[:1])
  rows, expected = [], {}
  todo = entries(stage.rehearse)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    # In groups, for what compiles may try kernels out on the card, too.
    for start in range(0, len(todo), 2 * _THREADS):
      group = todo[start : start + 2 * _THREADS]
      programs = list(pool.map(lambda e: _compiled(e, mesh, stage), group))
      for entry, program in zip(group, programs, strict=True):
        found = _measured(entry, program, expected, stage)
        rows.append(entry._asdict() | found)
      stage.publish(
        {
          'device': jax.devices()[0].device_kind,
          'of': len(todo),
          'winners': winners(rows),
          'rows': rows,
        }
      )


def winners(rows):
  """Returns the fastest of each width, number of members and dtype.

  Returns:
    list of dict: the row, without what is not for a table, and `xla`, the
    fastest way without kernels of our own, with `xla_ms` and `xla_temp_gb`
    (None where none was right).
  """
  best = {}
  for row in rows:
    if row.get('error', 1) > _ERRORS[row['dtype']]:
      continue
    size = tuple(row[name] for name in ('width', 'members', 'dtype'))
    own, theirs = best.setdefault(size, [None, None])
    if not own or row['ms'] < own['ms']:
      best[size][0] = row
    if row['way'] not in KERNELS and (not theirs or row['ms'] < theirs['ms']):
      best[size][1] = row
  names = ('width', 'members', 'dtype', 'way', 'ms', 'temp_gb')
  return [
    {name: own[name] for name in names}
    | {
      'xla': theirs and theirs['way'],
      'xla_ms': theirs and theirs['ms'],
      'xla_temp_gb': theirs and theirs['temp_gb'],
    }
    for own, theirs in best.values()
  ]


def node(way, width):
  """Returns function of (x, kernel, bias, place, len_b): y and gradients."""
  if way in KERNELS:
    tiles = gpu_conv.Tiles(*KERNELS[way])
    shape = gpu_conv.Shape(width, GROUPS, 0.0, CLIP, tiles)

    def run(x_btl, kernel_kil, bias_l, place_uk, len_b):
      return gpu_conv.conv_node(
        x_btl, kernel_kil, bias_l, node_lib.tap_words(place_uk), len_b,
        jnp.zeros(3, jnp.uint32), shape,
      )  # fmt: skip
  else:
    run = gpu_ways.node(way)

  def both(x_btl, kernel_kil, bias_l, place_uk, len_b):
    y_btl, pull = jax.vjp(
      lambda *weights: run(*weights, place_uk, len_b),
      x_btl,
      kernel_kil,
      bias_l,
    )
    return y_btl, *pull(y_btl)

  return both


def shapes(entry, rehearse):
  """Returns the arguments of a node as shapes, members first."""
  batch, frames = 2 if rehearse else 32, entry.frames
  c, n = entry.width // GROUPS, entry.members

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((n, *sizes), dtype)

  return (
    shape(batch, frames, entry.width, dtype=jnp.dtype(entry.dtype)),
    shape(7, c, entry.width),
    shape(entry.width),
    shape(len(UNION), 7),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )


def program(entry, repeats):
  """Returns the function that runs a node of all members, again and again."""
  both = node(entry.way, entry.width)

  def run(x, kernel, bias, place, len_b, little):
    def one(x, kernel, bias, place):
      def body(i, carry):
        del i
        x, _ = carry
        results = both(x, kernel, bias, place, len_b)
        return x + little * results[1], results

      nothing = x, x, jnp.zeros_like(kernel), jnp.zeros_like(bias)
      return lax.fori_loop(0, repeats, body, (x, nothing))[1]

    # One member is not mapped, as in `population`.
    if entry.members == 1:
      return one(x[0], kernel[0], bias[0], place[0])
    return jax.vmap(one)(x, kernel, bias, place)

  return run


def _compiled(entry, mesh, stage):
  """Returns the program and its seconds, or what was wrong with it."""
  device = mesh.devices.flat[0]
  place = jax.sharding.SingleDeviceSharding(device)
  arguments = [
    jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    for leaf in (
      *shapes(entry, stage.rehearse),
      jax.ShapeDtypeStruct((), jnp.dtype(entry.dtype)),
    )
  ]
  started = time.perf_counter()
  try:
    run = jax.jit(program(entry, 1 if stage.rehearse else _REPEATS))
    return run.lower(*arguments).compile(), time.perf_counter() - started
  except Exception as e:  # one way must not end the race
    return None, f'{type(e).__name__}: {e}'[:500]


def _measured(entry, compiled, expected, stage):
  """Returns milliseconds of a node, its error, and what the compiler says.

  Args:
    entry: `Entry`.
    compiled: of `_compiled`.
    expected: results of the first way by the rest of the entry, kept here.
    stage: `gpu_stages.Stage`.
  """
  run, seconds = compiled
  if run is None:
    return {'problem': seconds}
  rng = np.random.default_rng(6)
  x, kernel, bias, place, len_b = shapes(entry, stage.rehearse)
  place_puk = np.stack([placement('conv5d2')] * entry.members)
  arguments = (
    jnp.asarray(rng.standard_normal(x.shape, np.float32), x.dtype),
    jnp.asarray(0.1 * rng.standard_normal(kernel.shape, np.float32)),
    jnp.zeros(bias.shape),
    jnp.asarray(place_puk),
    jnp.full(len_b.shape, x.shape[2]),
    jnp.zeros((), x.dtype),
  )
  repeats, taken = 1 if stage.rehearse else _REPEATS, []
  try:
    results = jax.device_get(run(*arguments))
    for _ in range(_PASSES):
      started = time.perf_counter()
      jax.block_until_ready(run(*arguments))
      taken.append((time.perf_counter() - started) / repeats)
  except Exception as e:  # a kernel that fails where it runs
    return {'problem': f'{type(e).__name__}: {e}'[:500]}
  reference = expected.setdefault(entry._replace(way=''), results)
  return {
    'ms': 1e3 * statistics.median(taken),
    'error': max(map(_error, results, reference)),
    'compile_s': seconds,
    'temp_gb': run.memory_analysis().temp_size_in_bytes / 1e9,
  }


def _error(found, expected):
  found, expected = np.float32(found), np.float32(expected)
  return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
