"""Trains the shards of a run on a Ray cluster, a worker a device.

  python launch/ray_cluster.py --flagfile=mine.flags --out=shared/mine
  python launch/ray_cluster.py --address=auto --num_gpus=1 --flagfile=mine.flags

Joins the cluster of --address (or of RAY_ADDRESS, or that runs here), or starts
one on this machine. Flags that are not its own go to experiments/benchmark.py.
Workers are tasks that take shards from the plan until none is left; nodes that
join get workers, those of lost nodes are started elsewhere. Each is alone with
its devices: jax.distributed, for one network on several hosts, takes no part.
--out and --data_dir must be seen by all nodes under the same path. Killed with
its cluster, the same command goes on.
"""

import argparse
import json
import math
import os
import socket
import sys
import threading
import time

import worker

NAME = 'ray_cluster.py'
MISSING = (
  f'{NAME}: Ray is not installed; pip install "nasjax[ray]" (or ray), or take '
  'benchmark.py --claim, which needs none'
)
# Seconds after which the cluster is asked for new nodes.
_LOOK = 5.0
# Seconds without an answer after which the head is gone. Ray itself waits for a
# minute, and then ends the program.
_SILENCE = 15.0
# Seconds for which a cluster that has just been started may take nobody in.
_YOUNG = 120.0


def _amount(text):
  """Returns what a worker takes of something: a share of one, or whole ones."""
  try:
    amount = float(text)
  except ValueError:
    amount = math.nan
  if not (0 <= amount <= 1 or 1 < amount < math.inf and amount.is_integer()):
    raise argparse.ArgumentTypeError(
      f'{text!r} is neither a whole number nor a share such as 0.5'
    )
  return amount


def _resources(text):
  """Returns what a worker takes of resources, by name."""
  try:
    found = json.loads(text)
    return {name: _amount(json.dumps(n)) for name, n in found.items()}
  except (ValueError, AttributeError):
    raise argparse.ArgumentTypeError(
      f'{text!r} is no JSON object such as {{"TPU": 1}}'
    ) from None


def _arguments():
  parser = worker.Parser(NAME, __doc__)
  add = parser.add_argument
  add('--address', help='of a cluster; "local" starts one')
  add('--num_gpus', type=_amount, default=0, help='of a worker')
  add('--num_cpus', type=_amount, default=1, help='of a worker')
  add(
    '--resources', type=_resources, default={},
    help='of a worker, such as \'{"TPU": 1}\'',
  )  # fmt: skip
  add(
    '--workers', type=worker.positive,
    help='at most; as many as nodes hold if not given',
  )  # fmt: skip
  add(
    '--retries', type=int, default=100,
    help='times that a worker may be lost with its process or node',
  )  # fmt: skip
  add(
    '--figures', action=argparse.BooleanOptionalAction, default=True,
    help='draw them here when all is done',
  )  # fmt: skip
  own, flags = parser.parse_known_args()
  if not _needs(own):
    parser.error(
      'a worker takes nothing of a node; give --num_cpus, --num_gpus or '
      '--resources'
    )
  worker.check(NAME, flags)
  return own, flags


def _needs(own):
  """Returns what a worker takes of a node, by Ray's names."""
  needs = {'CPU': own.num_cpus, 'GPU': own.num_gpus} | own.resources
  return {name: value for name, value in needs.items() if value}


def _room(nodes, needs):
  """Returns how many workers the living nodes hold, each on one of them."""
  return sum(
    int(min(node['Resources'].get(k, 0) / v + 1e-9 for k, v in needs.items()))
    for node in nodes
    if node['Alive']
  )


