"""Error rates of label sequences, over a whole corpus.

The phoneme error rate (PER) of NAS-Bench-ASR is the sum of Levenshtein
distances over the sum of reference lengths, after both sides are folded to the
scoring classes (48 phonemes to 39 for TIMIT). Everything here runs on the host.

The word error rate (WER) of transcripts in characters, or in sub-words that
mark where words begin, is the same of words.

A corpus is a list of one-dimensional integer sequences, one an utterance;
`unpad` makes one of a decoder's padded array.
"""

import numpy as np
from rapidfuzz.distance import Levenshtein

# Sequences are compared as strings, one code point a label: 2.5 times as fast
# as lists of integers. Scoring 12,000 pairs of 20 to 40 labels takes 0.03 s on
# one core of an AMD EPYC (arrays; lists of integers 0.07 s).
_LARGEST_LABEL = 0x10FFFF
# With this begins the sub-word that begins a word.
WORD_MARK = '\u2581'
# Stands between words where units are letters or phones without spaces.
WORD_BAR = '|'


def unpad(labels_nu, len_n):
  """Cuts each row of a padded array to its length.

  Args:
    labels_nu: integers; what stands beyond a row's length is dropped.
    len_n: labels of each row.

  Returns:
    A list of N arrays.

  Raises:
    ValueError: if shapes disagree, or a length is outside 0 to U.
  """
  labels_nu, len_n = np.asarray(labels_nu), np.asarray(len_n)
  _check_padded(labels_nu, len_n, 2)
  return [row[:count] for row, count in zip(labels_nu, len_n.tolist())]


def fold(labels, fold_v):
  """Maps labels to scoring classes.

  Args:
    labels: one sequence of integers.
    fold_v: the class of each label; labels of class 0 or below are deleted.

  Returns:
    An int64 array. Equal neighbours that the mapping makes stay two.

  Raises:
    ValueError: if a label has no class in `fold_v`.
  """
  classes, keep = _classes(_as_labels(labels), fold_v)
  return classes[keep]


def edits(hyps, refs):
  """Levenshtein distance of each pair: substitutions, insertions, deletions.

  Args:
    hyps: N integer sequences.
    refs: N integer sequences.

  Returns:
    edits_n, int64.

  Raises:
    ValueError: if there are not as many of one as of the other, or a label is
      negative.
  """
  _check_pairs(len(hyps), len(refs))
  return _distances(_texts(*_flatten(hyps)), _texts(*_flatten(refs)))


def per(hyps, refs, fold_v=None):
  """Error rate of a corpus: all edits over all reference labels.

  Args:
    hyps: N integer sequences.
    refs: N integer sequences.
    fold_v: see `fold`; None scores the labels as they are.

  Returns:
    A float; 0.25 means 25 %, and insertions can bring it above 1.

  Raises:
    ValueError: as `edits` and `fold`, and if the references hold no label.
  """
  _check_pairs(len(hyps), len(refs))
  refs, count_n = _folded(*_flatten(refs), fold_v)
  total = _total_length(count_n)
  hyps = _texts(*_folded(*_flatten(hyps), fold_v))
  return float(_distances(hyps, _texts(refs, count_n)).sum() / total)


def population_per(labels_pnu, len_pn, refs, fold_v=None):
  """Error rate of each member of a population on one corpus.

  Args:
    labels_pnu: each member's transcript of each utterance, padded.
    len_pn: their lengths; what stands beyond is dropped.
    refs: N integer sequences.
    fold_v: see `fold`; None scores the labels as they are.

  Returns:
    per_p, float64.

  Raises:
    ValueError: as `per` and `unpad`.
  """
  labels_pnu, len_pn = np.asarray(labels_pnu), np.asarray(len_pn)
  _check_padded(labels_pnu, len_pn, 3)
  members, utterances, width = labels_pnu.shape
  _check_pairs(utterances, len(refs))
  refs, count_n = _folded(*_flatten(refs), fold_v)
  total = _total_length(count_n)
  labels = _as_labels(labels_pnu[np.arange(width) < len_pn[:, :, None]])
  hyps = _texts(*_folded(labels, len_pn.ravel(), fold_v))
  edits_m = _distances(hyps, _texts(refs, count_n) * members)
  return edits_m.reshape(members, utterances).sum(axis=1) / total


