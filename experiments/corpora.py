"""The flags that choose a corpus, shared by the launchers."""

import os
import pathlib

from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'corpus',
  'synthetic_timit',
  ['synthetic_timit', 'timit', 'manifest'],
  'Which corpus to train on.',
)
flags.DEFINE_string(
  'data_dir', 'data', 'Where prepared corpora lie; shared by all runs.'
)
flags.DEFINE_string(
  'corpus_path',
  None,
  'The TIMIT directory for --corpus=timit, or the manifest.jsonl for '
  '--corpus=manifest.',
)
flags.DEFINE_enum(
  'targets',
  'phones',
  ['phones', 'characters'],
  'What a manifest corpus is transcribed in.',
)
flags.DEFINE_bool(
  'allow_shared_speakers',
  False,
  'Accept a manifest with one speaker in several splits.',
)
flags.DEFINE_list(
  'drop', [], 'Rules whose offending manifest utterances are left out.'
)
flags.DEFINE_bool(
  'partial_timit', False, 'Accept a TIMIT directory that is not complete.'
)
flags.DEFINE_integer(
  'synth_utterances', 6300, 'Size of synthetic_timit, 100 to 6300.'
)
flags.DEFINE_integer('synth_seed', 0, 'Seed of synthetic_timit.')
flags.DEFINE_string(
  'synth_grammar', 'full', 'Grammar of synthetic_timit: digits, small or full.'
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
_SYNTHETIC = (
  'synth_utterances',
  'synth_seed',
  'synth_grammar',
  'synth_words',
  'synth_snr_db',
  'synth_rt60',
  'synth_band_limit',
)
_MANIFEST = ('targets', 'allow_shared_speakers', 'drop')


def check():
  """Refuses flags that contradict the corpus.

  Raises:
    ValueError: naming the flag.
  """
  allowed = {
    'synthetic_timit': _SYNTHETIC,
    'timit': ('corpus_path', 'partial_timit'),
    'manifest': ('corpus_path', *_MANIFEST),
  }[FLAGS.corpus]
  for name in (*_SYNTHETIC, *_MANIFEST, 'corpus_path', 'partial_timit'):
    if FLAGS[name].present and name not in allowed:
      raise ValueError(f'--{name} does not go with --corpus={FLAGS.corpus}')
  if FLAGS.corpus != 'synthetic_timit':
    if not FLAGS.corpus_path:
      raise ValueError(f'--corpus={FLAGS.corpus} needs --corpus_path')
    if not pathlib.Path(FLAGS.corpus_path).expanduser().exists():
      raise ValueError(f'--corpus_path: {FLAGS.corpus_path} does not exist')


def _numbers(name, kind):
  try:
    values = tuple(kind(v) for v in FLAGS[name].value)
  except ValueError:
    raise ValueError(
      f'--{name}={",".join(FLAGS[name].value)}: want numbers, comma-separated'
    ) from None
  if values and len(values) != 2:
    raise ValueError(f'--{name} takes two numbers, low,high; not {values}')
  return values or None


def prepare(progress=None):
  """Prepares the corpus that the flags name, if need be.

  Args:
    progress: called with (done, total) utterances while speech is made.

  Returns:
    A prepared TFDS builder.
  """
  check()
  data_dir = pathlib.Path(FLAGS.data_dir).expanduser()
  # TFDS and its dependencies take a second to import: not before flags parse.
  if FLAGS.corpus == 'synthetic_timit':
    from nasjax.data import synthesis, synthetic_timit

    spec = synthesis.Spec(
      num_utterances=FLAGS.synth_utterances,
      seed=FLAGS.synth_seed,
      grammar=FLAGS.synth_grammar,
      words=_numbers('synth_words', int),
      snr_db=_numbers('synth_snr_db', float),
      rt60=_numbers('synth_rt60', float),
      band_limit=FLAGS.synth_band_limit,
    )
    return synthetic_timit.prepare(
      data_dir, spec, workers=os.cpu_count() or 1, progress=progress
    )
  from nasjax.data import corpus

  path = pathlib.Path(FLAGS.corpus_path).expanduser()
  if FLAGS.corpus == 'timit':
    from nasjax.data import timit

    builder = timit.builder(
      path, data_dir=data_dir, partial=FLAGS.partial_timit
    )
  else:
    from nasjax.data import manifest

    builder = manifest.builder(
      path,
      data_dir=data_dir,
      targets=FLAGS.targets,
      allow_shared_speakers=FLAGS.allow_shared_speakers,
      drop=tuple(FLAGS.drop),
    )
  corpus.prepare(builder)
  return builder
