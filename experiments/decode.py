"""Decodes a split of a run's corpus to words, and says how well and how fast.

  python experiments/decode.py --run=results/librispeech --lm=words.arpa \\
    --lexicon=words.txt --worst=20 --json=results/decoded.json

Prints error rates of labels and of words with substitutions, deletions and
insertions, the real-time factor, and with --worst the worst utterances with
their alignment. The network is that of the lowest validation error if no --cell
is named. A language model (language_model.py makes small ones) or a lexicon
makes it search for words; else it decodes as transcribe.py does.
"""

import time
from typing import NamedTuple

from absl import flags
from common import command, device_flags, run_corpus, word_flags

FLAGS = flags.FLAGS

flags.DEFINE_string('run', None, 'The run: what --out of its command named.')
flags.DEFINE_string('cell', None, 'Its cell; see transcribe.py --list.')
flags.DEFINE_integer('seed', None, 'Seed of its training.')
flags.DEFINE_string('recipe', None, 'Name of its recipe.')
flags.DEFINE_enum(
  'split', 'test', ['train', 'validation', 'test'], 'What is decoded.'
)
flags.DEFINE_integer(
  'utterances', None, 'Only so many, the first; all if not given.',
  lower_bound=1,
)  # fmt: skip
flags.DEFINE_integer(
  'worst', 0, 'Show so many of the worst utterances.', lower_bound=0
)
flags.DEFINE_string('json', None, 'Where all of it goes.')
flags.declare_key_flag('compilation_cache')
flags.adopt_module_key_flags(word_flags)
_TOGETHER = 32


def _check():
  """Refuses flags that contradict."""
  if not FLAGS.run:
    raise ValueError('--run is empty; name the directory of a run')
  word_flags.check()


class Decoded(NamedTuple):
  """A split as it was heard.

  Attributes:
    utterances: `data.corpus.Utterance`s, without their samples.
    labels: ids that were heard, of each.
    words: words that were heard, of each; None where there are none.
    audio, network, search: seconds of speech; of features, network and the
      decoder on the device; of the search for words.
  """

  utterances: list
  labels: list
  words: list | None
  audio: float
  network: float
  search: float


def _decode(network, builder, engine):
  """Returns the split of the flags, Decoded."""
  import numpy as np
  from common import console

  from nasjax.data import corpus, features
  from nasjax.decoding import error_rates, transcripts

  limit = FLAGS.utterances or builder.info.splits[FLAGS.split].num_examples
  lengths, said = [], set()
  for u, _ in zip(corpus.utterances(builder, FLAGS.split), range(limit)):
    lengths.append(len(u.samples_n))
    said.update(u.text.split())
  if engine and engine.lm and said and not any(w in engine.lm for w in said):
    raise ValueError(
      f'--lm={FLAGS.lm}: another alphabet: it has none of the {len(said)} '
      f'different words of {FLAGS.split}, as {min(said)!r}; take one of these '
      'words'
    )
  frames = features.num_frames(max(lengths))
  decoder, width = FLAGS.decoder, FLAGS.beam_width
  if engine:
    decoder, width = 'greedy', None
  worded = error_rates.has_words(network.symbols)
  found, labels, spoken = [], [], []
  seconds = {'network': 0.0, 'search': 0.0}

  def hear(chunk):
    xs = network.frontend.features(
      [u.samples_n for u in chunk], [u.speaker or None for u in chunk]
    )
    return network.hear(xs, 8, decoder, width, frames)

  def flush(chunk):
    if not found:
      hear(chunk)  # compiles
    started = time.perf_counter()
    heard = hear(chunk)
    seconds['network'] += time.perf_counter() - started
    started = time.perf_counter()
    for one in heard:
      if not engine:
        labels.append(one.labels)
        spoken.append(transcripts.spelt(one.labels, network.symbols).split())
        continue
      (best,) = engine.best(one.logprobs_tv)
      labels.append(np.array(best.labels, np.int32))
      spoken.append(list(best.words))
    if engine:
      seconds['search'] += time.perf_counter() - started
    found.extend(u._replace(samples_n=None) for u in chunk)

  with console.counter(f'decoding {FLAGS.split}') as tick:
    chunk = []
    for utterance, _ in zip(
      corpus.utterances(builder, FLAGS.split), range(limit)
    ):
      chunk.append(utterance)
      if len(chunk) == _TOGETHER:
        flush(chunk)
        tick(len(found), limit)
        chunk = []
    if chunk:
      flush(chunk)
  audio = sum(lengths) / features.SAMPLE_RATE
  spoken = spoken if worded or engine else None
  return Decoded(found, labels, spoken, audio, **seconds)


def _rate(name, edits_k, of):
  """Returns a record of an error rate."""
  substitutions, deletions, insertions = (int(n) for n in edits_k)
  return {
    'metric': name,
    'rate': float(sum(edits_k) / of) if of else None,
    'substitutions': substitutions,
    'deletions': deletions,
    'insertions': insertions,
    'of': int(of),
  }


