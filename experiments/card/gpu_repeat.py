"""Stages `repeat` and `repeat_part`: does one seed give the same bits again?

A population is trained from the same start three times in each of four
processes: two as they come, two with XLA_FLAGS=--xla_gpu_deterministic_ops.
Processes share no compiled program, so what XLA chose by timing may differ.
Where bits do, the operations are run singly, with all their gradients.
"""

import functools
import hashlib
import json
import os
import subprocess
import tempfile

import numpy as np
from card import gpu_plan

_SAME_BITS = '--xla_gpu_deterministic_ops=true'
_RUNS, _STEPS = 3, 20


def repeat(stage):
  """Runs the four processes and compares the weights they end with."""
  names = ('plain', 'plain_again')
  if not stage.rehearse:
    names += ('flag', 'flag_again')
  with tempfile.TemporaryDirectory(prefix='nasjax-repeat-') as place:
    started = [_start(stage, name, place) for name in names]
    parts = {}
    for name, process in zip(names, started, strict=True):
      said, wrong = process.communicate()
      told = said.splitlines()
      if process.returncode or not told:
        parts[name] = {'failed': wrong.strip()[-1500:]}
      else:
        parts[name] = json.loads(told[-1])
      stage.publish({'steps': _STEPS, 'runs': _RUNS, 'processes': parts})
    between = {
      kind: _between(place, kind, f'{kind}_again')
      for kind in names[::2]
      if not ('failed' in parts[kind] or 'failed' in parts[f'{kind}_again'])
    }
  stage.publish(
    {'steps': _STEPS, 'runs': _RUNS, 'processes': parts, 'between': between}
  )


def _start(stage, name, place):
  flags = os.environ.get('XLA_FLAGS', '')
  if name.startswith('flag'):
    flags = f'{flags} {_SAME_BITS}'
  words = gpu_plan.command(
    'repeat_part', stage.out, stage.left, stage.rehearse,
    weights=os.path.join(place, f'{name}.npy'),
  )  # fmt: skip
  return subprocess.Popen(
    words,
    env=os.environ | {'XLA_FLAGS': flags.strip()},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _between(place, one, other):
  """Compares the weights of two processes."""
  a, b = (np.load(os.path.join(place, f'{n}.npy')) for n in (one, other))
  return _difference(a, b)


def _difference(a, b):
  """How two vectors of float32 differ."""
  a, b = np.float32(a), np.float32(b)
  unequal = a.view(np.uint32) != b.view(np.uint32)
  return {
    'same_bits': not unequal.any(),
    'unequal': float(np.mean(unequal)),
    'largest': float(np.max(np.abs(a - b), initial=0)),
    'relative': float(
      np.linalg.norm(a - b) / max(np.linalg.norm(b), np.finfo(float).tiny)
    ),
  }


def repeat_part(stage):
  """One process; prints a JSON object."""
  import jax
  from card import gpu_training

  from nasjax.training import population

  macro, batch, frames = (
    ('pocket', 4, 48) if stage.rehearse else ('small', 32, 304)
  )
  setup = gpu_training.Setup(macro, 'mixture', 'bfloat16', 2, batch, frames)
  mesh = population.member_mesh(jax.devices()[:1])
  training = gpu_training.Training(setup, mesh, _STEPS, 'gpu')
  program = training.compiled()
  ends = []
  for _ in range(_RUNS):
    members_p, _ = program(*training.arguments(training.members()))
    ends.append(flat(members_p.params))
  np.save(stage.options['weights'], ends[0])
  different = [_difference(end, ends[0]) for end in ends[1:]]
  print(
    json.dumps(
      {
        'hash': hashlib.sha256(ends[0].tobytes()).hexdigest()[:16],
        'runs': different,
        'operations': _operations(stage.rehearse),
      }
    )
  )


def flat(tree):
  """Returns all numbers of a tree of arrays, one behind the other."""
  import jax

  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(x, np.float32).ravel() for x in leaves])


def _operations(rehearse):
  """Runs each operation and its gradients again; how results differ."""
  import jax

  found = {}
  for name, (function, arguments) in cases(rehearse).items():
    run = jax.jit(functools.partial(_with_gradients, function))
    first = flat(run(*arguments))
    found[name] = max(
      (_difference(flat(run(*arguments)), first) for _ in range(2)),
      key=lambda d: d['unequal'],
    )
  return found


def _with_gradients(function, *arguments):
  import jax
  import jax.numpy as jnp

  y, pull = jax.vjp(function, *arguments)
  # Not all ones: sums of equal numbers hide the order of summation.
  return y, pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def cases(rehearse):
  """Returns for each operation a function and its arguments, bfloat16."""
  import jax.numpy as jnp

  from nasjax.kernels import gpu_conv
  from nasjax.layers import custom_vjps
  from nasjax.losses import ctc
  from nasjax.models.nb_asr.accelerated import channels, layers

  sizes = (2, 24, 16, 8) if rehearse else (32, 304, 200, 100)
  rows, frames, width, groups = sizes
  rng = np.random.default_rng(5)

  def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(rng.normal(size=shape), dtype)

  x_btl = normal(rows, frames, width, dtype=jnp.bfloat16)
  len_b = jnp.full(rows, frames)
  lanes = channels.by_group(width, groups)
  opening = layers.unfolded_conv(2)
  shape = gpu_conv.Shape(width, groups, 0.2, custom_vjps.CLIP)
  taps_n = jnp.array([5, -4, -2, 0, 2, 4, 0, 0])
  labels = frames // 8
  labels_bl = jnp.asarray(rng.integers(1, 48, (rows, labels)), jnp.int32)
  return {
    'block convolution': (
      lambda x, k: _through(opening, x, k, len_b),
      (x_btl, normal(8, width, width)),
    ),
    'grouped convolution': (
      lambda x, k, b: gpu_conv.conv_node(
        x, k, b, taps_n, len_b, jnp.arange(3, dtype=jnp.uint32), shape
      ),
      (x_btl, normal(7, width // groups, width), normal(width)),
    ),
    'linear': (layers.dense, (x_btl, normal(width, width))),
    'layer norm': (
      lambda x, s, b: layers.layer_norm(x, s, b, lanes, 1e-3),
      (x_btl, normal(width), normal(width)),
    ),
    'lstm': (
      lambda z, k: custom_vjps.recurrence(z, k, None),
      (normal(frames // 4, rows, 4 * width), 0.1 * normal(width, 4 * width)),
    ),
    'ctc': (
      lambda logits: ctc.mean_ctc_loss(
        logits, len_b, labels_bl, jnp.full(rows, labels)
      )[None],
      (normal(rows, frames, 48),),
    ),
  }


def _through(op, x_btl, kernel, context):
  """A `layers.Product` with its own gradient."""
  import jax

  @jax.custom_vjp
  def product(x, kernel):
    return op.forward(x, kernel, context)

  product.defvjp(
    lambda x, kernel: (product(x, kernel), (x, kernel)),
    lambda kept, dz: op.backward(*kept, context, dz.astype(kept[0].dtype)),
  )
  return product(x_btl, kernel)