def _start(ray, own):
  """Joins a cluster or starts one."""
  local = {} if own.address not in (None, 'local') else {
    'include_dashboard': False
  }  # fmt: skip
  deadline = time.monotonic() + _YOUNG
  while True:
    try:
      ray.init(address=own.address, logging_level='ERROR', **local)
      return
    except Exception as e:  # Ray may raise anything here
      # On a busy machine half a minute, which Ray waits, may not do.
      young = isinstance(e, ConnectionError) and _answers(own.address or '')
      young |= bool(local) and 'timed out' in str(e)
      if young and time.monotonic() < deadline:
        ray.shutdown()
        time.sleep(1)
        continue
      first = str(e).strip().partition('\n')[0]
      if local:
        sys.exit(f'{NAME}: no cluster can be started here: {first}')
      sys.exit(
        f'{NAME}: no cluster at --address={own.address}: {first}; one that '
        'asks for a token wants RAY_AUTH_MODE=token in the environment'
      )


def _answers(address):
  """Tells whether anybody listens at HOST:PORT."""
  host, _, port = address.rpartition(':')
  try:
    socket.create_connection((host, int(port)), timeout=5).close()
  except (OSError, ValueError):
    return False
  return True


def _watch_head(address):
  """Ends the program where the head of the cluster answers no more."""
  heard = time.monotonic()
  while time.monotonic() - heard < _SILENCE:
    time.sleep(1)
    if _answers(address):
      heard = time.monotonic()
  print(
    f'{NAME}: the head of the cluster, {address}, answers no more; start it, '
    'and the same command goes on',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


class Crew:
  """The workers in flight: never more than the nodes hold."""

  def __init__(self, ray, own, claim):
    self._ray, self._own, self._claim = ray, own, claim
    self._needs, self._flying = _needs(own), {}
    self._begun, self._over = 0, False
    self.failures = []

  def _fill(self):
    room = _room(self._ray.nodes(), self._needs)
    if not room and not self._begun:
      sys.exit(
        f'{NAME}: no node of the cluster has {json.dumps(self._needs)}, which '
        f'a worker takes; there are '
        f'{json.dumps(self._ray.cluster_resources())}'
      )
    most = min(room, self._own.workers or room) - len(self.failures)
    while len(self._flying) < most:
      self._begun += 1
      self._flying[self._claim.remote()] = self._begun

  def work(self):
    """Runs workers until they have ended."""
    while True:
      if not self._over:
        self._fill()
      if not self._flying:
        return
      ready, _ = self._ray.wait(list(self._flying), timeout=_LOOK)
      for task in ready:
        number = self._flying.pop(task)
        try:
          self._ray.get(task)
          self._over = True  # nothing is left, and others come to see it
        except self._ray.exceptions.RayError as e:
          # Whose nodes were lost has been retried; this is an error of ours.
          cause = getattr(e, 'cause', None) or e
          told = str(cause).strip().splitlines()[-1]
          self.failures.append(f'worker {number}: {told}')


def main():
  own, flags = _arguments()
  try:
    import ray
  except ImportError:
    sys.exit(MISSING)
  out, shards = worker.plan(NAME, flags)
  # So that nodes need not import this folder.
  ray.cloudpickle.register_pickle_by_value(worker)
  _start(ray, own)
  claiming = worker.Worker(flags, own.num_cpus)

  @ray.remote(
    num_cpus=own.num_cpus,
    num_gpus=own.num_gpus,
    resources=own.resources,
    max_retries=own.retries,
    retry_exceptions=[worker.LostError],
  )
  def claim():
    claiming.run()

  head = ray.get_runtime_context().gcs_address
  threading.Thread(target=_watch_head, args=(head,), daemon=True).start()
  crew = Crew(ray, own, claim)
  try:
    crew.work()
  except KeyboardInterrupt:
    sys.exit(f'{NAME}: stopped; the same command goes on from here')
  ray.shutdown()
  if crew.failures:
    sys.exit(
      f'{NAME}: {len(crew.failures)} workers failed: '
      f'{"; ".join(crew.failures)}; what is done is in {out}, and the same '
      'command goes on'
    )
  print(f'{shards} shards are done in {out}', flush=True)
  if own.figures:
    sys.exit(worker.figures(flags))


if __name__ == '__main__':
  main()
