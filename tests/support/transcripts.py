"""All transcripts there are, for sums by enumeration."""

import itertools

import numpy as np


def log_softmax(logits_tv):
  return logits_tv - np.logaddexp.reduce(logits_tv, axis=-1, keepdims=True)


def every_transcript(symbols, longest):
  """All label sequences over 1 to `symbols`, padded, with their lengths."""
  rows = [
    labels
    for count in range(longest + 1)
    for labels in itertools.product(range(1, symbols + 1), repeat=count)
  ]
  labels_bu = np.zeros((len(rows), longest), np.int32)
  for row, labels in zip(labels_bu, rows):
    row[: len(labels)] = labels
  return rows, labels_bu, np.array([len(labels) for labels in rows], np.int32)
