"""Latency of architectures as ONNX Runtime runs them on the CPU, measured.

What `benchmark.latency` does for programs of JAX: weights are drawn, for how
long a pass takes does not depend on them.
"""

import jax
import numpy as np

from nasjax.export import hearing, onnx, timing
from nasjax.models import common, families


class Stopwatch:
  """Times architectures of one macro network, one utterance a pass."""

  def __init__(
    self, space, macro, frames, threads=1, runs=50, warm_up=10, clock='wall'
  ):
    """Sets the conditions.

    Args:
      space: search space.
      macro: macro network of the space.
      frames: of the utterance, 10 ms each.
      threads: that an operator may use.
      runs: timed passes.
      warm_up: passes before them.
      clock: of `timing.CLOCKS`.

    Raises:
      ExportError: a package is missing.
      UnsupportedError: networks of the space are not written as ONNX yet.
    """
    onnx.writer(space)
    hearing.runtime()
    self.space, self.macro = space, macro
    self._frames, self._threads = frames, threads
    self._runs, self._warm_up, self._clock = runs, warm_up, clock

  def time(self, arch):
    """Returns seconds of a pass: median, lower and upper quartile."""
    low, median, high = np.percentile(self.passes(arch), (25, 50, 75)).tolist()
    return median, low, high

  def passes(self, arch):
    """Returns the seconds of each timed pass, a list."""
    made = onnx.model(self.space, arch, self.macro, self._drawn(arch))
    session = hearing.session(made.SerializeToString(), self._threads)
    return timing.passes(
      session, self._frames, self.macro.features, self._runs, self._warm_up,
      self._clock,
    )  # fmt: skip

  def _drawn(self, arch):
    """Returns weights of a network; statistics are positive, as variances."""
    network = families.single(self.space, arch, self.macro)
    gates = families.gates(self.space, arch)
    shapes = jax.eval_shape(
      lambda key: common.initial_params(network, key, gates), jax.random.key(0)
    )
    rng = np.random.default_rng(0)

    def leaf(path, shape):
      drawn = 0.1 * rng.standard_normal(shape.shape, np.float32)
      return np.abs(drawn) if 'var' in path[-1].key else drawn

    return jax.tree_util.tree_map_with_path(leaf, shapes)
