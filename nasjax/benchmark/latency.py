"""Latency of networks on the device at hand, measured.

A forward pass in evaluation mode, of so many utterances of so many frames, the
result waited for. Weights and features are drawn: how long a pass takes does
not depend on them. Some passes warm up, then each of at least 50 is timed;
their median and quartiles are kept.

One compiled program serves many cells, whose skips are data, so an absent skip
costs what a present one does, an addition that is fused with others. Native
convolutions take their taps as data, too, and so do those of TDNNs, and read no
more than there are; in NB-ASR's networks XLA would read the union of all taps,
so there each choice of operations has a program of its own.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import platform
import time
from typing import NamedTuple

import jax
import numpy as np

from nasjax import cost, kernels, table
from nasjax.models import common, families
from nasjax.programs import memory
from nasjax.storage import provenance

WARMUP, RUNS = 10, 50


class Timing(NamedTuple):
  """Seconds of a pass, and of how many."""

  median: float
  quartile_low: float
  quartile_high: float
  runs: int
  warmup: int


class Stopwatch:
  """Times cells of one macro network, and keeps the last program compiled.

  Attributes:
    peak_bytes: what the program timed last takes while it runs: weights, input,
      outputs and what it keeps in between.
  """

  def __init__(self, space, macro, batch, frames, runs=RUNS, warmup=WARMUP):
    """Sets the conditions.

    Args:
      space: search space.
      macro: macro network of the space.
      batch: utterances of a pass.
      frames: of each utterance, 10 ms each.
      runs: timed passes.
      warmup: passes before them.

    Raises:
      ValueError: naming the number that is out of range.
    """
    for name, value, least in (
      ('batch', batch, 1),
      ('frames', frames, 1),
      ('runs', runs, RUNS),
      ('warmup', warmup, 1),
    ):
      if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f'{name} is {value!r}; want a whole number')
      if value < least:
        raise ValueError(f'{name} is {value}; want at least {least}')
    self.space, self.macro = space, macro
    self.runs, self.warmup = runs, warmup
    rng = np.random.default_rng(0)
    x_btf = rng.normal(size=(batch, frames, macro.features))
    self._x_btf = jax.device_put(x_btf.astype(np.float32))
    self._len_b = jax.device_put(np.full(batch, frames, np.int32))
    self._program = None
    self._forward = self._params = None
    self.peak_bytes = 0

  def time(self, arch):
    """Returns the `Timing` of one cell."""
    low, median, high = np.quantile(self.passes(arch), (0.25, 0.5, 0.75))
    return Timing(
      float(median), float(low), float(high), self.runs, self.warmup
    )

  def passes(self, arch):
    """Returns the seconds of each timed pass of one cell, a list."""
    gates = jax.device_put(families.gates(self.space, arch))
    self._compile(arch, gates)
    seconds = []
    for _ in range(self.warmup + self.runs):
      started = time.perf_counter()
      logits_btv = self._forward(self._params, self._x_btf, self._len_b, gates)
      jax.block_until_ready(logits_btv)
      seconds.append(time.perf_counter() - started)
    return seconds[self.warmup :]

  def _compile(self, arch, gates):
    ops = families.alone(self.space, arch)
    if ops == self._program:
      return
    network = families.made(
      self.space,
      self.macro,
      tuple((op,) for op in ops),
      families.Numbers(kernels=kernels.choose()),
    )

    def forward(params, x_btf, len_b, gates):
      outputs = network.apply({'params': params}, x_btf, len_b, gates)
      # Of a transducer its encoder: the rest waits for what is said.
      return jax.tree.leaves(outputs)[0]

    # Drawn here: a program that initialises takes longer to compile than one
    # that runs.
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
      lambda key: common.initial_params(network, key, gates), jax.random.key(0)
    )
    self._params = jax.tree.map(
      lambda leaf: jax.device_put(
        0.1 * rng.standard_normal(leaf.shape, np.float32)
      ),
      shapes,
    )
    compiled = (
      jax.jit(forward)
      .lower(self._params, self._x_btf, self._len_b, gates)
      .compile()
    )
    self.peak_bytes = memory.program_bytes(compiled)
    self._forward, self._program = compiled, ops


def profile(
  space,
  archs,
  macro,
  batch,
  frames,
  *,
  runs=RUNS,
  warmup=WARMUP,
  on_cell=lambda done, total: None,
  watch=None,
):
  """Measures architectures of any space, without a table.

  Args:
    space: search space.
    archs: in any form that `space.parse_all` reads.
    macro: macro network of the space.
    batch, frames: of a pass.
    runs, warmup: as `Stopwatch` has them.
    on_cell: called with cells done and cells in all, first with none done.
    watch: what times them, a `Stopwatch` or like one; one of these conditions
      if not given.

  Returns:
    a dict for each, in their order: `arch`, nested; `names`; `seconds`,
    `quartile_low`, `quartile_high` of a pass; `real_time_factor`, seconds for a
    second of audio; `peak_bytes`; `params`, `macs` of one utterance.
  """
  watch = watch or Stopwatch(space, macro, batch, frames, runs, warmup)
  archs_nd = space.parse_all(archs)
  order = sorted(
    range(len(archs_nd)),
    key=lambda n: (families.alone(space, archs_nd[n]), *archs_nd[n]),
  )
  rows = [None] * len(archs_nd)
  on_cell(0, len(order))
  for done, n in enumerate(order):
    arch, timing = archs_nd[n], watch.time(archs_nd[n])
    rows[n] = {
      'arch': space.nested(arch),
      'names': space.names(arch),
      'seconds': timing.median,
      'quartile_low': timing.quartile_low,
      'quartile_high': timing.quartile_high,
      # A frame is 10 ms of audio.
      'real_time_factor': timing.median / (batch * frames * 0.01),
      'peak_bytes': watch.peak_bytes,
      'params': cost.params(space, arch, macro),
      'macs': cost.macs(space, arch, macro, frames),
    }
    on_cell(done + 1, len(order))
  return rows


def device_name():
  """Returns what people call the first device; of CPUs also how many cores."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return device.device_kind
  name = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  for line in lines:
    field, _, value = line.partition(':')
    if field.strip() == 'model name':
      name = value.strip()
      break
  return f'{name}, {len(os.sched_getaffinity(0))} cores'


