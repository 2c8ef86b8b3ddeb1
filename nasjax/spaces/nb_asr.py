"""The cells of NAS-Bench-ASR.

Mehrotra et al., NAS-Bench-ASR: Reproducible Neural Architecture Search for
Speech Recognition, ICLR 2021. A cell has three nodes; with t_0 its input,

  t_k = op_k(t_{k-1}) + the sum of the t_j, j < k, whose skip digit is 1,

and its output is the layer norm of t_3. There are 6^3 * 2^6 = 13,824 vectors,
[op1, s00, op2, s10, s11, op3, s20, s21, s22]. A skip digit of 1 means present,
and the d2 convolutions are dilated, as in the paper.

Two notions of sameness:

- the released hash merges vectors whose graphs agree once zero operations are
  taken out: 8,242 values, of which 8,000 belong to the vectors without zero and
  one to the empty graph. It lets skips leave from operations where the network
  lets them leave from sums, so each of the 242 values of vectors with a zero
  covers several functions. Published files are named by it.
- the semantic key is the sum t_3 written out: 8,903 values, one of them the
  cell that gives zero. Tables that must not mix functions go by it.
"""

import functools
import hashlib
from collections import Counter

from nasjax.spaces.chain import Chain

OPS = ('linear', 'conv5', 'conv5d2', 'conv7', 'conv7d2', 'zero')
ZERO = OPS.index('zero')


def _md5(text):
  return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=4096)
def _live_graph(zeros, skips):
  """What is left of a cell's graph when its zero operations are taken out.

  Vertices are the input, the operations and the output, in a chain; skip digit
  j of node k (both from 0) adds an edge from vertex j to vertex k + 2.

  Args:
    zeros: for each node, whether its operation is zero.
    skips: for each node, its skip digits.

  Returns:
    The vertices that lie on a path from the input to the output, and for each
    of them the places in that list of those before and those after it.
  """
  last = len(zeros) + 1
  dead = {k + 1 for k, zero in enumerate(zeros) if zero}
  edges = [(v, v + 1) for v in range(last)]
  for k, row in enumerate(skips):
    edges += [(j, k + 2) for j, present in enumerate(row) if present]
  edges = sorted(e for e in edges if not dead.intersection(e))

  from_input, to_output = {0}, {last}
  for a, b in edges:
    if a in from_input:
      from_input.add(b)
  for a, b in reversed(edges):
    if b in to_output:
      to_output.add(a)
  live = sorted(from_input & to_output)
  place = {v: i for i, v in enumerate(live)}
  around = tuple(
    (
      tuple(place[a] for a, b in edges if b == v and a in place),
      tuple(place[b] for a, b in edges if a == v and b in place),
    )
    for v in live
  )
  return tuple(live), around


@functools.lru_cache(maxsize=2**14)
def _graph_hash(labels, around):
  """The invariant of Ying et al. 2019 (NAS-Bench-101) of a labelled graph."""
  # Degrees were floats in the released code, and their text is hashed.
  hashes = [
    _md5(f'({float(len(after))}, {float(len(before))}, {label})')
    for label, (before, after) in zip(labels, around)
  ]
  for _ in labels:
    hashes = [
      _md5(
        '|'.join(
          (
            ''.join(sorted([hashes[v] for v in before])),
            ''.join(sorted([hashes[v] for v in after])),
            own,
          )
        )
      )
      for own, (before, after) in zip(hashes, around)
    ]
  return _md5(str(sorted(hashes)))


def released_hash(nodes):
  """The md5 by which the released files name a cell, from its nodes."""
  ops = [node[0] for node in nodes]
  zeros = tuple(op == ZERO for op in ops)
  live, around = _live_graph(zeros, tuple(node[1:] for node in nodes))
  labels = (-1, *ops, -2)
  return _graph_hash(tuple(labels[v] for v in live), around)


def _written(terms):
  """A sum of counted terms in one order: '2*x + linear(x)'."""
  return ' + '.join(
    term if count == 1 else f'{count}*{term}'
    for term, count in sorted(terms.items())
  )


@functools.lru_cache(maxsize=2**14)
def written_function(nodes):
  """The sum t_3 of a cell as a formula in its input x; '0' if nothing is left.

  Any operation on a tensor of zeros gives the clipped ReLU of its bias, at
  every frame: the term `bias`, whichever operation it is. Nodes that do not
  reach the output leave no trace; a tensor that is added twice counts twice.

  An operation is named by its kind and its argument, not by its node. Where two
  nodes apply one kind of operation to one tensor (possible only at nodes 1 and
  3, with a zero between them), their sum is written like twice one of them:
  twenty formulas, such as 2*linear(x), stand for both. With weights of their
  own such twins train as a different network; told apart they would make 8,923.
  """
  sums = [Counter(x=1)]
  for op, *skips in nodes:
    terms = Counter()
    if op != ZERO:
      argument = _written(sums[-1])
      terms[f'{OPS[op]}({argument})' if argument else 'bias'] = 1
    for tensor, present in zip(sums, skips):
      if present:
        terms.update(tensor)
    sums.append(terms)
  return _written(sums[-1]) or '0'


NB_ASR = Chain(
  name='nb_asr',
  ops=OPS,
  skips=(1, 2, 3),
  key_of=released_hash,
  semantic_key_of=written_function,
)
