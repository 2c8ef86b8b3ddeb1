"""Lets a trained network hear recordings, and prints what it heard.

  python experiments/transcribe.py --run=results/quickstart audio.wav ..
  python experiments/transcribe.py heard.onnx audio.wav ..

Recordings are WAV or FLAC files of any rate. The network is the one of the
lowest validation error in the run's table, if no --cell is named; --list shows
what there is. A file of export.py (--model, or the first of the arguments where
it ends in .onnx) is run by ONNX Runtime instead. A language model (--lm) or a
lexicon makes it search for words. A line a recording; one that cannot be heard
is told on stderr, and the status is 1 then.
"""

import dataclasses
import sys

import numpy as np
from absl import flags
from common import command, device_flags, word_flags

FLAGS = flags.FLAGS

flags.DEFINE_string('run', None, 'The run: what --out of its command named.')
flags.DEFINE_string(
  'model', None, 'Instead of --run: an ONNX file that export.py wrote.'
)
flags.DEFINE_string(
  'cell', None, 'Its cell, nested lists or the name that --list shows.'
)
flags.DEFINE_integer('seed', None, 'Seed of its training (or of --search).')
flags.DEFINE_string('recipe', None, 'Name of its recipe.')
flags.DEFINE_string(
  'search',
  None,
  'Take the shared weights of a one-shot search of the run: its method, or the '
  'beginning of its name.',
)
flags.DEFINE_integer(
  'channel', None, 'Which channel of files of several, from 0.', lower_bound=0
)
flags.DEFINE_string(
  'speaker', None, 'Who speaks, where features are normalised by speakers.'
)
flags.DEFINE_bool('list', False, 'List the networks of the run, and stop.')
flags.DEFINE_bool(
  'align', False, 'Also print when each symbol was heard, in seconds.'
)
flags.DEFINE_integer(
  'alternatives',
  1,
  'Of a search for words: print so many transcripts of each recording, the '
  'best first, with their scores.',
  lower_bound=1,
)
flags.DEFINE_string('json', None, 'Where transcripts and alignments go.')
flags.declare_key_flag('compilation_cache')
flags.adopt_module_key_flags(word_flags)


def _say(line):
  print(f'transcribe.py: {line}', file=sys.stderr, flush=True)


# What picks a network of a run, and what a file does not have.
_OF_RUNS = ('run', 'cell', 'seed', 'recipe', 'search', 'list', 'speaker')


def _model(recordings):
  """Returns the exported file that is asked for, or None, and the recordings.

  Raises:
    ValueError: a flag is for networks of runs.
  """
  model = FLAGS.model
  first = recordings[0] if recordings else ''
  if not (model or FLAGS.run) and first.lower().endswith('.onnx'):
    model, *recordings = recordings
  for name in _OF_RUNS if model else ():
    if FLAGS[name].value:
      raise ValueError(f'--{name} is for a run, {model} is a file; leave it')
  return model, recordings


def _network(model):
  if model:
    from nasjax.export import hearing

    return hearing.load(model)
  import nasjax

  return nasjax.load_network(
    FLAGS.run, FLAGS.cell, FLAGS.seed, recipe=FLAGS.recipe, search=FLAGS.search
  )


def _show_networks():
  from nasjax import listening

  for kept in listening.networks(FLAGS.run):
    print(kept.label)


def _worded(network, heard, found):
  """Returns a `Transcript` with the words of a search, and their labels."""
  labels = np.array(found.labels, np.int32)
  return dataclasses.replace(
    heard,
    text=' '.join(found.words),
    labels=labels,
    symbols=tuple(network.symbols[label - 1] for label in labels),
    logprob=found.ctc,
  )


def _record(path, heard, found):
  record = {
    'audio': path,
    'text': heard.text,
    'symbols': list(heard.symbols),
    'logprob': heard.logprob,
    'spans': None if heard.alignment is None else heard.spans,
    'notes': list(heard.notes),
  }
  if found:
    record['alternatives'] = [
      {'text': ' '.join(one.words), 'score': one.score} for one in found
    ]
  return record


def run(recordings):
  """Loads the network, hears one recording after the other."""
  model, recordings = _model(recordings)
  if not (FLAGS.run or model):
    raise ValueError(
      '--run is empty; name the directory of a run, or an exported .onnx file'
    )
  if not (recordings or FLAGS.list):
    raise ValueError('no recording; name WAV or FLAC files behind the flags')
  word_flags.check()
  if FLAGS['alternatives'].present and FLAGS.decoder != 'words':
    raise ValueError(
      '--alternatives is for a search for words; give --lm or --lexicon'
    )
  device_flags.cache()
  if FLAGS.list:
    _show_networks()
    return
  from nasjax.data import audio
  from nasjax.decoding import scripts

  # Marks of direction are for eyes, not for files.
  shown = scripts.isolated if sys.stdout.isatty() else str
  network = _network(model)
  _say(f'hears with {network.label}')
  for note in network.notes:
    _say(note)
  engine = word_flags.engine(network)
  decoder, width = FLAGS.decoder, FLAGS.beam_width
  if engine:
    _say(engine.label)
    decoder, width = 'greedy', None
  records, faults = [], 0
  for path in recordings:
    try:
      heard = network.transcribe(
        path,
        channel=FLAGS.channel,
        speaker=FLAGS.speaker,
        decoder=decoder,
        beam_width=width,
      )
    except audio.AudioError as e:
      _say(str(e))
      faults += 1
      continue
    for note in heard.notes:
      _say(note)
    found = []
    if engine:
      found = engine.best(heard.logprobs_tv, FLAGS.alternatives)
      heard = _worded(network, heard, found[0])
    print(f'{path}: {shown(heard.text)}', flush=True)
    for one in found if FLAGS.alternatives > 1 else ():
      print(f'  {one.score:10.2f}  {shown(" ".join(one.words))}')
    if FLAGS.align and heard.alignment is not None:
      for symbol, first, last in heard.spans:
        print(f'  {first:7.2f} {last:7.2f}  {shown(scripts.alone(symbol))}')
    records.append(_record(path, heard, found))
  if FLAGS.json:
    command.publish_json(FLAGS.json, records)
  if faults:
    raise ValueError(f'{faults} of {len(recordings)} recordings were not heard')


if __name__ == '__main__':
  command.run(run, others=True)