def macro_of(t):
  """Returns the macro network on which the cells of a table were trained.

  Its name says all but the number of outputs, which follows from the number of
  parameters.

  Raises:
    ValueError: no macro network of that name has as many.
  """
  name, arch = t.codes('macro').names[0], t.row_archs[0]
  found = int(t.column('params')[0])
  known = families.family(t.space).macros
  if name in known:
    macro = known[name]
    one, two = (
      cost.params(t.space, arch, macro.with_outputs(n)) for n in (1, 2)
    )
    outputs, rest = divmod(found - one, two - one)
    if outputs >= 0 and not rest:
      return macro.with_outputs(1 + outputs)
  raise ValueError(
    f'{t.path} has cells of macro {name!r} with {found} parameters, and no '
    f'network here is that; name one of {", ".join(known)}'
  )


def pending(t, archs, setting):
  """Returns the cells whose function was not measured in a setting.

  Args:
    t: a Table.
    archs: cells, int8 [n, d].
    setting: `table.Setting`.

  Returns:
    int8 [m, d], one cell a function, those of one program together.
  """
  done = set()
  if setting in t.latencies:
    measured = t.latency_archs(**setting._asdict())
    done = set(t.space.semantic_keys(measured))
  chosen = {}
  for arch, key in zip(archs, t.space.semantic_keys(archs)):
    if key not in done:
      chosen.setdefault(key, arch)
  ordered = sorted(
    chosen.values(), key=lambda arch: (families.alone(t.space, arch), *arch)
  )
  return np.array(ordered, np.int8).reshape(-1, len(t.space.sizes))


def measure(
  t,
  archs,
  macro,
  setting,
  *,
  runs=RUNS,
  warmup=WARMUP,
  cells_per_shard=64,
  on_cell=lambda done, total: None,
  watch=None,
):
  """Measures cells of a table and writes them into it, shard by shard.

  Killed and called again, it goes on after the last shard that was written.

  Args:
    t: a Table.
    archs: cells, int8 [n, d]; what was measured in this setting is skipped.
    macro: macro network of the table's space.
    setting: `table.Setting`.
    runs, warmup: as `Stopwatch` has them.
    cells_per_shard: cells of a shard.
    on_cell: called with cells done and cells in all, first with none done.
    watch: as in `profile`.

  Returns:
    Number of cells measured.
  """
  archs = pending(t, archs, setting)
  common = {
    'versions': json.dumps(provenance.versions(), sort_keys=True),
    'commit': provenance.commit(),
  }
  watch = watch or Stopwatch(
    t.space, macro, setting.batch, setting.frames, runs, warmup
  )
  on_cell(0, len(archs))
  for start in range(0, len(archs), cells_per_shard):
    rows = []
    for arch in archs[start : start + cells_per_shard]:
      timing = watch.time(arch)
      rows.append(common | _row(t.space, arch, setting, timing))
      on_cell(start + len(rows), len(archs))
    meta = {'macro': dataclasses.asdict(macro), 'kernels': kernels.choose()}
    table.write_shard(t.path, _name(rows, meta), rows, meta)
  return len(archs)


def _row(space, arch, setting, timing):
  """Returns a row of the table but for what all rows of a shard share."""
  return {
    'space': space.name,
    'arch': arch,
    'semantic_key': space.semantic_key(arch),
    **setting._asdict(),
    **timing._asdict(),
    'created': datetime.datetime.now(datetime.UTC).isoformat(),
  }


def _name(rows, meta):
  """Returns a name that follows from what was measured, not from the result."""
  first = {name: rows[0][name] for name in ('space', *table.Setting._fields)}
  archs = [row['arch'].tolist() for row in rows]
  text = json.dumps([first, archs, meta], sort_keys=True)
  return f'latency-{hashlib.sha256(text.encode()).hexdigest()[:16]}'
