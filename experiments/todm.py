"""Trains one elastic network, and takes the best network of every size from it.

  python experiments/todm.py --flagfile=experiments/flags/todm_an4.flags

TODM (Shangguan et al. 2023, "TODM: Train Once Deploy Many"): rows of Table 1
are ways to train, A1 networks of some sizes trained by themselves. Each
supernet is searched by evolution over bins of size on validation; the networks
found at the sizes of A1 are held against those. Killed at any moment and
started again, the same command goes on, and ends with the same; carried
elsewhere, OUT/table and OUT/supernets/*.json are enough of what is finished.
`nasjax.best(OUT, max_params=..)` then gives a network for
`nasjax.load_network`.
"""

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_list(
  'rows',
  ['A1', 'B1', 'D'],
  'Rows of Table 1: A1, networks of the sizes trained alone; A2, A3; B0, B1, '
  'C, D, E, F, supernets; beside them exits, topk, orthosoftmax and paths.',
)
flags.DEFINE_list(
  'ablation',
  [],
  'Ways to distil, for Table 2, on row D: a divergence, kl or alpha, and what '
  'it is over, as kl_top2, alpha_top10, kl_top100, kl_label_blank.',
)
flags.DEFINE_list(
  'sizes',
  ['min', 'middle', 'max'],
  'Sizes of A1, at which supernets are held against it: min, middle, max, '
  'shares of the largest, as 50%, or millions of parameters, as 41.1.',
)
flags.DEFINE_integer(
  'bins', 32, 'Bins of size that a search fills.', lower_bound=1
)
flags.DEFINE_integer(
  'population', 512, 'Networks of its first generation.', lower_bound=1
)
flags.DEFINE_integer(
  'mutants', 128, 'Mutants of each further one.', lower_bound=0
)
flags.DEFINE_integer(
  'crossings', 128, 'Crossings of each further one.', lower_bound=0
)
flags.DEFINE_integer(
  'generations', 20, 'Generations of a search.', lower_bound=1
)
flags.DEFINE_float(
  'mutation_rate', 0.2, "Probability that a mutant's digit is drawn anew.",
  lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
flags.DEFINE_string(
  'metric',
  None,
  'Error rate that searches lower and tables tell: wer, where labels spell '
  'words; that of the labels themselves if not given.',
)
flags.DEFINE_bool(
  'int8', False, 'Search and judge with weights rounded to 8 bits.'
)
flags.DEFINE_bool(
  'dry_run', False, 'Say what all of it would cost, and train nothing.'
)
flags.DEFINE_string(
  'plan_for',
  None,
  'With --dry_run: for a chip that is not there, such as h100, by formula; no '
  'corpus is read, but what these say of it:',
)
flags.DEFINE_float(
  'plan_hours', 960.9, 'Hours of speech for training.', lower_bound=1e-3
)
flags.DEFINE_integer(
  'plan_utterances', 281_241, 'Utterances of these.', lower_bound=1
)
flags.DEFINE_float(
  'plan_labels', 35.0, 'Labels of each, the mean.', lower_bound=0.0
)
flags.DEFINE_integer(
  'plan_judged', 2_703, 'Utterances of validation.', lower_bound=1
)
flags.DEFINE_float(
  'plan_share', 0.2, "Share of the chip's peak that training reaches."
)
flags.DEFINE_string('out', 'results/todm', 'Where all results go.')
flags.DEFINE_string('json', None, 'Where the numbers of the report go.')
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)
FLAGS.set_default('space', 'todm_small')

# A study may be added to. Nothing that is there would be another.
_GROWING = 'rows', 'ablation', 'seeds'
_FREE = (
  'out', 'json', 'dry_run', 'plan_for', 'plan_hours', 'plan_utterances',
  'plan_labels', 'plan_judged', 'plan_share', 'data_dir', 'cpu_devices',
  'data_devices', 'compilation_cache',
)  # fmt: skip


def run():
  """Trainings, searches, report; or what they would cost."""
  from studies import todm_plans, todm_sizes, todm_study

  training_flags.recipe(), training_flags.space()
  todm_sizes.check(FLAGS.sizes)
  ways, alone = todm_study.ways(FLAGS.rows, FLAGS.ablation)
  todm_study.check_search()
  if FLAGS.plan_for:
    todm_plans.plan_for(ways, alone, FLAGS.json)
    return
  corpus_flags.check()
  out = command.directory('out')
  with command.exclusive(out):
    record = command.Record(out, _GROWING, _FREE)
    if FLAGS.dry_run:
      todm_plans.plan(ways, alone, FLAGS.json)
      return
    study = todm_study.run(ways, alone, out, record)
    from summaries import todm_summary

    todm_summary.write(study, out, FLAGS.json)


if __name__ == '__main__':
  command.run(run)
