"""Trains populations of cells on a corpus and writes a benchmark table.

  python experiments/benchmark.py --flagfile=experiments/flags/quickstart.flags

Killed at any moment and started again with the same command, it goes on from
the last epoch. --dry_run prints the plan and a projection of the time.
"""

import contextlib
import fcntl
import os
import pathlib
import sys

from absl import app, flags, logging

import corpora
import training

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'out', 'results/benchmark', 'Where the table, checkpoints and figures go.'
)
flags.DEFINE_integer(
  'members_per_shard', 8, 'Largest number of networks trained together.'
)
flags.DEFINE_integer(
  'cpu_devices',
  None,
  'CPU devices over which members are spread; all cores if not given. '
  'Accelerators are always all used.',
)
flags.DEFINE_string(
  'compilation_cache',
  '.cache/jax',
  'Where compiled programs are kept for the next run; empty for nowhere.',
)
flags.DEFINE_bool(
  'dry_run', False, 'Print the plan and a projection of the time, and stop.'
)
flags.adopt_module_key_flags(corpora)
flags.adopt_module_key_flags(training)


def configure_jax():
  """Settings that must stand before the first computation."""
  import jax

  if FLAGS.cpu_devices is not None and FLAGS.cpu_devices < 1:
    raise ValueError(f'--cpu_devices={FLAGS.cpu_devices}: at least 1')
  jax.config.update(
    'jax_num_cpu_devices', FLAGS.cpu_devices or os.cpu_count() or 1
  )
  if FLAGS.compilation_cache:
    cache = pathlib.Path(FLAGS.compilation_cache).absolute()
    jax.config.update('jax_compilation_cache_dir', str(cache))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@contextlib.contextmanager
def exclusive(out):
  """Makes `out` and holds it against a second run."""
  out.mkdir(parents=True, exist_ok=True)
  with (out / '.lock').open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'--out={out}: another run is writing there') from None
    yield


def run():
  """The whole way: corpus, plan, shards, table, figures."""
  logging.set_verbosity(logging.WARNING)
  corpora.check()
  recipe, macro = training.recipe(), training.macro()
  members = training.members()
  configure_jax()
  import monitor
  import summary

  from nasjax import population, runs, spaces, table
  from nasjax.data import corpus as corpus_lib

  out = pathlib.Path(FLAGS.out).expanduser()
  with exclusive(out):
    with monitor.counter('preparing speech') as tick:
      builder = corpora.prepare(tick)
    with monitor.counter('computing features') as tick:
      corpus = corpus_lib.load(builder, progress=tick)
    macro = macro.with_outputs(1 + len(corpus.symbols))
    mesh = population.member_mesh()
    job = runs.Job(
      spaces.NB_ASR, macro, recipe, corpus.name, corpus.fingerprint
    )
    shards = runs.plan(job, members, FLAGS.members_per_shard, mesh.size)
    prepared = runs.prepare(corpus, recipe, mesh)
    monitor.print_plan(job, corpus, shards, prepared)
    if FLAGS.dry_run:
      monitor.print_projection(job, shards, prepared)
      return
    with monitor.Bar(shards, recipe.epochs) as bar:
      for shard in shards:
        bar.begin(shard)
        done = runs.run_shard(job, shard, prepared, out, bar.update)
        bar.finish(shard, skipped=not done)
    summary.write(table.open(out), out)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  try:
    run()
  except (ValueError, OSError) as e:
    # What a user can mend is said in one line; the rest keeps its traceback.
    if os.environ.get('NASJAX_TRACEBACK'):
      raise
    sys.exit(f'benchmark.py: {e}')
  except KeyboardInterrupt:
    sys.exit('benchmark.py: stopped; the same command goes on from here')


if __name__ == '__main__':
  app.run(main)
