"""Times DARTS-ASR's operations on planes, and its mixture against PyTorch.

  python experiments/conv2d_speed.py --json=results/conv2d_speed.json

Three parts, each value and gradient of steps in a loop, as training has them
(XLA compiles what stands alone otherwise: on CPUs it once was 20 times as fast,
which no training saw); least of --rounds, all in turns so that other work on
the machine meets them alike:

  operations  each convolution as the networks have it (masked, with ReLU and
              batch normalisation, times a weight) against XLA's convolution of
              the same size alone; `share` is what of that one's throughput is
              left, `share_of_best` of the best of the four, which is taken for
              what the machine can do
  mixture     the seven candidates of an edge together, likewise; and what
              memory they take as XLA's analysis says, in multiples of the
              dearest one
  race        steps of training of the whole mixture (--nodes, LSTMs, CTC) and
              the same network, weights and batch in PyTorch, where it can be
              imported; utterances are as long as the batch, where PyTorch needs
              no masks. Losses of the first step tell that both are the same.

`processor` is the time of all cores together, which other work lengthens less.
LSTMs take their steps one by one; --lstms=1 --lstm=8 races the planes alone.

Two cores of an AMD EPYC with four times the work that they can do, by the
processor, `--features=83 --utterances=2 --frames=100 --rounds=3` (32 channels):
the best convolution alone makes 189 GFLOP/s; masked, with ReLU and batch
normalisation, those of 3 and 5 taps keep 66 and 91 % of what they make alone,
dilated 78 and 87 %; the mixture of seven 68 % of its four one after the other
(118 GFLOP/s), and takes 2.6 times the memory of its dearest candidate. Of the
best alone, that is 50 to 91 % and 63 %.
"""

import json
import math
import time

import numpy as np
from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_integer('utterances', 4, 'Utterances a batch.', lower_bound=1)
flags.DEFINE_integer('frames', 300, 'Frames of each.', lower_bound=8)
flags.DEFINE_integer('features', 80, 'Features a frame.', lower_bound=3)
flags.DEFINE_integer('channels', 32, 'Channels of a node.', lower_bound=1)
flags.DEFINE_integer('stride', 1, 'Of the first projection.', lower_bound=1)
flags.DEFINE_integer('nodes', 5, 'Nodes of the network raced.', lower_bound=1)
flags.DEFINE_integer('lstm', 360, 'Hidden units of a direction.', lower_bound=1)
flags.DEFINE_integer('lstms', 3, 'Layers of LSTMs.', lower_bound=1)
flags.DEFINE_integer('rounds', 5, 'Times of each.', lower_bound=1)
flags.DEFINE_list('parts', ['operations', 'mixture', 'race'], 'What is timed.')
flags.DEFINE_bool('torch', True, 'Whether PyTorch takes its turns.')
flags.DEFINE_bool(
  'autotune',
  False,
  'Whether XLA times its ways of each convolution on a GPU; training does '
  'without.',
)
_PARTS = 'operations', 'mixture', 'race'
_STEPS = 4


def _macro():
  from nasjax.models import macros

  return macros.Graph(
    'raced', lstm=FLAGS.lstm, lstms=FLAGS.lstms, outputs=48,
    features=FLAGS.features, stride=FLAGS.stride, width=FLAGS.channels,
  )  # fmt: skip


def timed(functions):
  """Returns seconds and processor seconds of a step of each, its least.

  Args:
    functions: dict of functions that make `_STEPS` steps, which are done when
      they return; the first call of each does not count.
  """
  for function in functions.values():
    function()
  found = {name: (math.inf, math.inf) for name in functions}
  for _ in range(FLAGS.rounds):
    for name, function in functions.items():
      wall, processor = time.perf_counter(), time.process_time()
      function()
      spent = time.perf_counter() - wall, time.process_time() - processor
      found[name] = tuple(map(min, found[name], spent))
  return {
    name: tuple(seconds / _STEPS for seconds in spent)
    for name, spent in found.items()
  }