def population_edits(labels_pnu, len_pn, refs, fold_v=None):
  """Counts the errors of each member of a population by kind.

  Args:
    labels_pnu, len_pn, refs, fold_v: see `population_per`.

  Returns:
    edits_pk, int64: substitutions, deletions and insertions of an alignment
    with the fewest errors (their sum is what `population_per` divides); and the
    number of reference labels.

  Raises:
    ValueError: as `population_per`.
  """
  labels_pnu, len_pn = np.asarray(labels_pnu), np.asarray(len_pn)
  _check_padded(labels_pnu, len_pn, 3)
  _check_pairs(labels_pnu.shape[1], len(refs))
  refs, count_n = _folded(*_flatten(refs), fold_v)
  total = _total_length(count_n)
  refs = _texts(refs, count_n)
  edits_pk = np.zeros((len(labels_pnu), len(_KINDS)), np.int64)
  for labels_nu, len_n, edits_k in zip(labels_pnu, len_pn, edits_pk):
    hyps = _texts(*_folded(*_flatten(unpad(labels_nu, len_n)), fold_v))
    edits_k[:] = _by_kind(hyps, refs)
  return edits_pk, total


def edits_by_kind(hyps, refs, fold_v=None):
  """Counts the errors of one corpus by kind.

  Args:
    hyps, refs, fold_v: see `per`.

  Returns:
    edits_k and the number of reference labels, as `population_edits` has them.

  Raises:
    ValueError: as `per`.
  """
  _check_pairs(len(hyps), len(refs))
  refs, count_n = _folded(*_flatten(refs), fold_v)
  total = _total_length(count_n)
  hyps = _texts(*_folded(*_flatten(hyps), fold_v))
  return _by_kind(hyps, _texts(refs, count_n)), total


def _by_kind(hyps, refs):
  edits_k = np.zeros(len(_KINDS), np.int64)
  for hyp, ref in zip(hyps, refs):
    # From what was said to what was recognised: so insertions are what the
    # network has added.
    for edit in Levenshtein.editops(ref, hyp):
      edits_k[_KINDS[edit.tag]] += 1
  return edits_k


_KINDS = {'replace': 0, 'delete': 1, 'insert': 2}

# What the error rate is called, by what the transcripts are made of.
METRICS = {
  'phones': 'PER',
  'characters': 'CER',
  'sub-words': 'LER',
  'words': 'WER',
}


def wer(hyps, refs, symbols):
  """Word error rate of transcripts: word edits over words.

  Args:
    hyps, refs, symbols: see `words`.

  Returns:
    A float; 0.25 means 25 %, and insertions can bring it above 1.

  Raises:
    ValueError: as `words`.
  """
  return per(*words(hyps, refs, symbols))


def has_words(symbols):
  """Whether transcripts of these symbols say where words begin and end."""
  return border(symbols) is not None


def border(symbols):
  """Returns what tells words apart: ' ', WORD_MARK or '|'; None if nothing."""
  if ' ' in symbols:
    return ' '
  if any(symbol.startswith(WORD_MARK) for symbol in symbols):
    return WORD_MARK
  return WORD_BAR if WORD_BAR in symbols else None


def words(hyps, refs, symbols):
  """Numbers the words that transcripts spell.

  Words are what stands between spaces; spaces themselves are not scored. Where
  no symbol is a space, they begin with the sub-words that `WORD_MARK` begins:
  how a word is cut into sub-words does not matter. Where there is none of these
  either, `WORD_BAR` stands between them.

  Args:
    hyps: N sequences of training ids (no blank).
    refs: N sequences of training ids.
    symbols: of the corpus; the id of a symbol is its index + 1, as in
      `data.corpus.Corpus`. One must be ' ', as where a manifest was read with
      targets='characters', or some begin with `WORD_MARK`, or one is
      `WORD_BAR`.

  Returns:
    The same as sequences of words, each word having one number in both.

  Raises:
    ValueError: if symbols know of no words, an id has no symbol, there are not
      as many hypotheses as references, or the references hold no word.
  """
  symbols = list(symbols)
  if symbols.count(' ') != 1 and (' ' in symbols or not has_words(symbols)):
    raise ValueError(
      f'{symbols.count(" ")} of {len(symbols)} symbols are spaces, which stand '
      "between words; want one, as corpora with targets='characters' have it"
    )
  _check_pairs(len(hyps), len(refs))
  numbers = {}
  hyps, refs = (_words(corpus, symbols, numbers) for corpus in (hyps, refs))
  if not any(map(len, refs)):
    raise ValueError('the references hold no word, so there is no error rate')
  return hyps, refs


