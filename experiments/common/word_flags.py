"""The flags of a search for words, shared by the launchers that decode."""

from typing import NamedTuple

from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'decoder',
  None,
  ['greedy', 'beam', 'words'],
  'greedy and beam: on the device, without words. words: a search for words, '
  'which is taken where --lm or --lexicon is given. As in the training else.',
)
flags.DEFINE_integer(
  'beam_width', None, 'Prefixes that a beam keeps; 16 of words if not given.',
  lower_bound=1,
)  # fmt: skip
flags.DEFINE_enum(
  'engine',
  'own',
  ['own', 'flashlight'],
  "How words are searched for: nasjax' own search, or the lexicon decoder of "
  "flashlight-text (pip install -e '.[lexicon]').",
)
flags.DEFINE_string(
  'lm', None, 'A word n-gram: ARPA (also .gz), or a binary file of KenLM.'
)
flags.DEFINE_float('lm_weight', 0.5, 'Weight of its log probability.')
flags.DEFINE_float('word_bonus', 0.0, 'Added for each word, in nats.')
flags.DEFINE_string(
  'lexicon',
  None,
  'The words that may be heard, one a line, perhaps with the symbols that '
  'spell them; `lm` takes those of --lm. Any word if not given.',
)
flags.DEFINE_bool(
  'rescore',
  False,
  'Search without the language model, and rank the best by it.',
)
flags.DEFINE_integer(
  'n_best', 50, 'Transcripts that --rescore ranks.', lower_bound=1
)


def check():
  """Refuses flags that contradict; takes the decoder that they ask for.

  Raises:
    ValueError: naming the flag.
  """
  if FLAGS.decoder is None and (FLAGS.lm or FLAGS.lexicon):
    FLAGS.decoder = 'words'
  for name in ('lm_weight', 'word_bonus', 'rescore'):
    if FLAGS[name].present and not FLAGS.lm:
      raise ValueError(f'--{name} is for a language model; give --lm')
  words = FLAGS.decoder == 'words'
  for name in ('lm', 'lexicon'):
    if FLAGS[name].value and not words:
      raise ValueError(f'--{name} does not go with --decoder={FLAGS.decoder}')
  if FLAGS['n_best'].present and not FLAGS.rescore:
    raise ValueError('--n_best is for --rescore; give it')
  if FLAGS.engine == 'flashlight' and not (words and FLAGS.lexicon):
    raise ValueError('--engine=flashlight needs --lexicon')
  if FLAGS.lexicon == 'lm' and not FLAGS.lm:
    raise ValueError('--lexicon=lm takes the words of --lm; give it')


class Engine(NamedTuple):
  """How words are searched for.

  Attributes:
    search: as `words.Search`.
    fusion: `words.Fusion` that ranks what was found without it, or None.
    lm: the language model, or None.
    lexicon: `words.Lexicon`, or None.
    label: all of it, for people.
  """

  search: object
  fusion: object
  lm: object
  lexicon: object
  label: str

  def best(self, logprobs_tv, count=1):
    """Returns at most so many `words.Hypothesis`, the best first.

    Raises:
      ValueError: the network tells no log probabilities of its frames.
    """
    if logprobs_tv is None:
      raise ValueError(
        'the loss of this network tells no probabilities of its frames, in '
        'which words could be searched for; leave --lm and --lexicon'
      )
    if self.fusion is None:
      return self.search(logprobs_tv, count)
    from nasjax.decoding import words

    found = self.search(logprobs_tv, max(count, FLAGS.n_best))
    return words.rescored(found, self.fusion)[:count]


def engine(network):
  """Returns the Engine that the flags describe; None where they name none.

  Args:
    network: `listening.TrainedNetwork`.

  Raises:
    ValueError: what a file lacks, or is.
  """
  if FLAGS.decoder != 'words':
    return None
  from nasjax.decoding import arpa, error_rates, words

  symbols, label = network.symbols, f'{FLAGS.engine} search for words'
  worded = error_rates.has_words(symbols)
  lm = lexicon = None
  if FLAGS.lm:
    lm = arpa.read(FLAGS.lm)
    if lm.words is not None and worded:
      words.check_alphabet(lm.words, symbols, FLAGS.lm)
    label += f', {lm.order}-grams of {FLAGS.lm} (weight {FLAGS.lm_weight:g}'
    label += f', bonus {FLAGS.word_bonus:g})'
  if FLAGS.lexicon == 'lm':
    if lm.words is None:
      raise ValueError(
        f'--lexicon=lm: {FLAGS.lm} does not tell its words; give them as a file'
      )
    lexicon = words.lexicon_of(lm.words, FLAGS.lm)
  elif FLAGS.lexicon:
    lexicon = words.read_lexicon(FLAGS.lexicon, symbols)
    if worded:
      words.check_alphabet(lexicon.spellings, symbols, FLAGS.lexicon)
  if lexicon is not None:
    label += f', {len(lexicon.spellings)} words'
    if lm is not None and not any(word in lm for word in lexicon.spellings):
      raise ValueError(
        f'--lm={FLAGS.lm}: another alphabet: it has none of the '
        f'{len(lexicon.spellings)} words of the lexicon, as '
        f'{min(lexicon.spellings)!r}; take one of these words'
      )
  fusion = words.Fusion(lm, FLAGS.lm_weight, FLAGS.word_bonus)
  later = fusion if FLAGS.rescore else None
  if later:
    label += f', the best {FLAGS.n_best} ranked'
  width = FLAGS.beam_width or 16
  now = None if FLAGS.rescore or lm is None else fusion
  if FLAGS.engine == 'own':
    search = words.Search(symbols, now, lexicon, width)
  else:
    cut, model = None, network.pieces
    if model is not None:
      from nasjax.data import word_pieces

      def cut(texts):
        return word_pieces.cut(model, texts)

    spelt = words.spellings(lexicon, symbols, cut)
    search = words.Flashlight(symbols, spelt, now, width)
    lexicon = search.lexicon
  return Engine(search, later, lm, lexicon, f'{label}, width {width}')
