"""Trains populations of cells on a corpus and writes a benchmark table.

  python experiments/benchmark.py --flagfile=experiments/flags/quickstart.flags

Killed at any moment and started again with the same command, it goes on from
the last epoch. --dry_run prints the plan and a projection of the time.
"""

import json
import pathlib
import sys

import command
import corpora
import devices
import training
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'out', 'results/benchmark', 'Where the table, checkpoints and figures go.'
)
flags.DEFINE_integer(
  'members_per_shard',
  8,
  'Largest number of networks trained together.',
  lower_bound=1,
)
flags.DEFINE_bool(
  'dry_run', False, 'Print the plan and a projection of the time, and stop.'
)
flags.adopt_module_key_flags(corpora)
flags.adopt_module_key_flags(devices)
flags.adopt_module_key_flags(training)


def write_record(job, builder, out):
  """Writes run.json: what this run is, and where its corpus lies."""
  from nasjax import provenance, runs
  from nasjax.table import disk

  own_flags = FLAGS.get_key_flags_for_module(sys.argv[0])
  record = runs.describe(job) | {
    'flags': {flag.name: flag.value for flag in own_flags},
    'prepared_corpus': str(pathlib.Path(builder.data_dir).absolute()),
    'versions': provenance.versions(),
    'commit': provenance.commit(),
  }
  disk.publish(out / 'run.json', json.dumps(record, indent=1).encode())


def run():
  """The whole way: corpus, plan, shards, table, figures."""
  # What can be wrong is looked for before anything slow is imported.
  recipe, members = training.recipe(), training.members()
  corpora.check()
  out = command.directory('out')
  with command.exclusive(out):
    devices.configure(FLAGS.members_per_shard)
    import monitor
    import summary

    from nasjax import population, runs, spaces, table
    from nasjax.data import corpus as corpus_lib

    with monitor.counter('preparing speech') as tick:
      builder = corpora.prepare(tick)
    with monitor.counter('computing features') as tick:
      corpus = corpus_lib.load(builder, progress=tick)
    macro = training.macro().with_outputs(1 + len(corpus.symbols))
    mesh = population.member_mesh()
    job = runs.Job(
      spaces.NB_ASR, macro, recipe, corpus.name, corpus.fingerprint
    )
    shards = runs.plan(job, members, FLAGS.members_per_shard, mesh.size)
    prepared = runs.prepare(corpus, recipe, mesh)
    runs.check_table(job, shards, out)
    monitor.print_plan(job, corpus, shards, prepared)
    if FLAGS.dry_run:
      done = table.committed(out / 'table')
      todo = [shard for shard in shards if shard.name not in done]
      monitor.print_projection(job, todo, prepared)
      return
    write_record(job, builder, out)
    with monitor.Bar(shards, recipe.epochs) as bar:
      for shard in shards:
        bar.begin(shard)
        done = runs.run_shard(job, shard, prepared, out, bar.update)
        bar.finish(shard, skipped=not done)
    rows = table.open(out).select(
      recipe=recipe.name,
      macro=macro.name,
      corpus_fingerprint=corpus.fingerprint,
    )
    summary.write(rows, out)


if __name__ == '__main__':
  command.run(run)