def _words(sequences, symbols, numbers):
  """Numbers the words of each sequence; new ones are added to `numbers`."""
  labels, count_n = _flatten(sequences)
  if labels.size and not 1 <= labels.min() <= labels.max() <= len(symbols):
    raise ValueError(
      f'labels run from {labels.min()} to {labels.max()}; {len(symbols)} '
      f'symbols have the ids 1 to {len(symbols)}, and 0, the blank, is none'
    )
  between = border(symbols)
  if between != WORD_MARK:
    between, texts = chr(1 + symbols.index(between)), _texts(labels, count_n)
  else:
    pieces = np.split(labels, np.cumsum(count_n)[:-1]) if len(count_n) else []
    texts = [''.join(symbols[i - 1] for i in piece) for piece in pieces]
  return [
    np.array(
      [
        numbers.setdefault(word, len(numbers))
        for word in text.split(between)
        if word  # where several spaces follow one another
      ],
      np.int64,
    )
    for text in texts
  ]


def _check_pairs(hyp_count, ref_count):
  if hyp_count != ref_count:
    raise ValueError(
      f'{hyp_count} hypotheses for {ref_count} references; there must be one '
      'for each, empty where nothing was recognised'
    )


def _check_padded(labels, lens, ndim):
  if labels.ndim != ndim or lens.shape != labels.shape[:-1]:
    raise ValueError(
      f'shapes of labels and lengths are {labels.shape} and {lens.shape}; they '
      f'must have {ndim} and {ndim - 1} axes, and agree but for the last'
    )
  if lens.size and lens.dtype.kind not in 'iu':
    raise ValueError(f'lengths are {lens.dtype}; they must be integers')
  if lens.size and not 0 <= lens.min() <= lens.max() <= labels.shape[-1]:
    raise ValueError(
      f'lengths run from {lens.min()} to {lens.max()}; rows hold '
      f'{labels.shape[-1]} labels'
    )


def _as_labels(labels):
  labels = np.asarray(labels)
  if labels.ndim != 1:
    raise ValueError(
      f'labels have shape {labels.shape}; an utterance is one sequence of '
      'integers'
    )
  if labels.size and labels.dtype.kind not in 'iu':
    raise ValueError(f'labels are {labels.dtype}; they must be integers')
  return labels.astype(np.int64)


def _classes(labels, fold_v):
  """The class of each label, and which of them are to be kept."""
  fold_v = np.asarray(fold_v)
  if labels.size and not 0 <= labels.min() <= labels.max() < fold_v.size:
    raise ValueError(
      f'labels run from {labels.min()} to {labels.max()}; the folding has '
      f'classes for 0 to {fold_v.size - 1}'
    )
  classes = fold_v[labels].astype(np.int64)
  return classes, classes > 0


def _flatten(sequences):
  """One array of all labels, and the length of each sequence."""
  arrays = [_as_labels(labels) for labels in sequences]
  count_n = np.array([array.size for array in arrays], np.int64)
  return np.concatenate([np.zeros(0, np.int64), *arrays]), count_n


def _folded(labels, count_n, fold_v):
  """`_flatten`'s result after folding; as it was without a folding."""
  if fold_v is None:
    return labels, count_n
  classes, keep = _classes(labels, fold_v)
  kept_before_i = np.concatenate([[0], np.cumsum(keep)])
  end_n = np.cumsum(count_n)
  return classes[keep], kept_before_i[end_n] - kept_before_i[end_n - count_n]


def _texts(labels, count_n):
  if labels.size and not 0 <= labels.min() <= labels.max() <= _LARGEST_LABEL:
    raise ValueError(
      f'labels run from {labels.min()} to {labels.max()}; they must be from 0 '
      f'to {_LARGEST_LABEL}'
    )
  text = labels.astype('<u4').tobytes().decode('utf-32-le', 'surrogatepass')
  end_n = np.cumsum(count_n)
  bounds = zip((end_n - count_n).tolist(), end_n.tolist())
  return [text[start:end] for start, end in bounds]


def _distances(hyps, refs):
  return np.fromiter(map(Levenshtein.distance, hyps, refs), np.int64, len(refs))


def _total_length(count_n):
  total = int(count_n.sum())
  if total == 0:
    raise ValueError(
      'the references hold no label, so there is no error rate; check the '
      'transcripts and what the folding deletes'
    )
  return total
