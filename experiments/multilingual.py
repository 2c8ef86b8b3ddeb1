"""Does the pattern of a convolutional front end matter, and does it carry over?

  python experiments/multilingual.py \\
    --flagfile=experiments/flags/multilingual_small.flags

DARTS-ASR (Chen et al., Interspeech 2020) beside VGG-Small, VGG-Large and a
dense graph of nothing but 3 by 3: each target language alone (the paper's table
1); trained on all source languages, an output each, then adapted to a target
(table 2); and how that is best done (table 3): a weights alone, b weights and
architecture, c pruned to three operations an edge. Character error rates,
greedy and rescored by a 5-gram of characters; validation losses (figure 3); the
graphs that were found (figures 4 and 5), and how alike they are.

Languages are spoken by eSpeak NG, or read from --manifests=CODE=PATH. Killed at
any moment and started again, the same command goes on.
"""

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_list(
  'source_languages', ['bn', 'id', 'tr'], 'Codes of the source languages.'
)
flags.DEFINE_list(
  'target_languages', ['vi', 'sw', 'ta', 'ku'], 'Codes of the targets.'
)
flags.DEFINE_list(
  'manifests',
  [],
  'CODE=manifest.jsonl of each language that is read; the others are spoken.',
)
flags.DEFINE_integer(
  'utterances', 300, 'Of each language that is spoken.', lower_bound=10
)
flags.DEFINE_integer('speech_seed', 0, 'Of what is spoken.', lower_bound=0)
flags.DEFINE_list(
  'sentence_words', ['1', '4'], 'Fewest and most words that are spoken at once.'
)
flags.DEFINE_list(
  'models',
  ['vgg_small', 'vgg_large', 'darts_asr', 'conv3x3'],
  'Which networks: vgg_small, vgg_large, darts_asr, conv3x3.',
)
flags.DEFINE_list(
  'ways',
  ['a', 'b', 'c'],
  'How DARTS-ASR is adapted: a weights alone, b weights and architecture '
  '(always), c pruned to three operations an edge.',
)
flags.DEFINE_enum(
  'size', 'quick', ['tiny', 'quick', 'paper'], 'Of all networks.'
)
flags.DEFINE_bool(
  'bilevel', False, 'Update the architecture on held-out utterances, as DARTS.'
)
flags.DEFINE_float('sgd_lr', 0.01, 'Of the weights.', lower_bound=1e-9)
flags.DEFINE_float('momentum', 0.9, 'Of the weights.', lower_bound=0.0)
flags.DEFINE_float('weight_decay', 3e-4, 'Of the weights.', lower_bound=0.0)
flags.DEFINE_float(
  'alpha_lr', 1e-4, 'Of the architecture parameters.', lower_bound=1e-9
)
flags.DEFINE_bool(
  'dry_run', False, 'Say what would be trained and what it would cost, and end.'
)
flags.DEFINE_float(
  'device_gmacs',
  None,
  'For --dry_run: 1e9 multiply-accumulates a second of the device that would '
  'train, and need not be here. If not given, epochs are timed on this one.',
  lower_bound=1e-9,
)
flags.DEFINE_string('out', 'results/multilingual', 'Where all results go.')
flags.DEFINE_string('json', None, 'Where the numbers of the report go.')
for _module in device_flags, training_flags:
  flags.adopt_module_key_flags(_module)
for _name in (
  'data_dir', 'targets', 'text_case', 'digits', 'drop', 'split_seed',
  'min_seconds', 'max_seconds', 'duration_tolerance', 'allow_shared_speakers',
  'frontend',
):  # fmt: skip
  flags.declare_key_flag(_name)
FLAGS.set_default('targets', 'characters')
FLAGS.set_default('frontend', 'darts_asr')
FLAGS.set_default('seeds', '1,2,3')

# A study may be added to. Nothing that is there would be another.
_GROWING = 'models', 'ways', 'seeds', 'target_languages'
_FREE = (
  'out', 'json', 'data_dir', 'cpu_devices', 'compilation_cache', 'dry_run',
  'device_gmacs',
)  # fmt: skip


def _check_training():
  """Refuses flags of training that are out of range, or not listened to."""
  if FLAGS.momentum >= 1:
    raise ValueError(f'--momentum={FLAGS.momentum}: want a number below 1')
  if FLAGS.lr is not None:
    raise ValueError(f'--lr={FLAGS.lr}: rates begin with --sgd_lr; give that')
  if FLAGS.l2:
    raise ValueError(f'--l2={FLAGS.l2}: give --weight_decay instead')
  if FLAGS.loss not in (None, 'ctc'):
    raise ValueError(f'--loss={FLAGS.loss}: all networks train with CTC')
  if FLAGS.precision == 'int8':
    raise ValueError(
      '--precision=int8: supernets are not trained for eight bits; take '
      'float32 or bfloat16'
    )


def check():
  """Refuses flags that lead nowhere; imports little."""
  from studies import multilingual_corpora, multilingual_study

  training_flags.recipe()
  _check_training()
  multilingual_study.tasks()
  multilingual_corpora.specs()
  if FLAGS.targets not in ('characters', 'phones'):
    raise ValueError(
      f'--targets={FLAGS.targets}: want characters or phones, of which each '
      'language has its own'
    )
  if FLAGS.data_devices > 1:
    raise ValueError('--data_devices: batches are normalised; leave it out')
  if corpus_flags.frontend().normalise != 'corpus':
    raise ValueError(
      f'--frontend={FLAGS.frontend} normalises by speaker; take darts_asr or '
      'nb_asr'
    )


def run():
  """Corpora, trainings, report."""
  check()
  if FLAGS.dry_run:
    from summaries import multilingual_summary

    multilingual_summary.plan(FLAGS.json)
    return
  out = command.directory('out')
  with command.exclusive(out):
    record = command.Record(out, _GROWING, _FREE)
    from studies import multilingual_study

    study = multilingual_study.run(out, record)
    from summaries import multilingual_summary

    multilingual_summary.write(study, out, FLAGS.json)


if __name__ == '__main__':
  command.run(run)
