"""Exported files held against the network that they are of, on utterances."""

from typing import NamedTuple


class Said(NamedTuple):
  """int16 samples, the labels that are said there, and by whom, or None."""

  samples_n: object
  labels: object
  speaker: str | None


def utterances(builder, split, count):
  """Returns the `Said` of a split, the first `count` of them."""
  from nasjax.data import corpus

  found = corpus.utterances(builder, split)
  if count is not None:
    found = (u for u, _ in zip(found, range(count)))
  return [Said(u.samples_n, u.labels, u.speaker or None) for u in found]


def features(network, said):
  return network.frontend.features(
    [u.samples_n for u in said], [u.speaker for u in said]
  )


def joined(said, seconds, symbols):
  """Returns clips of at least so many seconds; what is left over goes.

  Between two utterances stands the border of words, where there is one.
  """
  import numpy as np

  from nasjax.data import features as features_lib
  from nasjax.decoding import error_rates

  between = np.zeros(0, np.int32)
  border = error_rates.border(symbols)
  if border in symbols:
    between = np.array([symbols.index(border) + 1], np.int32)
  clips, samples, labels = [], [], []
  for u in said:
    samples.append(u.samples_n)
    labels += [between, u.labels] if labels else [u.labels]
    if sum(map(len, samples)) >= seconds * features_lib.SAMPLE_RATE:
      clip = Said(np.concatenate(samples), np.concatenate(labels), None)
      clips.append(clip)
      samples, labels = [], []
  return clips


def rates(networks, said, hears=None):
  """Returns the error rate of each network on utterances, a dict.

  All of them hear the features of one, `hears`; of the first if not given.
  """
  from common import console

  from nasjax.decoding import error_rates

  refs = [u.labels for u in said]
  xs = features(hears or next(iter(networks.values())), said)
  found = {}
  for name, network in networks.items():
    heard = []
    with console.counter(f'decoding, {name}') as tick:
      for first in range(0, len(xs), 32):
        part = xs[first : first + 32]
        heard += network.hear(part, frames=max(map(len, xs)))
        tick(len(heard), len(xs))
    labels = [one.labels for one in heard]
    edits_k, of = error_rates.edits_by_kind(labels, refs, network.units.fold_v)
    found[name] = {
      'rate': float(edits_k.sum() / of),
      'errors': int(edits_k.sum()),
      'of': int(of),
    }
  return found


def apart(network, exported, said):
  """Says how far the logits of files are from the network's, a dict each."""
  import jax
  import numpy as np

  xs = features(network, said)
  len_b = np.array([len(x_tf) for x_tf in xs], np.int32)
  x_btf = np.zeros((len(xs), len_b.max(), xs[0].shape[1]), np.float32)
  for x_tf, into_tf in zip(xs, x_btf):
    into_tf[: len(x_tf)] = x_tf
  ours_btv, len_b_out = jax.jit(network.module.apply)(
    {'params': network.params}, x_btf, len_b, network.gates
  )
  ours_btv = np.asarray(ours_btv)
  valid_bt = np.arange(ours_btv.shape[1]) < np.asarray(len_b_out)[:, None]
  found = {}
  for name, one in exported.items():
    theirs_btv, _ = one.logits(x_btf, len_b)
    found[name] = {
      'most': float(np.abs(ours_btv - theirs_btv)[valid_bt].max()),
      'largest_logit': float(np.abs(ours_btv)[valid_bt].max()),
      'utterances': len(xs),
    }
  return found
