"""Which kernels of a card take the time of a program, by JAX's profiler."""

import collections
import pathlib
import re
import tempfile

import jax

# What the name of a fusion or a call says of its source, in optimised HLO.
_OP = re.compile(
  r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.M
)
_MOST = 24  # lines that are kept


def kernels(run, text, steps):
  """Runs a program under the profiler.

  Args:
    run: function without arguments that runs it and waits for its end.
    text: the compiled program, for what its instructions come from.
    steps: that it runs.

  Returns:
    dict of busy_ms, the time of all kernels a step; launches a step; and
    kernels, the longest first: name, source (end of JAX's name of the
    operation), ms and calls a step.
  """
  with tempfile.TemporaryDirectory(prefix='nasjax-profile-') as place:
    with jax.profiler.trace(place):
      run()
    # The only file of its kind below the directory.
    path = next(pathlib.Path(place).rglob('*.xplane.pb'))
    data = jax.profiler.ProfileData.from_file(str(path))
  sources = dict(_OP.findall(text))
  taken = collections.defaultdict(lambda: [0.0, 0])
  for plane in data.planes:
    if not plane.name.startswith('/device:GPU'):
      continue
    for line in plane.lines:
      # Others repeat the same time by operation and by module.
      if not line.name.startswith('Stream'):
        continue
      for event in line.events:
        stats = dict(event.stats)
        source = sources.get(str(stats.get('hlo_op', '')), '')
        entry = taken[event.name, source]
        entry[0] += event.duration_ns / 1e6 / steps
        entry[1] += 1 / steps
  order = sorted(taken.items(), key=lambda pair: -pair[1][0])
  return {
    'busy_ms': sum(ms for ms, _ in taken.values()),
    'launches': sum(calls for _, calls in taken.values()),
    'kernels': [
      {'name': name[:80], 'source': source[-90:], 'ms': ms, 'calls': calls}
      for (name, source), (ms, calls) in order[:_MOST]
    ],
  }