def _options():
  """Returns what XLA is told, on GPUs as `population.compiler_options`.

  Not asked of it: here nothing is needed that only transcripts need.
  """
  import jax

  if jax.devices()[0].platform != 'gpu' or FLAGS.autotune:
    return None
  return {'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False}


def _looped(run, weights, planes):
  """Compiles some steps in a loop, as training has them.

  XLA compiles a loop otherwise than what stands alone: for CPUs it was 20 times
  as slow once. In a loop nothing may be computed ahead, or left out: a step
  begins with the gradient that the last one found for its plane.

  Args:
    run: (weights, x_btfc) -> y_btfc, and what else it finds.
    weights: moved by their gradients.
    planes: x_btfc and dy_btfc, the gradient by y_btfc.

  Returns:
    the program, and a call of it that waits for its end.
  """
  import jax
  import jax.numpy as jnp

  def step(carry, _):
    weights, x_btfc, dy_btfc, *_ = carry
    y_btfc, pull, seen = jax.vjp(run, weights, x_btfc, has_aux=True)
    slopes, dx_btfc = pull(dy_btfc)
    weights = jax.tree.map(lambda w, d: w - 1e-3 * d, weights, slopes)
    return (weights, dx_btfc, dy_btfc, y_btfc, seen), None

  def steps(weights, x_btfc, dy_btfc):
    found = jax.eval_shape(run, weights, x_btfc)
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)
    start = weights, x_btfc, dy_btfc, *first
    return jax.lax.scan(step, start, length=_STEPS)[0]

  program = jax.jit(steps, compiler_options=_options())
  program = program.lower(weights, *planes).compile()
  return program, lambda: jax.block_until_ready(program(weights, *planes))


def _plane():
  """Returns the planes of a batch, gradients by them, lengths and a key."""
  import jax.numpy as jnp

  macro, rng = _macro(), np.random.default_rng(0)
  shape = (
    FLAGS.utterances, macro.output_frames(FLAGS.frames),
    macro.output_frames(FLAGS.features), FLAGS.channels,
  )  # fmt: skip
  x_btfc, dy_btfc = (
    jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2)
  )
  # From half as long to as long as the batch, as buckets hold them.
  len_b = jnp.linspace(shape[1] / 2, shape[1], shape[0]).astype(jnp.int32)
  return x_btfc, dy_btfc, len_b, jnp.array([1, 2], jnp.uint32)


def _params(names):
  import jax

  from nasjax.models.darts_asr import network
  from nasjax.spaces.darts_asr import CONVOLUTIONS

  width, key = FLAGS.channels, jax.random.key(1)
  return {
    name: network.layer_params(key, CONVOLUTIONS[name][0], width, width)
    for name in names
    if name in CONVOLUTIONS
  }


def _edge(names, weights, x_btfc, len_b, key):
  """What an edge of the mixture makes of its input, as the network does."""
  from nasjax import kernels
  from nasjax.models.darts_asr import network

  kind, (params, weight_k) = kernels.choose(), weights
  x_btfc, seen, y_btfc = network.node(x_btfc, len_b, kind), {}, 0.0
  for k, name in enumerate(names):
    (own_btfc,), (seen[name],) = network.operated(
      name, _macro().epsilon, 'float32', [params.get(name, {})], x_btfc,
      (len_b, key), [weight_k[k]],
    )  # fmt: skip
    y_btfc = y_btfc + own_btfc
  return network.node(y_btfc, len_b, kind), seen


def _stepped(names):
  """Returns value and gradient of an edge of these candidates, compiled."""
  import jax.numpy as jnp

  *planes, len_b, key = _plane()
  weights = _params(names), jnp.full(len(names), 1 / len(names))
  return _looped(lambda *own: _edge(names, *own, len_b, key), weights, planes)


def _plain(name):
  """Returns value and gradient of a convolution alone, compiled."""
  from nasjax.layers import planes
  from nasjax.spaces.darts_asr import CONVOLUTIONS

  dilation, (*own, _, _) = CONVOLUTIONS[name][1], _plane()

  def run(kernel_hwcn, x_btfc):
    return planes.conv(x_btfc, kernel_hwcn, dilation), ()

  return _looped(run, _params([name])[name]['kernel'], own)


