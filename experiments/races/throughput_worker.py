"""Times one engine in a process of its own; `throughput.py` starts it.

Its argument is a JSON object: the fields of `throughput_cells.Race`, batch,
frames, steps (of a timed pass), cache (directory of compiled programs) and
started (Unix time). The last line it prints is one, too: `answer`.
"""

import concurrent.futures
import json
import os
import sys
import time
import types

import numpy as np
from races import throughput_cells as race_lib

WARM_UP = 2  # steps; PyTorch's first makes Adam's state, its second settles
PASSES = 2  # timed, of `steps` each


def _seconds(run, steps):
  """Seconds a step in each timed pass; `run(n)` trains n steps and waits."""
  run(WARM_UP)
  seconds = []
  for _ in range(PASSES):
    started = time.perf_counter()
    run(steps)
    seconds.append((time.perf_counter() - started) / steps)
  return np.array(seconds)


def _peak(multiply, size):
  """FLOP/s of the best of ten square products; `multiply` waits."""
  best = np.inf
  for _ in range(12):
    started = time.perf_counter()
    multiply()
    best = min(best, time.perf_counter() - started)
  return 2 * size**3 / best


def _size(accelerated):
  """Rows of the product whose speed is the matmul peak."""
  return 8192 if accelerated else 2048


