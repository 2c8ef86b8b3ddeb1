"""Outputs to labels, and labels to error rates."""

from nasjax.decoding.ctc import beam_search as beam_search
from nasjax.decoding.ctc import greedy as greedy
