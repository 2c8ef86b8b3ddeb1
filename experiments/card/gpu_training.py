"""The training program that the stages of gpu.py compile and run.

That of a run: a population on one device, one bucket, the recipe of the paper
without L2 (`throughput_cells.recipe`). Features, transcripts and weights are
drawn, members differ in their dropout alone.
"""

import dataclasses
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from races import throughput_cells as cells_lib

from nasjax.data import batching
from nasjax.models import common, families, macros
from nasjax.training import optimisers, population
from nasjax.training import step as step_lib

# One block for rehearsals, in which programs are compiled and hardly run.
_POCKET = macros.Cells(
  'pocket', (16,), (2,), (4,), 16, outputs=12, groups=8, features=16
)
MACROS = macros.BY_SPACE['nb_asr'] | {'pocket': _POCKET}
_LR = 1e-4


class Setup(NamedTuple):
  """What is trained.

  Attributes:
    macro: name of the macro network.
    cells: of `throughput_cells.CELLS`.
    precision: of the recipe.
    members: mapped on the device.
    batch, frames: of the padded batch.
    checkpoint: whether cells are computed again for their gradient.
  """

  macro: str
  cells: str
  precision: str
  members: int
  batch: int
  frames: int
  checkpoint: bool = True

  @property
  def arch(self):
    return cells_lib.SPACE.parse(cells_lib.CELLS[self.cells])

  @property
  def recipe(self):
    recipe = cells_lib.recipe(self.batch)
    return dataclasses.replace(recipe, precision=self.precision)

  @property
  def bucket(self):
    labels = max(1, self.frames // cells_lib.FRAMES_A_LABEL)
    return batching.Bucket(self.frames, self.batch, labels)

  def network(self, platform=None):
    """The `Network`, as devices of a platform run it."""
    macro = MACROS[self.macro]
    return families.network(
      cells_lib.SPACE, self.arch, macro, self.recipe, platform, self.checkpoint
    )

  def flops(self):
    """Floating-point operations of a training step of one member."""
    return cells_lib.flops(
      [self.arch], MACROS[self.macro], self.batch, self.frames
    )


class Training:
  """The program of a setup on one device, and what it needs."""

  def __init__(self, setup, mesh, steps, platform=None):
    """
    Args:
      setup: `Setup`.
      mesh: of `population.member_mesh`, one device; it need not be there.
      steps: most steps of a pass.
      platform: that of the mesh if not given.
    """
    self.setup, self.mesh, self.most = setup, mesh, steps
    platform = platform or mesh.devices.flat[0].platform
    self.network = setup.network(platform)
    # All at once, also where GPUs are rehearsed on CPUs.
    self.programs = population.programs(
      self.network, setup.recipe, (setup.bucket,), mesh, setup.members
    )
    self._dtype = population.features_dtype(setup.recipe, platform)
    self._gates = families.gates(cells_lib.SPACE, setup.arch)

  def compiled(self):
    """Compiles the program of a pass, without a population to run on."""
    sharding = population.member_sharding(self.mesh)
    members_p = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      jax.eval_shape(self._members, *self._start()),
    )
    return self.programs.train.lower(*self.arguments(members_p)).compile()

  def members(self):
    """Returns the state of the population before the first step."""
    make = jax.jit(
      self._members, out_shardings=population.member_sharding(self.mesh)
    )
    return make(*self._start())

  def arguments(self, members_p):
    """Returns the arguments of the program for a pass of `most` steps."""
    setup, mesh = self.setup, self.mesh
    count = setup.members
    x_utf, labels_ul = cells_lib.utterances(
      MACROS[setup.macro], setup.batch, setup.frames, self.most
    )
    utterances, frames, width = x_utf.shape
    split = types.SimpleNamespace(
      features=x_utf.reshape(-1, width),
      offset_u=np.arange(utterances) * frames,
      frames_u=np.full(utterances, frames),
      labels=labels_ul,
    )
    buckets = (setup.bucket,)
    data = population.device_data(split, buckets, dtype=self._dtype)
    plan = batching.train_plan(np.zeros(utterances, int), buckets, [0], 1)
    return (
      members_p,
      population.on_members(families.stack([self._gates] * count), mesh),
      population.on_members(np.zeros(count, np.int32), mesh),
      population.on_members(np.full(count, _LR, np.float32), mesh),
      population.on_all(data, mesh),
      population.on_rows(plan, buckets, mesh),
      population.on_all(np.int32(self.most), mesh),
      None,
    )

  def steps(self, count):
    """Returns the argument that says how many steps a pass has."""
    return population.on_all(np.int32(count), self.mesh)

  def _start(self):
    """Returns one member's weights, drawn, and the keys of all."""
    shapes = jax.eval_shape(
      lambda: common.initial_params(
        self.network, jax.random.key(0), self._gates
      )
    )
    keys = jax.random.split(jax.random.key(1), self.setup.members)
    one = families.form(self.network).pack(drawn(shapes))
    return one, np.asarray(jax.random.key_data(keys))

  def _members(self, one, keys_p):
    def make(key):
      return step_lib.Member(
        one,
        optimisers.of(self.setup.recipe).init(one),
        jnp.zeros((), jnp.int32),
        jnp.ones((), bool),
        key,
      )

    return jax.vmap(make)(keys_p)


def drawn(shapes):
  """Draws weights of a network, scaled by their inputs; biases are 0.

  Compiling its own initialisation would take as long as its training.
  """
  rng = np.random.default_rng(2)

  def draw(path, leaf):
    if path[-1].key == 'scale':
      return np.ones(leaf.shape, np.float32)
    if leaf.ndim < 2:
      return np.zeros(leaf.shape, np.float32)
    # Channels in come before channels out, or before out and groups.
    inputs = np.prod(leaf.shape[: 1 if leaf.ndim == 2 else 2])
    values = rng.standard_normal(leaf.shape, np.float32)
    return values / np.float32(np.sqrt(inputs))

  return jax.tree_util.tree_map_with_path(draw, shapes)
