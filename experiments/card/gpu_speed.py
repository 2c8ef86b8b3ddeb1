"""Stages `speed` and `members`: how fast populations train on the card.

Steps of the real training program, its state resident: forward, CTC, backward,
clipping, Adam, dropout. `speed` has the cells that are compared with PyTorch,
`members` more cells, and populations that grow until memory ends.
"""

import concurrent.futures
import statistics
import time

import jax
import jax.numpy as jnp
from card import gpu_profile, gpu_training

from nasjax.programs import memory
from nasjax.training import population

# Macro network, cells, precision, members, and whether cells are kept for their
# gradient or computed again. The most important come first.
_SPEED = (
  ('small', 'mixture', 'bfloat16', 16, 'again'),
  ('nb_asr', 'mixture', 'bfloat16', 1, 'again'),
  ('nb_asr', 'mixture', 'bfloat16', 8, 'again'),
  ('small', 'mixture', 'bfloat16', 64, 'again'),
  ('nb_asr', 'conv', 'bfloat16', 8, 'again'),
  ('nb_asr', 'linear', 'bfloat16', 8, 'again'),
  ('small', 'mixture', 'bfloat16', 16, 'kept'),
  ('nb_asr', 'mixture', 'bfloat16', 8, 'kept'),
  ('small', 'mixture', 'bfloat16', 1, 'kept'),
  ('nb_asr', 'mixture', 'bfloat16', 1, 'kept'),
  ('small', 'mixture', 'float32', 16, 'kept'),
  ('nb_asr', 'mixture', 'float32', 1, 'kept'),
)
_MEMBERS = (
  ('small', 'mixture', 'bfloat16', 256, 'again'),
  ('nb_asr', 'mixture', 'bfloat16', 32, 'again'),
  ('small', 'mixture', 'bfloat16', 4, 'kept'),
  ('nb_asr', 'mixture', 'bfloat16', 2, 'kept'),
  ('small', 'conv', 'bfloat16', 16, 'kept'),
  ('small', 'linear', 'bfloat16', 16, 'kept'),
  ('nb_asr', 'linear', 'bfloat16', 8, 'kept'),
  ('nb_asr', 'conv', 'bfloat16', 8, 'kept'),
  ('small', 'mixture', 'bfloat16', 512, 'again'),
  ('nb_asr', 'mixture', 'bfloat16', 64, 'again'),
  ('small', 'mixture', 'bfloat16', 128, 'kept'),
  ('nb_asr', 'mixture', 'bfloat16', 16, 'kept'),
  ('nb_asr', 'mixture', 'float32', 8, 'kept'),
  ('small', 'mixture', 'float32', 64, 'kept'),
  ('small', 'mixture', 'bfloat16', 8, 'kept'),
  ('small', 'mixture', 'bfloat16', 32, 'kept'),
  ('small', 'mixture', 'bfloat16', 2, 'kept'),
  ('nb_asr', 'mixture', 'bfloat16', 4, 'kept'),
  ('small', 'conv', 'float32', 16, 'kept'),
  ('small', 'linear', 'float32', 16, 'kept'),
  ('nb_asr', 'conv', 'float32', 1, 'kept'),
  ('nb_asr', 'linear', 'float32', 1, 'kept'),
)
_REHEARSED = {
  'speed': (('pocket', 'mixture', 'bfloat16', 2, 'again'),),
  'members': (('pocket', 'linear', 'float32', 1, 'kept'),),
}
_BATCH, _FRAMES = 32, 304
_STEPS, _WARM_UP = 16, 2
_THREADS = 4
_PASSES, _SECONDS = 3, 1.0  # of timing: at least so many, and about so long


def speed(stage):
  _run(stage, _REHEARSED['speed'] if stage.rehearse else _SPEED)


def members(stage):
  _run(stage, _REHEARSED['members'] if stage.rehearse else _MEMBERS)


def setups(cells, rehearse):
  """Returns the `Setup` of each of `cells`."""
  batch, frames = (4, 48) if rehearse else (_BATCH, _FRAMES)
  return [
    gpu_training.Setup(*cell, batch, frames, how == 'again')
    for *cell, how in cells
  ]