def _flops(names):
  """FLOPs of the convolutions among `names`, forward and both backward."""
  from nasjax.spaces.darts_asr import CONVOLUTIONS

  x_btfc = _plane()[0]
  taps = sum(CONVOLUTIONS[n][0] ** 2 for n in names if n in CONVOLUTIONS)
  return 3 * 2 * x_btfc.size * FLAGS.channels * taps


def operations(with_mixture):
  """Returns the figures of the first two parts."""
  import jax

  from nasjax.programs import memory
  from nasjax.spaces.darts_asr import CONVOLUTIONS, OPS

  programs, calls = {}, {}
  for name in CONVOLUTIONS:
    programs[name], calls[name] = _stepped((name,))
    _, calls[f'plain {name}'] = _plain(name)
  if with_mixture:
    for name in OPS[len(CONVOLUTIONS) :]:
      programs[name], calls[name] = _stepped((name,))
    programs['mixture'], calls['mixture'] = _stepped(OPS)
  # Of the processor on CPUs: other programs lengthen that less.
  clock = int(jax.devices()[0].platform == 'cpu')
  spent = timed(calls)

  def rate(call, names):
    return _flops(names) / spent[call][clock] / 1e9

  plain = {name: rate(f'plain {name}', (name,)) for name in CONVOLUTIONS}
  best = max(plain.values())
  found = {'machine_gflops': best, 'operations': {}}
  for name in CONVOLUTIONS:
    own = rate(name, (name,))
    found['operations'][name] = {
      'gflops': own, 'plain_gflops': plain[name], 'share': own / plain[name],
      'share_of_best': own / best, 'seconds': spent[name][0],
      'processor': spent[name][1],
    }  # fmt: skip
  if with_mixture:
    size = {name: memory.program_bytes(p) for name, p in programs.items()}
    alone = sum(_flops((n,)) / plain[n] / 1e9 for n in CONVOLUTIONS)
    found['mixture'] = {
      'gflops': rate('mixture', OPS),
      # Against its four convolutions one after the other, nothing else.
      'share': alone / spent['mixture'][clock],
      'share_of_best': rate('mixture', OPS) / best,
      'seconds': spent['mixture'][0], 'processor': spent['mixture'][1],
      'bytes': size['mixture'],
      'bytes_of_one': max(size[name] for name in OPS),
      'times_the_memory': size['mixture'] / max(size[name] for name in OPS),
      'seconds_of_each': {name: spent[name][0] for name in OPS},
    }  # fmt: skip
  return found


