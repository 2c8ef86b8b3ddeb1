"""Where a network goes wrong: the worst utterances, with their alignment.

Errors are counted by jiwer (in the extra requirement `words`): substitutions,
deletions and insertions of an alignment with as few as there can be.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nasjax.decoding import transcripts


class Errors(NamedTuple):
  """Errors of words, or of whatever utterances are sequences of.

  Attributes:
    substitutions, deletions, insertions: how many.
    of: words of the reference.
  """

  substitutions: int
  deletions: int
  insertions: int
  of: int

  @property
  def total(self) -> int:
    return self.substitutions + self.deletions + self.insertions

  @property
  def rate(self) -> float:
    """Errors by words; inf where there should have been none."""
    if not self.of:
      return float('inf') if self.total else 0.0
    return self.total / self.of


class Utterance(NamedTuple):
  """What was said, what was heard, and how they differ.

  Attributes:
    index: its position.
    reference, heard: words.
    errors: `Errors`.
    alignment: (kind, words said, words heard) of each piece, `kind` being
      equal, substitute, delete or insert.
  """

  index: int
  reference: tuple[str, ...]
  heard: tuple[str, ...]
  errors: Errors
  alignment: tuple

  def text(self, width: int = 88) -> str:
    """Returns reference and transcript under each other, errors marked."""
    return transcripts.side_by_side(self.reference, self.heard, width)


def utterances(
  references: Sequence[Sequence[str]], heard: Sequence[Sequence[str]]
) -> list[Utterance]:
  """Aligns transcripts with references.

  Args:
    references: words of each utterance, without blanks in them.
    heard: the same of the transcripts.

  Raises:
    ValueError: there are not as many of one as of the other, or jiwer is not
      installed.
  """
  try:
    import jiwer
  except ImportError:
    raise ValueError(
      "counting words needs jiwer; give: pip install -e '.[words]'"
    ) from None
  if len(references) != len(heard):
    raise ValueError(
      f'{len(heard)} transcripts for {len(references)} references; there must '
      'be one for each'
    )
  if not references:
    return []
  # Words as they are: nothing is normalised here.
  as_is = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])
  found = jiwer.process_words(
    [' '.join(words) for words in references],
    [' '.join(words) for words in heard],
    as_is,
    as_is,
  )
  return [
    _utterance(i, tuple(references[i]), tuple(heard[i]), chunks)
    for i, chunks in enumerate(found.alignments)
  ]


def _utterance(index, reference, heard, chunks):
  counts = dict.fromkeys(('substitute', 'delete', 'insert', 'equal'), 0)
  alignment = []
  for chunk in chunks:
    said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    written = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
    counts[chunk.type] += max(len(said), len(written))
    alignment.append((chunk.type, said, written))
  errors = Errors(
    *(counts[kind] for kind in ('substitute', 'delete', 'insert')),
    len(reference),
  )
  return Utterance(index, reference, heard, errors, tuple(alignment))


def worst(found: Sequence[Utterance], count: int) -> list[Utterance]:
  """Returns the utterances of the highest error rates, worst first.

  Between equal rates those of more errors go first, then the earlier ones.
  """
  order = sorted(found, key=lambda u: (-u.errors.rate, -u.errors.total))
  return order[:count]


def total(found: Sequence[Utterance]) -> Errors:
  """Returns the errors of all utterances together."""
  return Errors(*(sum(column) for column in zip(*(u.errors for u in found))))
