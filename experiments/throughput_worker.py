"""Times one engine in a process of its own; `throughput.py` starts it.

Its argument is a JSON object (engine, width, cells, members, seeds_of_one,
steps); it prints one, with the seconds of each timed step and the matmul peak.
"""

import json
import sys
import time

import numpy as np

from nasjax import cost, models, recipes, spaces

SPACE = spaces.NB_ASR
BATCH, FRAMES, LABELS = 8, 200, 20
MACROS = {'full': models.NB_ASR, 'small': models.SMALL}
LINEAR = [[0, 0], [0, 0, 0], [0, 0, 0, 0]]
CONV = [[1, 1], [1, 1, 1], [1, 1, 1, 1]]
MIXTURE = [[3, 1], [1, 0, 1], [0, 1, 0, 1]]
RECIPE = recipes.Recipe(
  'throughput', 1, batch=BATCH, batch_long=BATCH, buckets=1, l2=0.0,
  curriculum=(),
)  # fmt: skip


def archs(cells, members):
  """The cells of a population: one signature, different convolutions."""
  base = SPACE.parse(
    {'linear': LINEAR, 'conv': CONV, 'mixture': MIXTURE}[cells]
  )
  rng = np.random.default_rng(0)
  found = [base]
  for _ in range(members - 1):
    arch = base.copy()
    for place in SPACE.op_positions:
      if 1 <= arch[place] <= 4:
        arch[place] = rng.integers(1, 5)
    for place in set(range(9)) - set(SPACE.op_positions):
      arch[place] = rng.integers(0, 2)
    found.append(arch)
  return found


def utterances(macro):
  """One batch of random features and transcripts."""
  rng = np.random.default_rng(1)
  x_btf = rng.normal(size=(BATCH, FRAMES, macro.features)).astype(np.float32)
  labels_bl = rng.integers(1, macro.outputs, (BATCH, LABELS)).astype(np.int32)
  return x_btf, labels_bl


def flops(macro, population):
  """Floating-point operations of a step and member: forward and twice back."""
  macs = [cost.macs(SPACE, arch, macro, FRAMES) for arch in population]
  return 6 * BATCH * float(np.mean(macs))


def _timed(step, count):
  """Seconds of `count` steps after two to warm up."""
  seconds = []
  for i in range(count + 2):
    started = time.perf_counter()
    step()
    if i >= 2:
      seconds.append(time.perf_counter() - started)
  return seconds


def _peak(multiply, size=2048):
  """FLOP/s of the best of ten square float32 products."""
  return 2 * size**3 / min(_timed(multiply, 10))


def time_nasjax(population, macro, steps, shared_seed=True):
  """The library's own program: a pass of one batch over a population."""
  import jax
  import jax.numpy as jnp

  from nasjax import cells
  from nasjax import population as pop
  from nasjax.data import batching

  x_btf, labels_bl = utterances(macro)
  bucket = batching.Bucket(FRAMES, BATCH, LABELS)
  data = pop.Data(
    np.concatenate([x_btf.reshape(-1, macro.features), x_btf[0]]),
    np.arange(BATCH, dtype=np.int32) * FRAMES,
    np.full(BATCH, FRAMES, np.int32),
    labels_bl,
    np.full(BATCH, LABELS, np.int32),
  )
  mesh = pop.member_mesh(jax.devices()[:1])
  network = pop.network_of(SPACE, population[0], macro, RECIPE)
  programs = pop.programs(network, RECIPE, (bucket,), mesh)
  gates = cells.stack([cells.gates(SPACE, arch) for arch in population])
  keys_p = np.stack(
    [
      np.asarray(jax.random.key_data(pop.member_key(i, SPACE.key(arch))))
      for i, arch in enumerate(population)
    ]
  )
  members_p = pop.on_members(programs.init(keys_p, gates), mesh)
  seeds = [0] if shared_seed else list(range(len(population)))
  plan = batching.train_plan(np.zeros(BATCH, int), (bucket,), seeds, 1)
  rows_p = np.arange(len(population), dtype=np.int32) % len(seeds)
  arguments = (
    pop.on_members(gates, mesh),
    pop.on_members(rows_p, mesh),
    pop.on_all(data, mesh),
    pop.on_all(plan, mesh),
    jnp.int32(1),
    jnp.float32(1e-4),
  )
  started = time.perf_counter()
  train = programs.train.lower(members_p, *arguments).compile()
  compile_s = time.perf_counter() - started

  def step():
    nonlocal members_p
    members_p, loss_p = train(members_p, *arguments)
    jax.block_until_ready((members_p, loss_p))

  seconds = _timed(step, steps)
  a = jax.random.normal(jax.random.key(0), (2048, 2048))
  product = jax.jit(jnp.dot)
  return seconds, compile_s, _peak(lambda: product(a, a).block_until_ready())


def time_loop(population, macro, steps):
  """A plain jitted program of one network, called member after member."""
  runs = [time_nasjax([arch], macro, steps) for arch in population[:2]]
  total = np.mean([run[0] for run in runs], 0) * len(population)
  return list(total), runs[0][1], runs[0][2]


def time_torch(population, macro, steps):
  """PyTorch eager, one network after another (the first stands for all)."""
  import torch
  import torch_network

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  x_btf, labels_bl = (torch.tensor(v).to(device) for v in utterances(macro))
  len_b = torch.full((BATCH,), FRAMES)
  label_len_b = torch.full((BATCH,), LABELS)
  step = torch_network.make_step(population[0], macro, RECIPE, device)

  def synchronised(function):
    def run():
      function()
      if device == 'cuda':
        torch.cuda.synchronize()

    return run

  seconds = _timed(
    synchronised(lambda: step(x_btf, len_b, labels_bl, label_len_b)), steps
  )
  a = torch.randn(2048, 2048, device=device)
  peak = _peak(synchronised(lambda: a @ a))
  return [s * len(population) for s in seconds], 0.0, peak


def main():
  job = json.loads(sys.argv[1])
  macro = MACROS[job['width']]
  population = archs(job['cells'], job['members'])
  engines = {'nasjax': time_nasjax, 'loop': time_loop, 'torch': time_torch}
  seconds, compile_s, peak = engines[job['engine']](
    population, macro, job['steps']
  )
  answer = {
    'seconds': [s / job['members'] for s in seconds],
    'compile_s': compile_s,
    'peak': peak,
    'flops': flops(macro, population),
  }
  print(json.dumps(answer))


if __name__ == '__main__':
  main()
