"""Searches with shared weights, and judges what they find.

  python experiments/oneshot.py \\
    --flagfile=experiments/flags/oneshot_nb_asr.flags
  python experiments/oneshot.py \\
    --flagfile=experiments/flags/oneshot_st_nas.flags
  python experiments/oneshot.py \\
    --flagfile=experiments/flags/oneshot_darts_asr.flags

Every method searches with every seed of --search_seeds. What it derives is
trained from scratch with the recipe of the flags, beside random search of equal
cost, the largest operation everywhere and, in ST-NAS's spaces, TDNN-D; and
beside what studies of --found_on found on other corpora (Zheng et al. 2021,
"Efficient Neural Architecture Search for End-to-end Speech Recognition via
Straight-Through Gradients", Table 3). Killed
at any moment and started again, the same command goes on.
"""

import dataclasses
import math

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_list(
  'methods',
  ['darts', 'snas', 'proxyless', 'gdas', 'st_nas'],
  'Names of methods: darts, darts_second, darts_differences, snas, proxyless, '
  'proxyless_full, proxyless_two, gdas, gdas_code, st_nas, st_nas_code, '
  'darts_asr, darts_asr_bilevel (whose mixture is a network itself), uniform '
  '(a supernet for --rank_methods, which decides nothing).',
)
flags.DEFINE_list('search_seeds', ['0', '1', '2'], 'Seeds of the searches.')
flags.DEFINE_list(
  'warm_up_epochs',
  ['5'],
  'Epochs of weights alone; of several numbers, every method searches with '
  'each.',
)
flags.DEFINE_integer('search_epochs', 10, 'Epochs of search.', lower_bound=1)
flags.DEFINE_enum(
  'schedule',
  'fixed',
  ['fixed', 'st_nas', 'darts_asr'],
  'Whether stages run all their epochs at one rate, or end where a loss stands '
  "still, as ST-NAS's and DARTS-ASR's do.",
)
flags.DEFINE_float(
  'search_lr',
  None,
  'Learning rate of the weights in a search; --lr if not given.',
  lower_bound=0.0,
)
flags.DEFINE_float(
  'alpha_lr',
  None,
  "Learning rate of the architecture parameters; the method's if not given.",
  lower_bound=0.0,
)
flags.DEFINE_enum(
  'optimiser', 'adam', ['adam', 'sgd', 'nesterov'], 'Of the shared weights.'
)
flags.DEFINE_float('momentum', 0.9, 'Of sgd and nesterov.', lower_bound=0.0)
flags.DEFINE_float(
  'weight_decay', 3e-4, 'Of sgd and nesterov.', lower_bound=0.0
)
flags.DEFINE_integer(
  'random_archs',
  None,
  'Architectures of each random search; as many as cost what the dearest '
  'search did if not given.',
  lower_bound=1,
)
flags.DEFINE_list(
  'found_on',
  [],
  'Directories of other studies of this space, on other corpora: what their '
  'methods found is trained on this one, too.',
)
flags.DEFINE_string(
  'table',
  None,
  'A benchmark table of the space, macro network and corpus: for ranks of what '
  'was found and of the supernets; its rows are not trained again.',
)
flags.DEFINE_list(
  'rank_methods',
  ['uniform', 'st_nas'],
  'Methods whose supernets rank the architectures of --table.',
)
flags.DEFINE_string(
  'metric',
  None,
  'Name of the error rate on test in the report, as wer; the one that decides '
  'on the corpus if not given.',
)
flags.DEFINE_string(
  'latency_profile',
  None,
  'What latency.py --random_cells --json wrote: every method then minds the '
  'expected latency of what it would derive.',
)
flags.DEFINE_float(
  'latency_target', None, 'Seconds of a pass that are aimed at.'
)
flags.DEFINE_float('latency_weight', 0.1, 'Weight of the expected latency.')
flags.DEFINE_enum(
  'latency_form',
  'linear',
  ['linear', 'product'],
  'How it enters the loss, see nasjax/oneshot/expected.py.',
)
flags.DEFINE_string('out', 'results/oneshot', 'Where all results go.')
flags.DEFINE_string('json', None, 'Where the numbers of the report go.')
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)


