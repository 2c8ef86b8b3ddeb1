"""The flags that choose a corpus, shared by the launchers."""

import os
import pathlib

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'corpus',
  'synthetic_timit',
  [
    'synthetic_timit',
    'synthetic_languages',
    'timit',
    'manifest',
    'librispeech',
  ],
  'Which corpus to train on.',
)
flags.DEFINE_string(
  'language', 'vi', 'Of --corpus=synthetic_languages, by its code.'
)
flags.DEFINE_string(
  'data_dir', 'data', 'Where prepared corpora lie; shared by all runs.'
)
flags.DEFINE_string(
  'corpus_path',
  None,
  'The directory of --corpus=timit or --corpus=librispeech; for '
  '--corpus=manifest the manifest.jsonl, or one manifest a split (train.json,'
  'dev.json,test.json), or a directory of either.',
)
flags.DEFINE_enum(
  'targets',
  'phones',
  ['phones', 'characters', 'word_pieces', 'words'],
  'What a corpus is transcribed in; LibriSpeech in word_pieces, sub-words '
  'learnt from the training transcripts, if not given.',
)
flags.DEFINE_integer(
  'pieces',
  None,
  'Number of sub-words for --targets=word_pieces; 780 if not given.',
  lower_bound=1,
)
flags.DEFINE_enum(
  'piece_model',
  None,
  ['unigram', 'bpe'],
  'How sub-words are learnt; unigram if not given.',
)
flags.DEFINE_enum(
  'text_case',
  None,
  ['upper', 'lower', 'keep'],
  'Bring texts into one form (nasjax/data/text.py), in this case; punctuation '
  'goes, but for apostrophes. upper if not given for words, sub-words and '
  'LibriSpeech; texts stay as they are for other targets of a manifest.',
)
flags.DEFINE_enum(
  'digits',
  None,
  ['refuse', 'spell'],
  'What that form does with digits: refuse if not given; spell is English.',
)
flags.DEFINE_list(
  'train_subsets',
  None,
  'Subsets of LibriSpeech to train on, by name or pattern (train-clean-*); '
  'train-clean-100 if not given.',
)
flags.DEFINE_list(
  'validation_subsets', None, 'Likewise; dev-clean if not given.'
)
flags.DEFINE_list('test_subsets', None, 'Likewise; test-clean if not given.')
flags.DEFINE_bool(
  'partial_librispeech',
  False,
  'Accept subsets of LibriSpeech that are not complete, or none of it.',
)
flags.DEFINE_bool(
  'allow_shared_speakers',
  False,
  'Accept a manifest with one speaker in several splits.',
)
flags.DEFINE_bool(
  'allow_infeasible',
  False,
  'Accept transcripts that are longer than CTC could align, as those of a '
  'transducer (--loss=transducer) may be.',
)
flags.DEFINE_string(
  'alphabet_path',
  None,
  'A file of the symbols that manifest transcripts may have, one a line; all '
  'that the training split has if not given.',
)
flags.DEFINE_integer(
  'split_seed',
  0,
  'Seed by which a manifest without one gets its validation split.',
  lower_bound=0,
)
flags.DEFINE_float(
  'duration_tolerance',
  0.06,
  'Seconds by which durations in a manifest may be wrong.',
  lower_bound=0,
)
flags.DEFINE_float(
  'min_seconds', 0, 'Shorter manifest utterances are left out.', lower_bound=0
)
flags.DEFINE_float(
  'max_seconds',
  None,
  'Longer manifest utterances are left out. One of some minutes sets the '
  'shape, and so the memory, of a whole batch.',
  lower_bound=0,
)
flags.DEFINE_list(
  'drop',
  [],
  'Rules whose offending utterances of a manifest, or of LibriSpeech, are left '
  'out.',
)
flags.DEFINE_bool(
  'partial_timit', False, 'Accept a TIMIT directory that is not complete.'
)
flags.DEFINE_integer(
  'synth_utterances',
  6300,
  'Size of synthetic_timit, or of synthetic_languages.',
  lower_bound=100,
  upper_bound=6300,
)
flags.DEFINE_integer('synth_seed', 0, 'Seed of the same.', lower_bound=0)
flags.DEFINE_enum(
  'synth_grammar',
  'full',
  ['digits', 'small', 'full'],
  'Grammar of synthetic_timit.',
)
flags.DEFINE_list(
  'synth_words', ['4', '12'], 'Fewest and most words of a synthetic sentence.'
)
flags.DEFINE_list(
  'synth_snr_db',
  ['5', '25'],
  'Range of signal-to-noise ratios of synthetic speech in dB; empty for no '
  'noise.',
)
flags.DEFINE_list(
  'synth_rt60',
  ['0.1', '0.5'],
  'Range of reverberation times of synthetic speech in seconds; empty for '
  'none.',
)
flags.DEFINE_bool(
  'synth_band_limit', True, 'Limit the band of synthetic recordings.'
)
flags.DEFINE_enum(
  'stored_features',
  None,
  ['float32', 'bfloat16', 'uint8'],
  'Keep features in files of --data_dir, in this precision, for corpora larger '
  'than memory: those of training are read as they are needed. In memory if '
  'not given.',
)
# Names and features a frame, spelt out: `data.frontend` imports JAX.
_WIDTHS = {'nb_asr': 80, 'st_nas': 120, 'nb_asr_hamming': 80, 'darts_asr': 83}
FRONTENDS = tuple(_WIDTHS)
flags.DEFINE_enum(
  'frontend',
  None,
  FRONTENDS,
  'What a network hears of the corpus. nb_asr: 80 log-mel energies, normalised '
  'over training. st_nas: 40 with deltas and delta-deltas, normalised by '
  'speaker, and training at speeds 0.9, 1 and 1.1; needs a macro network of '
  '120 features. nb_asr_hamming: nb_asr with Hamming windows. darts_asr: '
  'nb_asr and three features of pitch. What fits the macro network if not '
  'given, nb_asr_hamming for LibriSpeech.',
)
SYNTHETIC = (
  'synth_utterances',
  'synth_seed',
  'synth_grammar',
  'synth_words',
  'synth_snr_db',
  'synth_rt60',
  'synth_band_limit',
)
# Of these what one language has, too.
_LANGUAGE = (
  'language',
  *sorted(set(SYNTHETIC) - {'synth_grammar', 'synth_band_limit'}),
)
# Of all that has texts.
_TEXTS = ('targets', 'pieces', 'piece_model', 'text_case', 'digits')
_BOTH = (
  *_TEXTS,
  'alphabet_path',
  'allow_shared_speakers',
  'allow_infeasible',
  'drop',
  'min_seconds',
  'max_seconds',
)
_MANIFEST = (*_BOTH, 'split_seed', 'duration_tolerance')
_SUBSETS = {
  'train': 'train_subsets',
  'validation': 'validation_subsets',
  'test': 'test_subsets',
}
_LIBRISPEECH = (*_BOTH, *_SUBSETS.values(), 'partial_librispeech')


