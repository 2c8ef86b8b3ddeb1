"""What trained networks hear in several languages, greedy and rescored."""

import json
import pathlib

import jax
import numpy as np

from nasjax import decoding
from nasjax.decoding import characters, error_rates
from nasjax.models import families
from nasjax.oneshot import estimators
from nasjax.programs import keeping
from nasjax.storage import disk
from nasjax.training import batches

# Utterances of a language on which weight and bonus are chosen, at most.
_FITTED = 200


@keeping.kept(64)
def _program(network):
  def heard(params, gates, data, index_b, bucket):
    batch = batches.gather(data, index_b, bucket)
    logits_btv, len_b = families.form(network).apply(
      params, batch.x_btf, batch.len_b, gates, None, batch.language_b
    )
    labels = decoding.greedy(logits_btv, len_b)
    return jax.nn.log_softmax(logits_btv), len_b, *labels

  return jax.jit(heard, static_argnames='bucket')


def utterances(searcher, state, split):
  """Yields of each utterance its number, logprobs_tv and greedy labels.

  Args:
    searcher: `SupernetTrainer`.
    state: `steps.State`; its mixture is the network that hears.
    split: 'validation' or 'test'.
  """
  prepared, recipe = searcher.prepared, searcher.search.weights.recipe
  network = searcher.supernet.network(recipe, 'mixed')
  gates = searcher.supernet.gates(
    tuple(estimators.softmax(None, alpha_k, 1.0) for alpha_k in state.alpha_e)
  )
  plan, program = prepared.eval_plans[split], _program(network)
  for s in range(prepared.eval_steps[split]):
    bucket = prepared.buckets[plan.bucket_s[s]]
    index_b = plan.index_skb[s, 0, : bucket.batch]
    logprobs_btv, len_b, labels_bl, length_b = map(
      np.asarray,
      program(
        state.params, gates, prepared.evaluation[split], index_b, bucket=bucket
      ),
    )
    for b in np.flatnonzero(index_b >= 0):
      yield (
        int(index_b[b]),
        logprobs_btv[b, : len_b[b]],
        labels_bl[b, : length_b[b]],
      )


def judge(searcher, state, corpus):
  """Returns error rates on test, by language.

  Args:
    searcher, state: as of `utterances`.
    corpus: `data.joined` corpus that the search was on.

  Returns:
    {code: {'greedy', 'rescored': character error rates; 'characters',
    'utterances': of test; 'weight', 'bonus': of the n-gram; 'example': a text
    spoken and what was heard, greedy and rescored}}.
  """
  found = {}
  # None but `_FITTED` of validation are ranked: a beam on the host takes long.
  told = {name: _by_language(searcher, state, corpus, name)
          for name in ('validation', 'test')}  # fmt: skip
  for number, (code, symbols) in enumerate(corpus.alphabets.items()):
    lists, refs = _ranked(told['validation'][number][:_FITTED], symbols)
    own = [
      labels
      for labels, k in zip(corpus.train.labels, corpus.train.language_u)
      if k == number
    ]
    fitted = characters.fit(
      lists, refs, characters.language_model(own, symbols)
    )
    lists, refs = _ranked(told['test'][number], symbols)
    greedy = [labels for _, _, labels in told['test'][number]]
    rescored = characters.ranked(lists, fitted.fusion)
    edits_n = error_rates.edits(rescored, refs)
    worst = int(np.argmax(edits_n))
    found[code] = {
      'greedy': characters.rate(greedy, refs),
      'rescored': characters.rate(rescored, refs),
      'characters': int(sum(map(len, refs))),
      'utterances': len(refs),
      'weight': fitted.fusion.weight,
      'bonus': fitted.fusion.bonus,
      'example': [
        spelt(labels, symbols)
        for labels in (refs[worst], greedy[worst], rescored[worst])
      ],
    }
  return found


def _by_language(searcher, state, corpus, name):
  """Returns (reference, logprobs_tv, greedy labels) by number of language."""
  split = getattr(corpus, name)
  found = [[] for _ in corpus.alphabets]
  for u, logprobs_tv, labels in utterances(searcher, state, name):
    number = split.language_u[u]
    found[number].append((split.labels[u], logprobs_tv, labels))
  return found


def _ranked(told, symbols):
  lists = [
    characters.n_best(logprobs_tv[:, : 1 + len(symbols)], symbols)
    for _, logprobs_tv, _ in told
  ]
  return lists, [reference for reference, _, _ in told]


def spelt(labels, symbols):
  """Returns the text of labels: characters as they follow, phones by blanks."""
  pieces = [symbols[label - 1] for label in labels]
  return ('' if all(len(s) == 1 for s in symbols) else ' ').join(pieces)


def kept(out, name, make):
  """Returns what stands in OUT/heard/NAME.json; makes it if it is not there."""
  path = pathlib.Path(out) / 'heard' / f'{name}.json'
  if path.exists():
    try:
      return json.loads(path.read_text())
    except ValueError as e:
      line = getattr(e, 'lineno', '?')
      raise ValueError(
        f'{path}, line {line}: no JSON; remove the file and give the same '
        'command again'
      ) from None
  disk.make_directory(path.parent)
  found = make()
  disk.publish(path, json.dumps(found, ensure_ascii=False, indent=1).encode())
  return json.loads(json.dumps(found))
