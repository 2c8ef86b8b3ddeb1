"""A run of two shards in processes that kill themselves.

  python killed_runs.py PROCESSES

PROCESSES is a JSON list of [directory, kill]; each entry is one process that
works on the run in that directory until it is killed, or to the end if `kill`
is null:

  ["file", n]            at the n-th call that touches a file of the run
  ["path", text]         at the first one whose path has `text` in it
  ["epoch", shard, n, s] s seconds after the shard's n-th epoch

Prints a JSON list, for each process: "status", how it ended; "epochs", the
[shard, epoch, whether read from a checkpoint] that it told of; "leftovers", the
unfinished checkpoints that it left.

All is imported before the processes are forked, so that each costs no more than
its training.
"""

import json
import os
import pathlib
import signal
import sys
import threading

import jax
import pandas  # noqa: F401  pyarrow would load it in every process
import scipy.linalg  # noqa: F401  and so would jax
import tiny_corpus

from nasjax.benchmark import running

# Two seeds in the first shard; the second is padded and has one. Other tests
# compile their program, too.
MEMBERS = [
  ([[2, 1], [0, 1, 1], [5, 0, 1, 1]], 1),
  ([[1, 0], [0, 1, 0], [5, 1, 0, 1]], 2),
  ([[3, 1], [0, 0, 0], [5, 0, 1, 1]], 3),
]
RECIPE = tiny_corpus.variant(name='killed', epochs=5, decay=0.8)
EVENTS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.fsync')


def job():
  return tiny_corpus.job(RECIPE)


def shards():
  return running.plan(job(), MEMBERS, members_per_shard=2)


def run(out, on_epoch):
  """Does what is left of the run in directory `out`."""
  prepared = tiny_corpus.prepared(RECIPE)
  for shard in shards():
    running.run_shard(
      job(),
      shard,
      prepared,
      out,
      lambda progress: on_epoch(
        progress.shard.name, progress.epoch, progress.resumed
      ),
    )


def _die():
  os.kill(os.getpid(), signal.SIGKILL)


def _watch_files(out, kill):
  count = 0

  def hook(event, args):
    nonlocal count
    if event not in EVENTS or not args or str(out) not in str(args[0]):
      return
    count += 1
    if kill == ['file', count]:
      _die()
    if kill and kill[0] == 'path' and kill[1] in str(args[0]):
      _die()

  sys.addaudithook(hook)


def _child(out, kill, tell):
  names = [shard.name for shard in shards()]
  _watch_files(out, kill)

  def on_epoch(name, epoch, resumed):
    tell([names.index(name), epoch, resumed])
    if kill and kill[:3] == ['epoch', names.index(name), epoch]:
      threading.Timer(kill[3], _die).start()

  run(out, on_epoch)


def _fork(out, kill):
  """Returns what one process said before it ended, and how it did."""
  reader, writer = os.pipe()
  pid = os.fork()
  if not pid:
    os.close(reader)
    try:
      _child(out, kill, lambda said: os.write(writer, _line(said)))
      os._exit(0)
    except BaseException as e:
      print(repr(e), file=sys.stderr, flush=True)
      os._exit(1)
  os.close(writer)
  with open(reader) as lines:
    epochs = [json.loads(line) for line in lines]
  return {
    'status': os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
    'epochs': epochs,
    'leftovers': [path.name for path in out.glob('checkpoints/*/*tmp*')],
  }


def _line(said):
  return (json.dumps(said) + '\n').encode()


def main():
  jax.config.update(
    'jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE']
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  assert threading.active_count() == 1, 'threads do not survive a fork'
  found = [
    _fork(pathlib.Path(out), kill) for out, kill in json.loads(sys.argv[1])
  ]
  print(json.dumps(found), flush=True)


if __name__ == '__main__':
  main()