def _references(network, decoded):
  """Returns what was said: words, or where there are none, classes."""
  from nasjax.data import word_pieces
  from nasjax.decoding import error_rates, transcripts

  symbols = network.symbols
  if decoded.words is None:
    return [_classes(network, u.labels) for u in decoded.utterances]
  if not error_rates.has_words(symbols) or word_pieces.UNKNOWN in symbols:
    return [u.text.split() for u in decoded.utterances]
  return [
    transcripts.spelt(u.labels, symbols).split() for u in decoded.utterances
  ]


def _classes(network, labels):
  return [name.replace(' ', '_') for name in network.folded(labels)]


def _report(network, decoded, engine, metric):
  """Returns all that is to be said, as a record for JSON."""
  from nasjax.decoding import error_rates, words, worst

  references = _references(network, decoded)
  heard = decoded.words
  edits_k, of = error_rates.edits_by_kind(
    decoded.labels, [u.labels for u in decoded.utterances], network.units.fold_v
  )
  rates = [_rate(metric.lower(), edits_k, of)]
  if heard is None:
    heard = [_classes(network, labels) for labels in decoded.labels]
  aligned = worst.utterances(references, heard)
  if decoded.words is not None:
    total = worst.total(aligned)
    # Where labels are words, they are counted as words alone.
    rates = rates if metric.lower() != 'wer' else []
    rates.append(_rate('wer', total[:3], total.of))
  network_factor = decoded.network / decoded.audio
  search_factor = decoded.search / decoded.audio
  record = {
    'run': FLAGS.run,
    'network': network.label,
    'split': FLAGS.split,
    'decoder': engine.label if engine else FLAGS.decoder or 'as trained',
    'utterances': len(decoded.utterances),
    'audio_seconds': decoded.audio,
    'rates': {rate.pop('metric'): rate for rate in rates},
    'real_time_factor': {
      'network': network_factor,
      'search': search_factor,
      'total': network_factor + search_factor,
    },
    'lacking': {},
    'worst': [
      {
        'id': decoded.utterances[u.index].id,
        'speaker': decoded.utterances[u.index].speaker,
        'reference': ' '.join(u.reference),
        'heard': ' '.join(u.heard),
        'rate': u.errors.rate if u.errors.of else None,
        **u.errors._asdict(),
        'alignment': [
          {'kind': kind, 'reference': list(said), 'heard': list(written)}
          for kind, said, written in u.alignment
        ],
        'text': u.text(),
      }
      for u in worst.worst(aligned, FLAGS.worst)
    ],
  }
  for name in ('lexicon', 'lm') if engine else ():
    known = getattr(engine, name)
    if known is not None:
      record['lacking'][name] = words.lacking(references, known)
  return record


def _print(record):
  minutes = record['audio_seconds'] / 60
  print(
    f'{record["network"]}\n{record["split"]}: {record["utterances"]} '
    f'utterances, {minutes:.1f} minutes; decoder: {record["decoder"]}'
  )
  for name, rate in record['rates'].items():
    print(
      f'{name.upper()} {100 * rate["rate"]:.2f} %: {rate["substitutions"]} '
      f'substitutions, {rate["deletions"]} deletions, {rate["insertions"]} '
      f'insertions of {rate["of"]}'
    )
  factor = record['real_time_factor']
  print(
    f'real-time factor {factor["total"]:.4f}: features and network '
    f'{factor["network"]:.4f}, search for words {factor["search"]:.4f}'
  )
  for name, lacking in record['lacking'].items():
    if lacking['words']:
      shown = ' '.join(lacking['distinct'][:8])
      more = ' ..' if len(lacking['distinct']) > 8 else ''
      what = 'the lexicon lacks' if name == 'lexicon' else '--lm lacks'
      then = ', and cannot hear' if name == 'lexicon' else ''
      print(
        f'{what}{then} {lacking["words"]} of {lacking["of"]} words that were '
        f'said ({lacking["utterances"]} utterances): {shown}{more}'
      )
  for n, one in enumerate(record['worst'], start=1):
    rate = 'all' if one['rate'] is None else f'{100 * one["rate"]:.1f} %'
    print(
      f'\n{n}. {one["id"]}: {rate} ({one["substitutions"]} S, '
      f'{one["deletions"]} D, {one["insertions"]} I of {one["of"]})\n'
      f'{one["text"]}'
    )


def run():
  """Checks the flags, decodes, and reports."""
  _check()
  device_flags.cache()
  builder = run_corpus.builder(FLAGS.run)
  import nasjax

  network = nasjax.load_network(
    FLAGS.run, FLAGS.cell, FLAGS.seed, recipe=FLAGS.recipe
  )
  run_corpus.check(network, builder)
  metric = run_corpus.noted(FLAGS.run, 'metric', 'what it counts errors in')
  engine = word_flags.engine(network)
  decoded = _decode(network, builder, engine)
  record = _report(network, decoded, engine, metric)
  if FLAGS.json:
    command.publish_json(FLAGS.json, record)
  _print(record)


if __name__ == '__main__':
  command.run(run)
