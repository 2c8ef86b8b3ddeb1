"""Transcripts as people read them: text, alignments in time and with another.

On the host, of one utterance.
"""

import numpy as np
from rapidfuzz.distance import Levenshtein

from nasjax.decoding import error_rates, scripts

_MARKS = {'equal': '', 'replace': 'S', 'insert': 'I', 'delete': 'D'}


def spelt(labels, symbols):
  """Returns the text that labels spell.

  Args:
    labels: training ids (no blank).
    symbols: of the corpus; the id of a symbol is its index + 1.

  Returns:
    words with a space between them where symbols know of words
    (`error_rates.has_words`), else the symbols with a space between them.
  """
  pieces = [symbols[label - 1] for label in labels]
  border = error_rates.border(symbols)
  if border is None:
    return ' '.join(piece.replace(' ', '_') for piece in pieces)
  if border != error_rates.WORD_MARK:
    # It is a symbol of its own; inside of others it stands for itself.
    pieces = ['\0' if piece == border else piece for piece in pieces]
    border = '\0'
  return ' '.join(word for word in ''.join(pieces).split(border) if word)


def best_path(logprobs_tv, labels, blank=0):
  """Returns the most probable path of CTC's topology through given labels.

  Args:
    logprobs_tv: log probabilities of each frame.
    labels: ids, without blanks.
    blank: the symbol that stands for no label.

  Returns:
    path_t, int32: the label that each frame belongs to, or `blank`. Where the
    frames are too few for the labels, None.
  """
  logprobs_tv = np.asarray(logprobs_tv, np.float64)
  frames = len(logprobs_tv)
  # Labels with a blank before, between and behind them.
  state_n = np.full(2 * len(labels) + 1, blank)
  state_n[1::2] = labels
  # A label that differs from the one before can do without the blank.
  skips_n = np.zeros(len(state_n), bool)
  skips_n[3::2] = state_n[3::2] != state_n[1:-2:2]
  score_n = np.full(len(state_n), -np.inf)
  score_n[0] = 0.0
  # One byte: of long recordings this is what needs memory.
  back_tn = np.zeros((frames, len(state_n)), np.int8)
  for t in range(frames):
    one_n = np.concatenate([[-np.inf], score_n[:-1]])
    two_n = np.concatenate([[-np.inf, -np.inf], score_n])[: len(state_n)]
    two_n = np.where(skips_n, two_n, -np.inf)
    steps = np.stack([score_n, one_n, two_n])
    back_tn[t] = steps.argmax(0)
    score_n = steps.max(0) + logprobs_tv[t, state_n]
  n = len(state_n) - 1
  if n and score_n[n - 1] > score_n[n]:
    n -= 1
  if not score_n[n] > -np.inf:
    return None
  path_t = np.zeros(frames, np.int32)
  for t in range(frames - 1, -1, -1):
    path_t[t] = state_n[n]
    n -= back_tn[t, n]
  return path_t


def side_by_side(reference, heard, width=88):
  """Writes two sequences under each other, with as few errors as there are.

  Args:
    reference, heard: sequences of str.
    width: columns of a line.

  Returns:
    a text of blocks of three lines: what was spoken, what was heard, and S, I
    and D for substitutions, insertions and deletions.
  """
  columns = []
  for tag, i, i_end, j, j_end in Levenshtein.opcodes(reference, heard):
    for k in range(max(i_end - i, j_end - j)):
      spoken = reference[i + k] if i + k < i_end else '-'
      written = heard[j + k] if j + k < j_end else '-'
      columns.append((spoken, written, _MARKS[tag]))
  heads = ['spoken  ', 'heard   ', '        ']
  lines, rows = [], heads
  for column in columns:
    column = [*map(scripts.alone, column)]
    size = max(map(scripts.columns, column)) + 1
    if rows is not heads and scripts.columns(rows[0]) + size > width:
      lines += [*rows, '']
      rows = heads
    rows = [row + scripts.padded(s, size) for row, s in zip(rows, column)]
  return '\n'.join(row.rstrip() for row in [*lines, *rows])