class Nasjax:
  """nasjax as its launcher runs it: a program of each signature and worker."""

  def __init__(self, job):
    import jax

    # What devices.configure and devices.meshes do for the launcher.
    loop = job['engine'] == 'loop'
    most = 1 if loop else job['members']
    cores = min(len(os.sched_getaffinity(0)), most)
    jax.config.update('jax_num_cpu_devices', cores)
    jax.config.update('jax_compilation_cache_dir', job['cache'])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    from nasjax.training import population

    self.job, self.macro = job, race_lib.MACROS[job['width']]
    devices = jax.devices()[:most]
    size = 1 if jax.default_backend() == 'cpu' else len(devices)
    self.meshes = [
      population.member_mesh(devices[start : start + size])
      for start in range(0, len(devices), size)
    ]
    self.device = f'{len(devices)} x {devices[0].device_kind}'
    self.compile_s, self.padding, self.timed_s = [], 0, 0.0

  def peak(self):
    """FLOP/s of a matrix product on one device."""
    import jax

    size = _size(jax.default_backend() != 'cpu')
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jax.numpy.dot)
    return _peak(lambda: product(a, a).block_until_ready(), size)

  def seconds(self, archs_pd):
    """Seconds a step of the whole population, of each pass."""

    def prepare(mesh, groups):
      return [
        run
        for group in groups
        for run in self._runs(archs_pd[list(group)], group, mesh)
      ]

    shares = self._shares(archs_pd)
    with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
      work = list(pool.map(prepare, self.meshes, shares))

    def together(steps):
      def worker(runs):
        for run in runs:
          run(steps)

      with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(worker, work))

    seconds = _seconds(together, self.job['steps'])
    self.timed_s += seconds.sum() * self.job['steps']
    return seconds

  def _shares(self, archs_pd):
    """Returns the groups of each mesh: members of a signature, by number."""
    most = -(-len(archs_pd) // len(self.meshes))
    shares = [[] for _ in self.meshes]
    for group in race_lib.groups(archs_pd):
      while group:
        room = [most - sum(map(len, share)) for share in shares]
        i = next(i for i, n in enumerate(room) if n)
        shares[i].append(group[: room[i]])
        group = group[room[i] :]
    return shares

  def _runs(self, archs_pd, numbers, mesh):
    """Returns the functions of `steps` that train a group on a mesh."""
    streams = 3 if self.job['population'] == 'seeds' else 1
    rows = [p % streams for p in numbers]
    if self.job['engine'] != 'loop':
      spare = -len(rows) % mesh.shape['member']
      self.padding += spare
      archs_pd = np.concatenate([archs_pd, archs_pd[:1].repeat(spare, 0)])
      cuts = [(archs_pd, rows + rows[:1] * spare)]
    else:
      # The program of one network, compiled once, called for each.
      cuts = [(archs_pd[[n]], [row]) for n, row in enumerate(rows)]
    train, runs = None, []
    for archs, own_rows in cuts:
      arguments = self._arguments(archs, own_rows, mesh)
      train = train or self._compiled(archs[0], arguments, mesh)
      runs.append(self._run(train, arguments, mesh))
    return runs

  def _bucket(self):
    from nasjax.data import batching

    job = self.job
    labels = max(1, job['frames'] // race_lib.FRAMES_A_LABEL)
    return batching.Bucket(job['frames'], job['batch'], labels)

  def _programs(self, arch, mesh):
    from nasjax.models import families
    from nasjax.training import population

    recipe = race_lib.recipe(self.job['batch'])
    network = families.network(race_lib.SPACE, arch, self.macro, recipe)
    return population.programs(network, recipe, (self._bucket(),), mesh)

  def _compiled(self, arch, arguments, mesh):
    started = time.perf_counter()
    train = self._programs(arch, mesh).train.lower(*arguments).compile()
    self.compile_s.append(time.perf_counter() - started)
    return train

  def _run(self, train, arguments, mesh):
    import jax

    from nasjax.training import population

    counts = {
      n: population.on_all(np.int32(n), mesh)
      for n in (WARM_UP, self.job['steps'])
    }
    members_p, *between, _, constants = arguments

    def run(steps):
      nonlocal members_p
      members_p, loss_p = train(members_p, *between, counts[steps], constants)
      jax.block_until_ready((members_p, loss_p))
      if not np.asarray(members_p.alive).all():
        raise ValueError('a member diverged: its steps changed nothing')

    return run

  def _arguments(self, archs_pd, streams, mesh):
    """Arguments of the training program, on the mesh."""
    from nasjax import cells
    from nasjax.data import batching
    from nasjax.training import population

    job, bucket, seeds = self.job, self._bucket(), sorted(set(streams))
    gates_p = cells.stack([cells.gates(race_lib.SPACE, a) for a in archs_pd])
    steps = max(job['steps'], WARM_UP)
    plan = batching.train_plan(
      np.zeros(steps * job['batch'], int), (bucket,), seeds, 1
    )
    row_p = np.array([seeds.index(s) for s in streams], np.int32)
    lr_p = np.full(len(archs_pd), 1e-4, np.float32)
    return (
      *population.on_members(
        (self._members(archs_pd, gates_p, mesh), gates_p, row_p, lr_p), mesh
      ),
      *population.on_all(
        (self._data(bucket, steps), plan, np.int32(0), None), mesh
      ),
    )

  def _data(self, bucket, steps):
    from nasjax.training import population

    x_utf, labels_ul = race_lib.utterances(
      self.macro, bucket.batch, bucket.frames, steps
    )
    count, frames, width = x_utf.shape
    split = types.SimpleNamespace(
      features=x_utf.reshape(-1, width),
      offset_u=np.arange(count) * frames,
      frames_u=np.full(count, frames),
      labels=labels_ul,
    )
    return population.device_data(split, (bucket,))

  def _members(self, archs_pd, gates_p, mesh):
    """A population's state, its weights drawn here.

    The library's own initialisation takes as long to compile as training does,
    and is not what is raced.
    """
    import jax

    from nasjax.training import population

    keys_p = np.stack(
      [
        jax.random.key_data(
          population.member_key(seed, race_lib.SPACE.key(arch))
        )
        for seed, arch in enumerate(archs_pd)
      ]
    )
    init = self._programs(archs_pd[0], mesh).init
    state = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(init, keys_p, gates_p),
    )
    rng = np.random.default_rng(2)

    def draw(path, leaf):
      if path[-1].key == 'scale':
        return np.ones_like(leaf)
      if leaf.ndim < 3:
        return leaf  # biases are 0
      fan_in = np.prod(leaf.shape[1:3])
      return rng.standard_normal(leaf.shape, leaf.dtype) / np.float32(
        np.sqrt(fan_in)
      )

    params = jax.tree_util.tree_map_with_path(draw, state.params)
    return state._replace(
      params=params, alive=np.ones_like(state.alive), key=keys_p
    )


class Torch:
  """PyTorch eager on all cores or a GPU, one network after another."""

  def __init__(self, job):
    import torch

    self.job, self.macro = job, race_lib.MACROS[job['width']]
    self.cuda = torch.cuda.is_available()
    self.place = 'cuda' if self.cuda else 'cpu'
    if self.cuda:
      # What JAX does on GPUs unless told otherwise: TF32 products.
      torch.set_float32_matmul_precision('high')
      torch.backends.cudnn.benchmark = True
    self.device = (
      torch.cuda.get_device_name()
      if self.cuda
      else f'{torch.get_num_threads()} threads'
    )
    self.compile_s, self.padding, self.timed_s = [], 0, 0.0

  def _wait(self):
    import torch

    if self.cuda:
      torch.cuda.synchronize()

  def peak(self):
    """FLOP/s of a matrix product."""
    import torch

    size = _size(self.cuda)
    a = torch.randn(size, size, device=self.place)

    def multiply():
      a @ a
      self._wait()

    return _peak(multiply, size)

  def seconds(self, archs_pd):
    """Seconds a step of the whole population, of each pass.

    Every architecture is timed; copies of one count as often as there are.
    """
    distinct, count = np.unique(archs_pd, axis=0, return_counts=True)
    return sum(n * self._one(arch) for arch, n in zip(distinct, count))

  def _one(self, arch):
    import torch
    from races import torch_network

    job = self.job
    step = torch_network.make_step(
      arch, self.macro, race_lib.recipe(job['batch']), self.place
    )
    batches = [
      tuple(torch.tensor(part).to(self.place) for part in parts)
      for parts in zip(
        *(
          whole.reshape(-1, job['batch'], *whole.shape[1:])
          for whole in race_lib.utterances(
            self.macro, job['batch'], job['frames'], max(job['steps'], WARM_UP)
          )
        )
      )
    ]

    def run(steps):
      for x_btf, labels_bl in batches[:steps]:
        step(x_btf, labels_bl)
      self._wait()

    seconds = _seconds(run, job['steps'])
    self.timed_s += seconds.sum() * job['steps']
    return seconds


def answer(job):
  """Runs a job.

  Returns:
    dict of seconds (of a step and member, for each pass), flops (of the
    same), peak (FLOP/s, the better of before and after), compile_s (of each
    program), start_s (from the start of the process on, all but timed passes
    and peaks), padding (members that are computed and dropped) and device.
  """
  archs_pd = race_lib.archs(job['cells'], job['population'], job['members'])
  engine = (Torch if job['engine'] == 'torch' else Nasjax)(job)
  clock = time.perf_counter()
  before = engine.peak()
  measuring = time.perf_counter() - clock
  seconds = engine.seconds(archs_pd)
  start_s = time.time() - job['started'] - measuring - engine.timed_s
  flops = race_lib.flops(
    archs_pd, race_lib.MACROS[job['width']], job['batch'], job['frames']
  )
  return {
    'seconds': list(seconds / len(archs_pd)),
    'flops': flops,
    'peak': max(before, engine.peak()),
    'compile_s': engine.compile_s,
    'start_s': start_s,
    'padding': engine.padding,
    'device': engine.device,
  }


if __name__ == '__main__':
  print(json.dumps(answer(json.loads(sys.argv[1]))))