# A study may be added to. Nothing that is there would be another.
_GROWING = (
  'methods', 'search_seeds', 'seeds', 'warm_up_epochs', 'rank_methods',
  'found_on',
)  # fmt: skip
_FREE = (
  'out', 'json', 'metric', 'data_dir', 'cpu_devices', 'data_devices',
  'compilation_cache',
)  # fmt: skip


def methods():
  """Returns the methods that the flags name, in their order."""
  from nasjax.oneshot import methods as methods_lib

  found = []
  for name in FLAGS.methods:
    if name not in methods_lib.METHODS:
      raise ValueError(
        f'--methods: {name!r}; there are {", ".join(methods_lib.METHODS)}'
      )
    method = methods_lib.METHODS[name]
    if FLAGS.alpha_lr is not None:
      method = dataclasses.replace(method, alpha_lr=FLAGS.alpha_lr)
    found.append(method)
  if not found:
    raise ValueError('--methods is empty; name at least one')
  if not any(method.searches for method in found):
    raise ValueError('--methods: none of them searches; add one that does')
  return list(dict.fromkeys(found))


def minding(methods):
  """Returns the methods, with the expected latency where flags give one."""
  if not FLAGS.latency_profile:
    if FLAGS.latency_target is not None:
      raise ValueError('--latency_target wants --latency_profile')
    return methods
  if FLAGS.latency_target is None:
    raise ValueError('--latency_profile wants --latency_target, in seconds')
  for name in 'latency_target', 'latency_weight':
    if not 0 < FLAGS[name].value < math.inf:
      raise ValueError(f'--{name}={FLAGS[name].value}: want a number above 0')
  from studies import oneshot_study

  from nasjax.oneshot import expected
  from nasjax.predictors import latency

  profile, macro = latency.read(FLAGS.latency_profile), training_flags.macro()
  own = training_flags.space().name, macro.name
  if (profile.space.name, profile.macro.name) != own:
    raise ValueError(
      f'--latency_profile={FLAGS.latency_profile} is of {profile.macro.name} '
      f'of {profile.space.name}, the search of {macro.name} of {own[0]}'
    )
  found = expected.from_operations(
    latency.operations(profile),
    oneshot_study.make_supernet(macro),
    FLAGS.latency_target,
    FLAGS.latency_weight,
    FLAGS.latency_form,
  )
  least = found.base + sum(map(min, found.seconds_e))
  if least > FLAGS.latency_target:
    raise ValueError(
      f'--latency_target={FLAGS.latency_target:g}: no architecture meets it; '
      f'the smallest that there is takes {least:g} s'
    )
  return [dataclasses.replace(method, latency=found) for method in methods]


def stages():
  """Returns the stages of every number of warm-up epochs, by that number."""
  from nasjax.oneshot import stages as stages_lib

  recipe = training_flags.recipe()
  if FLAGS.schedule == 'st_nas' and recipe.loss_norm != 'none':
    raise ValueError(
      f'--schedule=st_nas judges losses in nats an utterance, but the loss is '
      f'divided (loss_norm {recipe.loss_norm}); give --loss_norm=none'
    )
  lr = FLAGS.search_lr or recipe.lr
  make = getattr(stages_lib, FLAGS.schedule)
  found = {
    warm_up: make(warm_up, FLAGS.search_epochs, lr)
    for warm_up in training_flags.integers(
      '--warm_up_epochs', FLAGS.warm_up_epochs
    )
  }
  if not found:
    raise ValueError('--warm_up_epochs is empty; name at least one number')
  return found


def run():
  """Searches, baselines, retraining, report."""
  training_flags.recipe(), training_flags.space()
  search_seeds = training_flags.integers('--search_seeds', FLAGS.search_seeds)
  if not search_seeds:
    raise ValueError('--search_seeds is empty; name at least one')
  corpus_flags.check()
  out = command.directory('out')
  with command.exclusive(out):
    record = command.Record(out, _GROWING, _FREE)
    from studies import oneshot_study

    chosen = minding(methods())
    study = oneshot_study.run(chosen, search_seeds, stages(), out, record)
    from summaries import oneshot_summary

    oneshot_summary.write(study, out, FLAGS.json, FLAGS.metric)


if __name__ == '__main__':
  command.run(run)
