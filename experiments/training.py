"""The flags that choose networks, cells, seeds and the recipe."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
from absl import flags

from nasjax import recipes, spaces

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'macro',
  'small',
  'The macro network: nb_asr, nb_asr_49, small, compact, quick or tiny.',
)
flags.DEFINE_string(
  'cells',
  None,
  'A file of cells, one a line: nested lists or nine digits, then perhaps '
  'seeds=1,2,3; # begins a comment.',
)
flags.DEFINE_integer(
  'random_cells', None, 'Train so many distinct cells, drawn uniformly.'
)
flags.DEFINE_integer('cells_seed', 0, 'Seed of --random_cells.')
flags.DEFINE_list('seeds', ['1234'], 'Training seeds of every cell.')
flags.DEFINE_string(
  'recipe', 'e40', 'The recipe to start from: e40, e10 or e5 of the paper.'
)
flags.DEFINE_string(
  'recipe_name',
  None,
  'What the table calls the recipe; made from its hash if flags change one.',
)
_NUMBERS = {
  'epochs': (int, 'Counted epochs.'),
  'lr': (float, 'Learning rate of Adam.'),
  'decay': (float, 'Factor of the learning rate after each later epoch.'),
  'start': (int, 'Epochs before the learning rate decays.'),
  'dropout': (float, 'Dropout rate.'),
  'l2': (float, 'Weight of the squared convolution kernels.'),
  'clip': (float, 'Largest global norm of the gradient.'),
  'batch': (int, 'Utterances a batch below --long_frames.'),
  'batch_long': (int, 'Utterances a batch from --long_frames on.'),
  'long_frames': (int, 'Where long utterances begin, in frames of 10 ms.'),
  'buckets': (int, 'Padded lengths to compile for.'),
  'beam_width': (int, 'Prefixes that the beam search keeps.'),
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
flags.DEFINE_enum(
  'decoder', None, ['beam', 'greedy'], 'Decoder. Overrides the recipe.'
)


def recipe():
  """Returns the `Recipe` that the flags describe."""
  if FLAGS.recipe not in recipes.RECIPES:
    raise ValueError(
      f'--recipe={FLAGS.recipe}: choose from {", ".join(recipes.RECIPES)}'
    )
  base = recipes.RECIPES[FLAGS.recipe]
  changes = {
    name: FLAGS[name].value
    for name in (*_NUMBERS, 'loss_norm', 'decoder')
    if FLAGS[name].value is not None
  }
  if FLAGS.curriculum is not None:
    changes['curriculum'] = tuple(_integers('curriculum', FLAGS.curriculum))
  changed = dataclasses.replace(base, **changes)
  if changed == base and not FLAGS.recipe_name:
    return base
  numbers = dataclasses.asdict(changed) | {'name': ''}
  digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
  name = FLAGS.recipe_name or f'e{changed.epochs}-{digest.hexdigest()[:6]}'
  return dataclasses.replace(changed, name=name)


def macro():
  """Returns the `Macro` that the flags name."""
  from nasjax import models

  if FLAGS.macro not in models.MACROS:
    raise ValueError(
      f'--macro={FLAGS.macro}: choose from {", ".join(models.MACROS)}'
    )
  return models.MACROS[FLAGS.macro]


def members():
  """Returns the (architecture, seed) pairs that the flags name."""
  space = spaces.NB_ASR
  seeds = _integers('seeds', FLAGS.seeds)
  if not seeds:
    raise ValueError('--seeds is empty: name at least one')
  if bool(FLAGS.cells) == (FLAGS.random_cells is not None):
    raise ValueError('give either --cells or --random_cells')
  if FLAGS.cells:
    return _read_cells(space, pathlib.Path(FLAGS.cells), seeds)
  unique = space.unique()
  if not 1 <= FLAGS.random_cells <= len(unique):
    raise ValueError(
      f'--random_cells={FLAGS.random_cells}: want 1 to {len(unique)}'
    )
  rng = np.random.default_rng(FLAGS.cells_seed)
  chosen = rng.choice(len(unique), FLAGS.random_cells, replace=False)
  return [(unique[i], seed) for i in chosen for seed in seeds]


def _read_cells(space, path, seeds):
  try:
    lines = path.read_text().splitlines()
  except OSError as e:
    raise ValueError(f'--cells={path}: {e.strerror}') from None
  found = []
  for number, line in enumerate(lines, start=1):
    text, _, tail = line.partition('#')[0].partition('seeds=')
    if not text.strip():
      continue
    try:
      if text.strip().startswith('['):
        cell = space.parse(json.loads(text))
      else:
        cell = space.parse([int(word) for word in text.split()])
      own = [int(word) for word in tail.split(',')] if tail else seeds
    except ValueError as e:
      raise ValueError(f'{path}, line {number}: {line.strip()!r}: {e}') from None
    found.extend((cell, seed) for seed in own)
  if not found:
    raise ValueError(f'--cells={path}: no cell in it')
  return found


def _integers(name, words):
  try:
    numbers = [int(word) for word in words if word != '']
  except ValueError:
    raise ValueError(
      f'--{name}={",".join(words)}: want whole numbers, comma-separated'
    ) from None
  if any(number < 0 for number in numbers):
    raise ValueError(f'--{name}={",".join(words)}: negative numbers make no sense')
  return numbers