def check():
  """Refuses flags that contradict the corpus or lead nowhere.

  Raises:
    ValueError: naming the flag.
  """
  allowed = {
    'synthetic_timit': SYNTHETIC,
    'synthetic_languages': (*_LANGUAGE, *_MANIFEST),
    'timit': ('corpus_path', 'partial_timit'),
    'manifest': ('corpus_path', *_MANIFEST),
    'librispeech': ('corpus_path', *_LIBRISPEECH),
  }
  for name in dict.fromkeys(
    [*SYNTHETIC, *(name for names in allowed.values() for name in names)]
  ):
    if FLAGS[name].present and name not in allowed[FLAGS.corpus]:
      raise ValueError(f'--{name} does not go with --corpus={FLAGS.corpus}')
  if FLAGS.corpus == 'librispeech' and not FLAGS['targets'].present:
    FLAGS.targets = 'word_pieces'
  for name in ('pieces', 'piece_model'):
    if FLAGS[name].value is not None and FLAGS.targets != 'word_pieces':
      raise ValueError(f'--{name} is for --targets=word_pieces')
  if FLAGS.corpus == 'synthetic_timit':
    spec()
  elif FLAGS.corpus == 'synthetic_languages':
    language_spec()
  else:
    _corpus_path()
  command.directory('data_dir')


def _corpus_path():
  """Returns the path of a corpus that is read; of a manifest also several."""
  if not FLAGS.corpus_path:
    raise ValueError(f'--corpus={FLAGS.corpus} needs --corpus_path')
  path = pathlib.Path(os.path.expanduser(FLAGS.corpus_path))
  if FLAGS.corpus != 'manifest':
    if not path.is_dir():
      raise ValueError(
        f'--corpus_path={path} is no directory; give that of {FLAGS.corpus}'
        if path.exists()
        else f'--corpus_path={path} does not exist; give the directory of '
        f'{FLAGS.corpus}'
      )
    return path
  paths = [path]
  if not os.path.exists(path) and ',' in FLAGS.corpus_path:
    words = [word.strip() for word in FLAGS.corpus_path.split(',')]
    paths = [pathlib.Path(os.path.expanduser(word)) for word in words if word]
  elif path.is_dir():
    paths = _manifests(path)
  for path in paths:
    if not os.path.exists(path):
      raise ValueError(f'--corpus_path={path} does not exist')
    if not path.is_file():
      raise ValueError(
        f'--corpus_path={path} is no file; give a manifest.jsonl'
      )
    if not path.read_bytes().strip():
      raise ValueError(f'--corpus_path={path} has no utterance')
  return tuple(paths) if len(paths) > 1 else paths[0]


def _manifests(folder):
  """Returns the manifests in a directory: manifest.jsonl, or one a split."""
  whole = folder / 'manifest.jsonl'
  found = [
    path
    for path in sorted(folder.iterdir())
    if path.suffix.lower() in ('.json', '.jsonl')
    and not path.name.startswith('.')
    and path.is_file()
  ]
  if whole in found:
    return [whole]
  if not found:
    raise ValueError(
      f'--corpus_path={folder} is a directory without a manifest.jsonl, or '
      'one manifest a split: train.json, dev.json, test.json'
    )
  return found


