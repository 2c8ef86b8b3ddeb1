"""The flags that choose networks, cells, seeds and the recipe."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from absl import flags
from common import corpus_flags

from nasjax import spaces
from nasjax.models import macros
from nasjax.training import recipes

FLAGS = flags.FLAGS

# By the name of a space.
MACROS = macros.BY_SPACE
# No enums: --own may add to them.
flags.DEFINE_string(
  'space', 'nb_asr', f'<{"|".join(spaces.SPACES)}>: The search space.'
)
flags.DEFINE_string(
  'macro',
  None,
  f'<{"|".join(macros.names())}>: '
  'The macro network, one of its --space; if not given '
  + ', '.join(
    f'{macros.default(spaces.SPACES[name])} ({name})' for name in MACROS
  )
  + '.',
)
flags.DEFINE_string(
  'cells',
  None,
  'A file of cells, one a line: nested lists, or digits with spaces, then '
  'perhaps seeds=1,2,3; # begins a comment.',
)
flags.DEFINE_integer(
  'random_cells', None, 'Train so many distinct cells, drawn uniformly.'
)
flags.DEFINE_integer('cells_seed', 0, 'Seed of --random_cells.', lower_bound=0)
flags.DEFINE_list(
  'ops',
  None,
  'Train all cells of these operations and of the skips of --skips, one of '
  'each function: a benchmark that is closed under search.',
)
flags.DEFINE_list(
  'skips', None, 'Skips that cells of --ops may have: s00, s10, s11, s20, ..'
)
flags.DEFINE_list('seeds', ['1234'], 'Training seeds of every cell.')
flags.DEFINE_enum(
  'recipe',
  'e40',
  list(recipes.RECIPES),
  'The recipe to start from: e40, e10 and e5 are of NAS-Bench-ASR, st_nas '
  'trains what ST-NAS found, darts_asr what DARTS-ASR found, with SGD.',
)
flags.DEFINE_string(
  'recipe_name',
  None,
  'What the table calls the recipe; made from its hash if flags change one.',
)
_NUMBERS = {
  'epochs': (int, 'Counted epochs.'),
  'lr': (float, 'Learning rate of Adam.'),
  'decay': (
    float,
    'Factor of the learning rate after each later epoch, or with --patience '
    'where the validation loss stands still.',
  ),
  'start': (int, 'Epochs before the learning rate decays.'),
  'dropout': (float, 'Dropout rate.'),
  'l2': (float, 'Weight of the squared convolution kernels.'),
  'clip': (float, 'Largest global norm of the gradient.'),
  'batch': (int, 'Utterances a batch below --long_frames.'),
  'batch_long': (int, 'Utterances a batch from --long_frames on.'),
  'batch_frames': (
    int,
    'Frames of 10 ms a batch, padding included; --batch and --batch_long '
    'remain upper bounds.',
  ),
  'long_frames': (int, 'Where long utterances begin, in frames of 10 ms.'),
  'buckets': (int, 'Padded lengths to compile for.'),
  'beam_width': (int, 'Prefixes that the beam search keeps.'),
  'ctc_weight': (float, 'Weight of CTC beside the CRF of --loss=ctc_crf.'),
  'lm_order': (int, 'Of the language model of --loss=ctc_crf: 2, 3 or 4.'),
  'patience': (
    int,
    'Epochs without improvement until the learning rate falls; 0 for rates '
    'that go by epochs alone.',
  ),
  'minimum_epochs': (int, 'Epochs that --patience does not count.'),
  'delta': (float, 'By how much a loss must fall, in nats, with --patience.'),
  'stop_lr': (float, 'Learning rate below which --patience ends a training.'),
  'frequency_masks': (int, 'SpecAugment: bands of filters that are hidden.'),
  'frequency_mask_bins': (int, 'The widest of them.'),
  'time_masks': (int, 'SpecAugment: stretches of frames that are hidden.'),
  'time_mask_frames': (int, 'The longest of them, in frames of 10 ms.'),
  'time_mask_share': (float, 'The longest, as a share of its utterance.'),
  'consistency': (
    float,
    'CR-CTC: weight of what two masked views of a batch must have in common; a '
    'step then costs two. 0.2 is usual.',
  ),
}
for _name, (_kind, _help) in _NUMBERS.items():
  _define = flags.DEFINE_integer if _kind is int else flags.DEFINE_float
  _define(_name, None, f'{_help} Overrides the recipe.')
flags.DEFINE_list(
  'curriculum',
  None,
  'Passes before the first epoch: each over utterances of fewer samples than '
  'this. Overrides the recipe.',
)
flags.DEFINE_enum(
  'loss_norm',
  None,
  ['frames_plus_one', 'labels', 'none'],
  'What divides the loss of an utterance. Overrides the recipe.',
)
flags.DEFINE_bool(
  'conv_dropout',
  None,
  "Dropout in the cells' convolutions, too. Overrides the recipe.",
)
flags.DEFINE_enum(
  'decoder', None, ['beam', 'greedy'], 'Decoder. Overrides the recipe.'
)
# Losses are spelt out: those of `losses.criterion` take seconds to import.
flags.DEFINE_enum(
  'loss',
  None,
  ['ctc', 'ctc_crf', 'transducer'],
  'What is minimised: CTC; CTC-CRF with a language model of the labels of the '
  'training split; or the loss of a transducer, for macro networks that are '
  'one. Overrides the recipe.',
)
flags.DEFINE_enum(
  'precision',
  None,
  ['float32', 'bfloat16', 'int8'],
  'Of the factors of dense products; int8 trains for eight bits (export.py). '
  'Overrides the recipe.',
)
_CHOICES = ('loss', 'loss_norm', 'decoder', 'precision', 'conv_dropout')


def recipe():
  """Returns the `Recipe` that the flags describe."""
  base = recipes.RECIPES[FLAGS.recipe]
  changes = {
    name: FLAGS[name].value
    for name in (*_NUMBERS, *_CHOICES)
    if FLAGS[name].value is not None
  }
  if FLAGS.loss is None and macros.transduces(FLAGS.space, FLAGS.macro):
    changes['loss'] = 'transducer'
  if FLAGS.curriculum is not None:
    words = [word for word in FLAGS.curriculum if word]
    changes['curriculum'] = tuple(integers('--curriculum', words))
  changed = dataclasses.replace(base, **changes)
  if changed == base and not FLAGS.recipe_name:
    return base
  numbers = recipes.describe(changed) | {'name': ''}
  digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
  name = FLAGS.recipe_name or f'e{changed.epochs}-{digest.hexdigest()[:6]}'
  return dataclasses.replace(changed, name=name)


def space():
  """Returns the `Space` that the flags name.

  Where they name no macro network or no front end, they do from here on: what
  fits the space.

  Raises:
    ValueError: the macro network of the flags is of another space, or the space
      has none.
  """
  if FLAGS.space not in spaces.SPACES:
    raise ValueError(
      f'--space={FLAGS.space}: there are {", ".join(spaces.SPACES)}; '
      "--own=FILE.py brings one's own"
    )
  usual = macros.default(spaces.SPACES[FLAGS.space])
  fitting = tuple(MACROS[FLAGS.space])
  if FLAGS.macro is None:
    FLAGS.macro = usual
  if FLAGS.macro not in fitting:
    *others, last = fitting
    which = f'{", ".join(others)} or {last}' if others else last
    raise ValueError(
      f'--macro={FLAGS.macro} is no network of --space={FLAGS.space}; give '
      f'--macro={which}'
    )
  if FLAGS.frontend is None:  # a flag of `corpora`
    FLAGS.frontend = corpus_flags.frontend_for(
      macros.BY_SPACE[FLAGS.space][FLAGS.macro].features, FLAGS.corpus
    )
  return spaces.SPACES[FLAGS.space]


def macro():
  """Returns the macro network that the flags name."""
  from nasjax.models import families

  found = families.family(space()).macros[FLAGS.macro]
  macros.check_loss(found, recipe().loss)
  return found


def seeds():
  """Returns the training seeds that the flags name."""
  found = integers('--seeds', FLAGS.seeds)
  if not found:
    raise ValueError('--seeds is empty; name at least one')
  return found


def members():
  """Returns the (architecture, seed) pairs that the flags name."""
  own_space = space()
  own_seeds = seeds()
  sources = {
    'cells': (),
    'ops': ('skips',),
    'random_cells': ('cells_seed',),
  }
  given = [name for name in sources if FLAGS[name].value is not None]
  if not given:
    raise ValueError(
      'no cells; give --cells=FILE, --ops=NAMES or --random_cells=NUMBER'
    )
  source, *others = given
  for other, belonging in sources.items():
    if other != source:
      others += [name for name in belonging if FLAGS[name].present]
  if others:
    raise ValueError(
      f'--{source} and --{others[0]} contradict; give one of them'
    )
  if source == 'cells':
    path = pathlib.Path(FLAGS.cells).expanduser()
    return _read_cells(own_space, path, own_seeds)
  if source == 'ops':
    if not isinstance(own_space, spaces.Chain):
      raise ValueError(
        f'--ops: {own_space.name} is no chain of nodes; give --cells=FILE or '
        '--random_cells=NUMBER'
      )
    product = own_space.product(FLAGS.ops, FLAGS.skips or ())
    return [(arch, seed) for arch in product for seed in own_seeds]
  if own_space.size > spaces.MOST_LISTED:
    return [
      (arch, seed)
      for arch in _drawn(own_space, FLAGS.random_cells, FLAGS.cells_seed)
      for seed in own_seeds
    ]
  unique = own_space.unique()
  if not 1 <= FLAGS.random_cells <= len(unique):
    raise ValueError(
      f'--random_cells={FLAGS.random_cells}: want 1 to {len(unique)}'
    )
  rng = np.random.default_rng(FLAGS.cells_seed)
  chosen = rng.choice(len(unique), FLAGS.random_cells, replace=False)
  return [(unique[i], seed) for i in chosen for seed in own_seeds]


def _drawn(space, count, seed):
  """Draws distinct architectures of a space too large to be listed."""
  if not 1 <= count <= spaces.MOST_LISTED:
    raise ValueError(f'--random_cells={count}: want 1 to {spaces.MOST_LISTED}')
  rng = np.random.default_rng(seed)
  found = {}
  while len(found) < count:
    arch_d = rng.integers(0, space.sizes, dtype=np.int8)
    found.setdefault(space.key(arch_d), arch_d)
  return list(found.values())


def _read_cells(space, path, seeds):
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'it is no text'
    raise ValueError(f'--cells={path}: {reason}') from None
  found = []
  for number, line in enumerate(lines, start=1):
    text, own, tail = line.partition('#')[0].partition('seeds=')
    if not (text + own).strip():
      continue
    try:
      cell = space.parse(digits(text))
      chosen = integers('seeds', tail.split(',')) if own else seeds
    except ValueError as e:
      raise ValueError(
        f'--cells={path}, line {number}: {line.strip()!r}: {e}'
      ) from None
    found.extend((cell, seed) for seed in chosen)
  if not found:
    raise ValueError(f'--cells={path}: no cell in it')
  return found


def digits(text):
  """Returns the lists or the digits that a line holds."""
  try:
    if text.strip().startswith('['):
      return json.loads(text)
    return [int(word) for word in text.split()]
  except ValueError:
    raise ValueError('neither nested lists nor whole numbers') from None


def integers(name, words):
  """Returns whole numbers that fit the table's columns."""
  try:
    numbers = [int(word) for word in words]
  except ValueError:
    raise ValueError(
      f'{name}={",".join(words)}: want whole numbers, comma-separated'
    ) from None
  for number in numbers:
    if not 0 <= number < 2**31:
      raise ValueError(
        f'{name}={",".join(words)}: {number} is not in 0 to {2**31 - 1}'
      )
  return numbers