def _run(stage, cells):
  """Compiles some programs at a time, and times them one after the other."""
  mesh = population.member_mesh(jax.devices()[:1])
  device = mesh.devices.flat[0]
  found = {
    'device': device.device_kind,
    'memory_gb': _memory(device, 'bytes_limit'),
    'peaks': peaks(512 if stage.rehearse else 8192),
    'rows': [],
  }
  stage.publish(found)
  todo = setups(cells, stage.rehearse)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    # While programs are timed none is compiled: that uses the card, too.
    for start in range(0, len(todo), _THREADS):
      trainings = [
        gpu_training.Training(setup, mesh, _STEPS, 'gpu')
        for setup in todo[start : start + _THREADS]
      ]
      for training, compiled in zip(
        trainings, pool.map(_compiled, trainings), strict=True
      ):
        row = _row(training, compiled, found['peaks'])
        found['rows'].append(row)
        stage.publish(found)


def peaks(size):
  """FLOP/s of square products on the device, the best of ten.

  Factors as they are: bfloat16, and float32 without rounding.
  """
  found = {}
  for dtype in ('bfloat16', 'float32'):
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision='highest'))
    product(a).block_until_ready()
    best = float('inf')
    for _ in range(10):
      started = time.perf_counter()
      product(a).block_until_ready()
      best = min(best, time.perf_counter() - started)
    found[dtype] = 2 * size**3 / best
  return found


def _memory(device, name):
  return (device.memory_stats() or {}).get(name, 0) / 1e9


def _compiled(training):
  """Returns the program and its seconds, or what was wrong with it."""
  started = time.perf_counter()
  try:
    return training.compiled(), time.perf_counter() - started
  except Exception as e:  # one program must not end the stage
    return None, f'{type(e).__name__}: {e}'[:500]


def _row(training, compiled, peak):
  """Runs a program; returns a line of the result."""
  setup, (program, seconds) = training.setup, compiled
  row = setup._asdict()
  if program is None:
    return row | {'problem': seconds}
  told = program.memory_analysis()
  device = training.mesh.devices.flat[0]
  needed, limit = memory.program_bytes(program), _memory(device, 'bytes_limit')
  row |= {
    'compile_s': seconds,
    'temp_gb_per_member': told.temp_size_in_bytes / 1e9 / setup.members,
    'needed_gb': needed / 1e9,
  }
  if limit and needed / 1e9 > limit:
    return row | {'problem': f'memory: of {limit:.1f} GB'}
  try:
    step_s, run = _seconds(training, program)
  except RuntimeError as e:
    if not memory.exhausted(e):
      raise
    return row | {'problem': f'memory: {str(e).splitlines()[0][:300]}'}
  flops = setup.flops() * setup.members / step_s
  return row | {
    'step_ms': 1e3 * step_s,
    'member_steps_per_second': setup.members / step_s,
    'share_of_peak': flops / peak[setup.precision],
    'peak_gb': _memory(device, 'peak_bytes_in_use'),
    'profile': _profile(run, program),
    **_repeated(training, program),
  }


def _repeated(training, program):
  """Runs a few steps from one start again: are the weights the same bits?

  Returns:
    dict of same_bits, and bits, by which processes can be compared.
  """

  @jax.jit
  def checksum(params_p):
    return sum(
      jnp.sum(jax.lax.bitcast_convert_type(leaf, jnp.uint32), dtype=jnp.uint32)
      for leaf in jax.tree.leaves(params_p)
    )

  found = []
  for _ in range(2):
    members_p, *between, _, end = training.arguments(training.members())
    members_p, _ = program(members_p, *between, training.steps(_WARM_UP), end)
    found.append(int(checksum(members_p.params)))
    del members_p
  return {'same_bits': found[0] == found[1], 'bits': found[0]}


def _profile(run, program):
  try:
    return gpu_profile.kernels(run, program.as_text(), _WARM_UP)
  except Exception as e:  # a card without a profiler has speeds all the same
    return {'problem': f'{type(e).__name__}: {e}'[:300]}


def _seconds(training, program):
  """Times steps of the whole population.

  Returns:
    median seconds of one; a function that runs a few more.
  """
  members_p, *between, _, constants = training.arguments(training.members())
  counts = {n: training.steps(n) for n in (_WARM_UP, _STEPS)}

  def run(members_p, steps):
    started = time.perf_counter()
    members_p, loss_p = program(members_p, *between, counts[steps], constants)
    jax.block_until_ready((members_p, loss_p))
    return members_p, (time.perf_counter() - started) / steps

  members_p, _ = run(members_p, _WARM_UP)
  taken = []
  while len(taken) < _PASSES or sum(taken) * _STEPS < _SECONDS:
    members_p, seconds = run(members_p, _STEPS)
    taken.append(seconds)
  if not bool(jnp.all(members_p.alive)):
    raise ValueError('a member diverged: its steps changed nothing')
  kept = [members_p]

  def again():
    kept[0], _ = run(kept[0], _WARM_UP)

  return statistics.median(taken), again