def _ours(ops, x_btf, labels_bl, lr):
  """Returns first parameters, and a function that makes steps of training.

  That one returns the loss of the first of them.
  """
  import jax
  import jax.numpy as jnp
  import optax

  from nasjax import kernels
  from nasjax.layers.mixed_op import Edge
  from nasjax.losses import ctc
  from nasjax.models import families
  from nasjax.models.darts_asr import network as network_lib

  network = network_lib.Network(_macro(), ops, kernels=kernels.choose())
  x_btf, labels_bl = jnp.asarray(x_btf), jnp.asarray(labels_bl)
  batch, frames = x_btf.shape[:2]
  len_b = jnp.full(batch, frames)
  key, zero = jnp.array([1, 2], jnp.uint32), jnp.int32(0)

  def gates(alpha_ek):
    return tuple(Edge(jax.nn.softmax(a_k), zero, zero) for a_k in alpha_ek)

  def objective(params, alpha_ek):
    (logits_btv, n_b), seen = families.observed(
      network, params, x_btf, len_b, gates(alpha_ek), key
    )
    loss = ctc.mean_ctc_loss(
      logits_btv, n_b, labels_bl, jnp.full(batch, labels_bl.shape[1]),
      normalise='none',
    )  # fmt: skip
    return loss, seen

  weights = optax.chain(
    optax.add_decayed_weights(3e-4), optax.sgd(lr, momentum=0.9)
  )
  searched = optax.chain(
    optax.add_decayed_weights(1e-3), optax.adam(1e-4, b1=0.5)
  )

  def step(state, _):
    params, alpha_ek, *opts = state
    (loss, seen), (dparams, dalpha) = jax.value_and_grad(
      objective, (0, 1), has_aux=True
    )(params, alpha_ek)
    changes, first = weights.update(dparams, opts[0], params)
    moves, second = searched.update(dalpha, opts[1], alpha_ek)
    params = families.replaced(optax.apply_updates(params, changes), seen)
    alpha_ek = optax.apply_updates(alpha_ek, moves)
    return (params, alpha_ek, first, second), loss

  def begun(seed):
    alpha_ek = tuple(jnp.zeros(len(names)) for names in ops)
    params = network.init(
      jax.random.key(seed), x_btf[:1, : 2 * FLAGS.stride],
      len_b[:1] * 0 + 2 * FLAGS.stride, gates(alpha_ek),
    )['params']  # fmt: skip
    opts = weights.init(params), searched.init(alpha_ek)
    return params, alpha_ek, *opts

  state = jax.jit(begun)(0)
  program = jax.jit(
    lambda state: jax.lax.scan(step, state, length=_STEPS),
    donate_argnums=(0,), compiler_options=_options(),
  )  # fmt: skip
  params = jax.tree.map(np.array, state[0])
  held = [state]

  def run():
    held[0], loss_s = program(held[0])
    return float(loss_s[0])

  return params, run


def race():
  """Returns the figures of the last part."""
  from nasjax.spaces.darts_asr import OPS

  edges = FLAGS.nodes * (FLAGS.nodes + 1) // 2
  ops, rng = (OPS,) * edges, np.random.default_rng(2)
  shape = FLAGS.utterances, FLAGS.frames, FLAGS.features
  x_btf = rng.normal(size=shape).astype(np.float32)
  labels = max(1, _macro().output_frames(FLAGS.frames) // 8)
  labels_bl = rng.integers(1, 48, (FLAGS.utterances, labels)).astype(np.int32)
  params, ours = _ours(ops, x_btf, labels_bl, 1e-3)
  found, calls = {'loss': ours()}, {'ours': ours}
  if FLAGS.torch:
    try:
      from races import torch_planes
    except ImportError as e:
      found['torch'] = f'left out: {e}'
    else:
      theirs = torch_planes.stepper(
        _macro(), ops, params, x_btf, labels_bl, 1e-3
      )
      found['torch_loss'] = theirs()
      calls['torch'] = lambda: [theirs() for _ in range(_STEPS)]
  for name, (wall, processor) in timed(calls).items():
    found[f'{name}_seconds'] = wall
    found[f'{name}_processor'] = processor
  if 'torch_seconds' in found:
    # On CPUs by the processor, as above.
    import jax

    clock = 'processor' if jax.devices()[0].platform == 'cpu' else 'seconds'
    found['times_as_fast'] = found[f'torch_{clock}'] / found[f'ours_{clock}']
  return found


def run():
  """Times the parts that the flags name, and prints JSON."""
  import jax

  unknown = [part for part in FLAGS.parts if part not in _PARTS]
  if unknown or not FLAGS.parts:
    raise ValueError(
      f'--parts={",".join(FLAGS.parts)}: want some of {", ".join(_PARTS)}'
    )
  started = time.perf_counter()
  names = 'utterances', 'frames', 'features', 'channels', 'stride', 'nodes'
  found = {
    'device': jax.devices()[0].device_kind,
    **{name: FLAGS[name].value for name in (*names, 'lstm', 'lstms')},
  }
  if {'operations', 'mixture'} & set(FLAGS.parts):
    found |= operations('mixture' in FLAGS.parts)
    found['whole_seconds'] = time.perf_counter() - started
    print(json.dumps(found, indent=1), flush=True)
  if 'race' in FLAGS.parts:
    found['race'] = race()
    found['whole_seconds'] = time.perf_counter() - started
    print(json.dumps(found, indent=1), flush=True)
  if FLAGS.json:
    command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