def _numbers(name, kind):
  text = ','.join(FLAGS[name].value)
  try:
    values = tuple(kind(word) for word in FLAGS[name].value if word)
  except ValueError:
    raise ValueError(f'--{name}={text}: want two numbers: low,high') from None
  if values and len(values) != 2:
    raise ValueError(f'--{name}={text}: want two numbers: low,high')
  return values or None


def spec():
  """Returns the `synthesis.Spec` that the flags describe."""
  # Imported here and below, for it takes a second or two: first come flags.
  from nasjax.data.synthetic import synthesis

  try:
    return synthesis.Spec(
      num_utterances=FLAGS.synth_utterances,
      seed=FLAGS.synth_seed,
      grammar=FLAGS.synth_grammar,
      words=_numbers('synth_words', int),
      snr_db=_numbers('synth_snr_db', float),
      rt60=_numbers('synth_rt60', float),
      band_limit=FLAGS.synth_band_limit,
    )
  except ValueError as e:
    raise ValueError(f'synthetic speech: {e}') from None


def language_spec():
  """Returns the `languages.Spec` that the flags describe."""
  from nasjax.data.synthetic import languages

  try:
    return languages.Spec(
      FLAGS.language,
      FLAGS.synth_utterances,
      FLAGS.synth_seed,
      _numbers('synth_words', int),
      _numbers('synth_snr_db', float),
      _numbers('synth_rt60', float),
    )
  except ValueError as e:
    raise ValueError(f'synthetic speech: {e}') from None


def metric(symbols):
  """Returns what the error rate of the corpus, of these symbols, is called."""
  from nasjax.decoding import metrics

  targets = 'phones'
  if FLAGS.corpus in ('manifest', 'librispeech', 'synthetic_languages'):
    targets = FLAGS.targets.replace('word_pieces', 'sub-words')
  return metrics.decides(metrics.Units(tuple(symbols)), targets)


def frontend_for(features, corpus=None):
  """Returns the name of the front end that makes so many features a frame.

  Args:
    features: how many.
    corpus: its name; LibriSpeech has one of its own.
  """
  if corpus == 'librispeech' and features == _WIDTHS['nb_asr_hamming']:
    return 'nb_asr_hamming'
  fitting = [name for name, width in _WIDTHS.items() if width == features]
  return (fitting or FRONTENDS)[0]


def frontend():
  """Returns the `Frontend` that the flags name."""
  from nasjax.data import frontend as frontend_lib

  return frontend_lib.FRONTENDS[FLAGS.frontend]


def prepare(progress=None):
  """Prepares the corpus that the flags name, if need be.

  Args:
    progress: called with (done, total) utterances while speech is made.

  Returns:
    A prepared TFDS builder.
  """
  data_dir = command.directory('data_dir')
  if FLAGS.corpus == 'synthetic_timit':
    from nasjax.data import synthetic_timit

    return synthetic_timit.prepare(
      data_dir, spec(), workers=os.cpu_count() or 1, progress=progress
    )
  from nasjax.data import corpus

  if FLAGS.corpus == 'timit':
    from nasjax.data import timit

    builder = timit.builder(
      _corpus_path(), data_dir=data_dir, partial=FLAGS.partial_timit
    )
  else:
    builder = _worded(data_dir, progress)
  corpus.prepare(builder)
  for part in left_out(builder):
    print(
      f'left out of {part["split"]}: {part["utterances"]} utterances, '
      f'{part["minutes"]:.2f} minutes, {part["rule"]}',
      flush=True,
    )
  for note in notes(builder):
    print(note, flush=True)
  return builder


def _worded(data_dir, progress):
  """Returns the builder of a manifest, or of LibriSpeech."""
  options = {
    'drop': tuple(FLAGS.drop),
    **{name: FLAGS[name].value for name in _BOTH if name != 'drop'},
  }
  options = {
    name: value
    for name, value in options.items()
    if value is not None or name not in _TEXTS
  }
  if FLAGS.corpus in ('manifest', 'synthetic_languages'):
    from nasjax.data import manifest

    if FLAGS.corpus == 'manifest':
      path = _corpus_path()
    else:
      from nasjax.data.synthetic import languages

      path = languages.written(
        data_dir / 'languages', language_spec(), progress, os.cpu_count() or 1
      )
    return manifest.builder(
      path,
      data_dir=data_dir,
      seed=FLAGS.split_seed,
      duration_tolerance=FLAGS.duration_tolerance,
      **options,
    )
  from nasjax.data import librispeech

  subsets = {
    split: tuple(FLAGS[flag].value or librispeech.SUBSETS[split])
    for split, flag in _SUBSETS.items()
  }
  return librispeech.builder(
    _corpus_path(),
    data_dir=data_dir,
    subsets=subsets,
    partial=FLAGS.partial_librispeech,
    **options,
  )


def notes(builder):
  """Returns lines on what was clipped or resampled, and what is missing."""
  return list((builder.info.metadata or {}).get('notes', ()))


def left_out(builder):
  """Returns what a manifest lost by rule and split, as `manifest.Examined`."""
  return list((builder.info.metadata or {}).get('left_out', ()))
