"""Stage `race`: ways to write a cell's grouped convolution, on the card.

Every way of `gpu_conv.WAYS`, block products of other widths, and what is tried
here: convolutions whose groups are blocks of whole groups, and Pallas kernels.
Times are of a node, forward and backward: mask, convolution, bias, clipped
ReLU. Repetitions are a loop in one program; each takes what the one before made
of its input (nothing, by a factor of 0 that the compiler does not know), so
that none is left out. Results are compared with those of `grouped`.
"""

import concurrent.futures
import functools
import itertools
import statistics
import time
from typing import NamedTuple

import gpu_pallas
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nasjax import population
from nasjax.accelerated import channels, gpu_conv, layers
from nasjax.taps import UNION, placement

GROUPS = 100
_LANES = (16, 32, 64, 128)
# Frames of the blocks of these widths: at full width and small.
_FRAMES = {600: 304, 200: 152, 1200: 76, 100: 304, 800: 304, 1000: 152}
_THREADS = 6
# Of ||a - b|| / ||b|| to a result of the same dtype: sums differ in order.
_ERRORS = {'bfloat16': 2e-2, 'float32': 1e-4}
_REPEATS, _PASSES = 10, 5


class Entry(NamedTuple):
  """One line of the result."""

  way: str
  width: int
  dtype: str
  members: int


def block_conv(x_btl, kernel_uil, lanes=128):
  """A grouped convolution of larger groups: block-diagonal kernels.

  As `gpu_conv.grouped`; tensor cores want 8 channels of a group at least.
  """
  taps, c, width = kernel_uil.shape
  groups = width // c
  most = max(1, lanes // c)
  size = next(s for s in range(most, 0, -1) if groups % s == 0)
  kernel_uingj = kernel_uil.reshape(taps, c, groups // size, size, c)
  eye_hg = jnp.eye(size, dtype=kernel_uil.dtype)
  wide = jnp.einsum('uingj,hg->uhingj', kernel_uingj, eye_hg)
  return gpu_conv.grouped(x_btl, wide.reshape(taps, size * c, width))


def ways():
  """Returns all ways by name, functions as `gpu_conv.grouped`."""
  found = dict(gpu_conv.WAYS)
  for lanes in _LANES:
    found[f'block_products_{lanes}'] = functools.partial(
      gpu_conv.block_products, lanes=lanes
    )
  for lanes in (64, 128):
    found[f'block_conv_{lanes}'] = functools.partial(block_conv, lanes=lanes)
  del found['block_products']
  return found | {'pallas': gpu_pallas.pallas}


def use(fastest):
  """Makes some ways those of all networks of this process.

  Args:
    fastest: the name of the way for each number of channels of a group;
      `grouped` is for all others.
  """
  default, own = gpu_conv.conv, ways()

  def best(x_btl, kernel_uil):
    name = fastest.get(kernel_uil.shape[1], 'grouped')
    return own[name](x_btl, kernel_uil)

  gpu_conv.WAYS['fastest'] = best
  gpu_conv.conv = lambda: default('fastest')


def entries(rehearse):
  """Returns what is raced, the most important first."""
  if rehearse:
    widths, dtypes, members = (GROUPS,), ('bfloat16',), (2,)
  else:
    widths = tuple(_FRAMES)
    dtypes, members = ('bfloat16', 'float32'), (1, 8)
  return [
    Entry(way, width, dtype, n)
    for dtype, width, n in itertools.product(dtypes, widths, members)
    for way in ways()
    # It takes half a minute to compile at 6 channels of a group.
    if way != 'multiply_adds' or width // GROUPS <= 2
  ]


def race(stage):
  """Compiles in threads, runs alone, one line after the other."""
  mesh = population.member_mesh(jax.devices()[:1])
  rows, expected = [], {}
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    todo = entries(stage.rehearse)
    # In groups, for what compiles tries kernels out on the card, too.
    for start in range(0, len(todo), 4 * _THREADS):
      group = todo[start : start + 4 * _THREADS]
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
  """Returns the fastest way of each width, dtype and number of members."""
  best = {}
  for row in rows:
    key = tuple(row[name] for name in ('width', 'dtype', 'members'))
    right = row.get('error', 1) <= _ERRORS[row['dtype']]
    if right and (key not in best or row['ms'] < best[key]['ms']):
      best[key] = row
  return [
    {n: row[n] for n in ('width', 'dtype', 'members', 'way', 'ms', 'temp_gb')}
    for row in best.values()
  ]


def _product(way):
  """The `layers.Product` of a way, as `gpu_conv.conv` has it."""

  def forward(x_btl, kernel_kil, context):
    place_uk, len_b = context
    kernel_uil = jnp.einsum(
      'uk,kil->uil', place_uk, kernel_kil, precision='highest'
    )
    x_btl = layers.masked(x_btl, len_b, 1)
    return way(x_btl, kernel_uil.astype(x_btl.dtype))

  def backward(x_btl, kernel_kil, context, dz_btl):
    _, pull = jax.vjp(
      lambda x, kernel: forward(x, kernel, context), x_btl, kernel_kil
    )
    return pull(dz_btl)

  return layers.Product(forward, backward)


def node(way, width):
  """Returns function of (x, kernel, bias, place, len_b): y and gradients."""
  rest = layers.Rest(channels.by_group(width, GROUPS), 1, 0.0)
  op = _product(way)

  def both(x_btl, kernel_kil, bias_l, place_uk, len_b):
    y, pull = jax.vjp(
      lambda *arguments: layers.activated(
        op, rest, *arguments, (place_uk, len_b), None
      ),
      x_btl,
      kernel_kil,
      bias_l,
    )
    return y, *pull(y)

  return both


def shapes(entry, rehearse):
  """Returns the arguments of a node as shapes, members first."""
  batch, frames = (2, 40) if rehearse else (32, _FRAMES[entry.width])
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
  both = node(ways()[entry.way], entry.width)

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
