"""Seconds of networks by ONNX Runtime, each in a process of its own."""

import pathlib
import tempfile

from nasjax.benchmark import latency
from nasjax.export import latency as onnx_latency
from nasjax.export import onnx, timing


class Stopwatch:
  """Times networks as `latency.Stopwatch` does, by ONNX Runtime on the CPU.

  Attributes:
    peak_bytes: what the process with the network timed last took, but for what
      it had before it had the network.
  """

  def __init__(self, space, macro, batch, frames, threads, runs, warmup):
    """Sets the conditions; see `latency.Stopwatch`.

    Args:
      threads: that an operator may use.
    """
    self.space, self.macro, self.threads = space, macro, threads
    self.batch, self.frames = batch, frames
    self.runs, self.warmup = runs, warmup
    self.peak_bytes = 0

  def time(self, arch):
    """Returns the `latency.Timing` of one network, of drawn weights."""
    params = onnx_latency.drawn(self.space, arch, self.macro)
    with tempfile.TemporaryDirectory() as place:
      path = pathlib.Path(place, 'network.onnx')
      onnx.save(path, self.space, arch, self.macro, params)
      found = timing.measured(
        path, self.frames, self.threads, self.runs, self.batch, self.warmup
      )
    self.peak_bytes = found['peak_bytes'] - found['bytes_before']
    low, high = found['seconds_quartiles']
    return latency.Timing(found['seconds'], low, high, self.runs, self.warmup)
