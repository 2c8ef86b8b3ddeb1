"""Sub-words: what sentencepiece learns from the transcripts of training.

Kudo and Richardson 2018, "SentencePiece: A simple and language independent
subword tokenizer and detokenizer for Neural Text Processing"; unigram models
are those of Kudo 2018, "Subword Regularization", byte pairs those of Sennrich
et al. 2016. NAS-Bench-ASR takes 780 for LibriSpeech. The same texts in the same
order give the same model, byte for byte.

A model is the bytes of sentencepiece's own file; `sentencepiece` is in the
extra requirement `words`.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence

KINDS = ('unigram', 'bpe')
PIECES = 780
# As `decoding.error_rates.WORD_MARK`: begins the piece that begins a word.
MARK = '\u2581'
# Of the words of other splits, what training never said.
UNKNOWN = MARK + '<unk>'


def _library():
  try:
    import sentencepiece
  except ImportError:
    raise ValueError(
      "sub-words need sentencepiece; give: pip install -e '.[words]'"
    ) from None
  return sentencepiece


class VocabularyError(ValueError):
  """The transcripts give fewer pieces, or have more characters, than asked."""


def train(
  texts: Iterable[str], pieces: int = PIECES, kind: str = 'unigram'
) -> bytes:
  """Returns the model of so many pieces, beside the one of what is unknown.

  Args:
    texts: transcripts, words with spaces between.
    pieces: how many.
    kind: 'unigram' or 'bpe'.

  Raises:
    VocabularyError: the texts do not give so many pieces, or have more
      characters than that; tells the most, or the least.
    ValueError: no such kind, no text, or sentencepiece is not installed.
  """
  library, texts = _library(), [text for text in texts if text.strip()]
  if kind not in KINDS:
    raise ValueError(f'model {kind!r}: want one of {", ".join(KINDS)}')
  if not texts:
    raise ValueError('no transcript to learn sub-words from')
  written = io.BytesIO()
  try:
    library.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=written,
      vocab_size=pieces + 1,
      model_type=kind,
      character_coverage=1.0,
      # Texts are as `text.normalised` has them, or as somebody wants them.
      normalization_rule_name='identity',
      unk_id=0,
      bos_id=-1,
      eos_id=-1,
      pad_id=-1,
      # Sums of several threads round in another order each time.
      num_threads=1,
      shuffle_input_sentence=False,
      # Longer ones would be left out.
      max_sentence_length=max(4192, *(4 * len(text) + 8 for text in texts)),
      minloglevel=3,
    )
  except RuntimeError as e:
    raise _worded(str(e), pieces, kind, len(texts)) from None
  return written.getvalue()


def _worded(told: str, pieces: int, kind: str, texts: int) -> ValueError:
  """Returns what sentencepiece's error says of the number of pieces."""
  most = re.search(r'value <= (\d+)', told)
  least = re.search(r'required_chars\. \d+ vs (\d+)', told)
  given = f'{texts} training transcripts'
  if most:
    return VocabularyError(
      f'{given} give at most {int(most[1]) - 1} {kind} pieces, not {pieces}'
    )
  if least:
    return VocabularyError(
      f'{given} have characters for at least {int(least[1]) - 1} {kind} '
      f'pieces, more than {pieces}'
    )
  return ValueError(f'sentencepiece: {" ".join(told.split())}')


def processor(model: bytes):
  """Returns sentencepiece's own object for a model.

  Raises:
    ValueError: the bytes are no model.
  """
  library = _library()
  try:
    return library.SentencePieceProcessor(model_proto=model)
  except RuntimeError:
    raise ValueError(
      f'{len(model)} bytes are no model of sentencepiece'
    ) from None


def symbols(model: bytes) -> tuple[str, ...]:
  """Returns the pieces, sorted: an alphabet without what is unknown."""
  found = processor(model)
  return tuple(
    sorted(
      found.id_to_piece(i)
      for i in range(found.get_piece_size())
      if not (found.is_unknown(i) or found.is_control(i))
    )
  )


def cut(model: bytes, texts: Sequence[str]) -> list[tuple[str, ...]]:
  """Cuts texts into pieces; a character that the model lacks stays alone."""
  found = processor(model).encode(list(texts), out_type=str)
  return [tuple(pieces) for pieces in found]


def joined(pieces: Iterable[str]) -> str:
  """Returns the words that pieces, or words with the mark, spell."""
  return ' '.join(''.join(pieces).replace(MARK, ' ').split())


def digest(model: bytes) -> str:
  """Returns the SHA-256 of a model."""
  return hashlib.sha256(model).hexdigest()
