"""Makes a small word n-gram, as an ARPA file that decode.py and KenLM read.

  python experiments/language_model.py --run=results/librispeech \\
    --order=3 --lm=words.arpa

From the training transcripts of a run, or with --text from a file of sentences,
one a line, which are brought into the form of nasjax/data/text.py. Interpolated
Witten-Bell; says the perplexity on the run's validation split.
"""

import pathlib

from absl import flags
from common import command, run_corpus

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'run', None, 'The run whose training transcripts are learnt from.'
)
flags.DEFINE_string('text', None, 'A file of sentences, one a line.')
flags.DEFINE_enum(
  'text_case',
  'upper',
  ['upper', 'lower', 'keep'],
  'Case of the words of --text.',
)
flags.DEFINE_enum(
  'digits',
  'refuse',
  ['refuse', 'spell'],
  'What becomes of digits in --text; spell is English.',
)
flags.DEFINE_integer('order', 3, 'n.', lower_bound=1, upper_bound=9)
flags.DEFINE_string('lm', None, 'The ARPA file that is written.')
flags.DEFINE_string('json', None, 'Where what is printed goes.')


def _sentences():
  """Returns words of each line of --text.

  Raises:
    ValueError: all lines that the rule refuses, in one message.
  """
  from nasjax.data import text

  path, found, faults = pathlib.Path(FLAGS.text), [], []
  try:
    lines = path.read_text('utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as e:
    reason = getattr(e, 'strerror', None) or 'it is no text in UTF-8'
    raise ValueError(f'--text={path}: {reason}') from None
  for number, line in enumerate(lines, start=1):
    try:
      words = text.normalised(line, FLAGS.text_case, FLAGS.digits).split()
    except text.TextError as e:
      faults.append(f'{path}:{number}: {e}')
      continue
    if words:
      found.append(words)
  if faults:
    raise ValueError(
      f'{faults[0]} ({len(faults)} such lines in all); write it as it is '
      'spoken, or give --digits=spell'
    )
  return found


def _of(builder, split):
  from nasjax.data import corpus

  texts = (u.text.split() for u in corpus.utterances(builder, split))
  return [words for words in texts if words]


def run():
  """Reads the sentences, counts, and writes."""
  if not FLAGS.lm:
    raise ValueError('--lm is empty; name the file that is to be written')
  if bool(FLAGS.run) == bool(FLAGS.text):
    raise ValueError('give either --run or --text')
  for name in ('text_case', 'digits'):
    if FLAGS[name].present and not FLAGS.text:
      raise ValueError(f'--{name} is for --text')
  from nasjax.decoding import arpa, words
  from nasjax.storage import disk

  held_out = []
  if FLAGS.run:
    builder = run_corpus.builder(FLAGS.run)
    sentences, held_out = (_of(builder, s) for s in ('train', 'validation'))
  else:
    sentences = _sentences()
  if not sentences:
    raise ValueError(f'{FLAGS.run or FLAGS.text} has no words to learn from')
  lm = arpa.estimate(sentences, FLAGS.order)
  disk.publish(pathlib.Path(FLAGS.lm), arpa.write(lm))
  counts = [sum(len(g) == n for g in lm.grams) for n in range(1, lm.order + 1)]
  record = {
    'lm': FLAGS.lm,
    'order': lm.order,
    'sentences': len(sentences),
    'words': len(lm.words),
    'ngrams': counts,
    'perplexity': arpa.perplexity(lm, sentences),
    'validation_perplexity': None,
    'lacking': None,
  }
  print(
    f'{FLAGS.lm}: {len(sentences)} sentences, {len(lm.words)} words; n-grams: '
    f'{", ".join(map(str, counts))}; perplexity {record["perplexity"]:.1f}'
  )
  if held_out:
    record['validation_perplexity'] = arpa.perplexity(lm, held_out)
    record['lacking'] = words.lacking(held_out, lm)
    print(
      f'validation: perplexity {record["validation_perplexity"]:.1f}, '
      f'{record["lacking"]["words"]} of {record["lacking"]["of"]} words unknown'
    )
  if FLAGS.json:
    command.publish_json(FLAGS.json, record)


if __name__ == '__main__':
  command.run(run)
