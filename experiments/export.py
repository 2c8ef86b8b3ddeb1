"""Exports a trained network as an ONNX file, and one of eight bits beside it.

  python experiments/export.py --run=results/quickstart --model=heard.onnx \\
    --json=results/exported.json
  python experiments/transcribe.py heard.onnx audio.wav
  python experiments/export.py --run=results/quickstart --model=heard.onnx \\
    --fine_tune_epochs=1,3,10 --sherpa=sherpa --onnx_asr=onnx_asr

The network is the one of the lowest validation error in the run's table, if no
--cell is named. NAME-int8.onnx has ranges of --calibration utterances of the
training split. Both are held against the network on --split: how far logits are
apart, error rates, also of clips of at least --long seconds that are put
together of its utterances; and against each other: bytes, real-time factor by
ONNX Runtime with 1 and more threads, peak memory of a process that has nothing
else to do.

With --fine_tune_epochs the network is trained on for eight bits, and for
comparison in float32, so many epochs each (NAME-tuned/ has the runs);
NAME-tuned.onnx is of the length of the lowest validation error. With --sherpa
and --onnx_asr files are written, too, which these packages load as they are;
where a package is installed, it hears the split with them.
"""

import os
import pathlib

from absl import flags
from common import command, device_flags, run_corpus

FLAGS = flags.FLAGS

flags.DEFINE_string('run', None, 'The run: what --out of its command named.')
flags.DEFINE_string('cell', None, 'Its cell; see transcribe.py --list.')
flags.DEFINE_integer('seed', None, 'Seed of its training.')
flags.DEFINE_string('recipe', None, 'Name of its recipe.')
flags.DEFINE_string('model', None, 'Where the file goes, NAME.onnx.')
flags.DEFINE_bool('int8', True, 'Write NAME-int8.onnx, too.')
flags.DEFINE_list(
  'fine_tune_epochs', None, 'Lengths of training on for eight bits, in epochs.'
)
flags.DEFINE_float(
  'fine_tune_lr', None, "Its learning rate; a tenth of the run's if not given.",
)
flags.DEFINE_integer(
  'calibration', 64, 'Training utterances that give ranges.', lower_bound=1
)
flags.DEFINE_enum(
  'split', 'test', ['validation', 'test'], 'What error rates are of.'
)
flags.DEFINE_integer(
  'utterances', None, 'Only so many, the first; all if not given; 0 for none.',
  lower_bound=0,
)  # fmt: skip
flags.DEFINE_float(
  'long', 20.0, 'Seconds of a long clip; 0 for none.', lower_bound=0
)
flags.DEFINE_multi_integer(
  'threads', None, 'Threads to time; 1 and one a core if not given.',
  lower_bound=1,
)  # fmt: skip
flags.DEFINE_integer(
  'frames', 1000, 'Frames of 10 ms of the timed utterance.', lower_bound=8
)
flags.DEFINE_string(
  'sherpa', None, 'Directory of files that sherpa-onnx loads as they are.'
)
flags.DEFINE_string(
  'onnx_asr', None, 'Directory of files that onnx-asr loads as they are.'
)
flags.DEFINE_string('json', None, 'Where all of it goes.')
flags.declare_key_flag('compilation_cache')


def _check():
  """Refuses flags that contradict; returns the path of the file."""
  wanted = {'run': 'the directory of a run', 'model': 'a file NAME.onnx'}
  for name, what in wanted.items():
    if not FLAGS[name].value:
      raise ValueError(f'--{name} is empty; name {what}')
  path = pathlib.Path(FLAGS.model).expanduser()
  if path.suffix != '.onnx':
    raise ValueError(f'--model={FLAGS.model} does not end in .onnx')
  if not path.parent.is_dir():
    raise ValueError(f'--model={FLAGS.model}: no directory {path.parent}')
  for name in ('fine_tune_epochs', 'sherpa', 'onnx_asr'):
    if FLAGS[name].value and not FLAGS.int8:
      raise ValueError(f'--{name} is for eight bits, too; leave out --noint8')
  return path


def _lengths():
  """Returns the lengths of --fine_tune_epochs, sorted."""
  words = FLAGS.fine_tune_epochs or []
  for word in words:
    if not word.isdecimal() or int(word) < 1:
      raise ValueError(
        f'--fine_tune_epochs={",".join(words)}: {word!r} is no number of epochs'
      )
  lr = FLAGS.fine_tune_lr
  if lr is not None and (not words or not 0 < lr < float('inf')):
    raise ValueError(
      f'--fine_tune_lr={lr}: want more than 0, and --fine_tune_epochs'
    )
  return sorted(set(map(int, words)))


def _threads():
  return FLAGS.threads or sorted({1, len(os.sched_getaffinity(0))})


def _measured(path, apart):
  """Returns bytes, seconds and memory of a file, a dict."""
  from nasjax.export import timing

  return {
    'path': str(path),
    'bytes': path.stat().st_size,
    'apart': apart,
    'timed': [
      timing.measured(path, FLAGS.frames, threads) for threads in _threads()
    ],
  }


def _print(record):
  from studies import eight_bits, elsewhere

  print(f'{record["network"]}')
  for name, file in record['files'].items():
    apart = file['apart']
    told = apart and (
      f'; logits apart by at most {apart["most"]:.2g} (the largest is '
      f'{apart["largest_logit"]:.3g})'
    )
    print(f'{file["path"]}: {file["bytes"]:,} bytes, {name}{told or ""}')
  if 'ratio' in record:
    print(f'int8 has {record["ratio"]:.2f} times fewer bytes')
  for what, rates in record['rates'].items():
    told = ', '.join(
      f'{name} {100 * one["rate"]:.2f} %' for name, one in rates.items()
    )
    of = next(iter(rates.values()))['of']
    print(f'{record["metric"].upper()} of {what} ({of} symbols): {told}')
  for name, file in record['files'].items():
    for one in file['timed']:
      peak, own = one['peak_bytes'], one['peak_bytes'] - one['bytes_before']
      print(
        f'{name}, {one["threads"]} threads: real-time factor '
        f'{one["real_time_factor"]:.5f}, peak memory {peak / 2**20:.0f} MiB, '
        f'{own / 2**20:.0f} of it for the network'
      )
  if record['fine_tuned']:
    print('\n'.join(eight_bits.told(record)))
  for one in record['elsewhere']:
    print(elsewhere.told(one))


def run():
  """Writes the files, measures them, says what came out."""
  path, lengths = _check(), _lengths()
  device_flags.cache()
  from studies import eight_bits, elsewhere, onnx_files

  import nasjax
  from nasjax.export import hearing, onnx, rounded
  from nasjax.storage import disk

  hearing.runtime()
  network = nasjax.load_network(
    FLAGS.run, FLAGS.cell, FLAGS.seed, recipe=FLAGS.recipe
  )
  metric = run_corpus.noted(FLAGS.run, 'metric', 'what it counts errors in')
  paths = {'float32': path}
  onnx.save_network(path, network)
  builder = None
  networks = {'jax': network}
  if FLAGS.int8 or FLAGS.utterances != 0:
    builder = run_corpus.builder(FLAGS.run)
    run_corpus.check(network, builder)
  if FLAGS.int8:
    spoken = onnx_files.utterances(builder, 'train', FLAGS.calibration)
    chosen = onnx_files.features(network, spoken)
    paths['int8'] = path.with_name(f'{path.stem}-int8.onnx')
    onnx.save_network(paths['int8'], network, chosen)
    networks['jax, rounded'] = rounded.of(network, chosen)
  exported = {name: hearing.load(where) for name, where in paths.items()}
  said = []
  if builder is not None:
    said = onnx_files.utterances(builder, FLAGS.split, FLAGS.utterances)
  apart = onnx_files.apart(network, exported, said[:4]) if said else {}
  sets = {f'{len(said)} utterances of {FLAGS.split}': said}
  if FLAGS.long:
    clips = onnx_files.joined(said, FLAGS.long, network.symbols)
    sets[f'{len(clips)} clips of {FLAGS.long:g} s and more'] = clips
  sets = {what: found for what, found in sets.items() if found}
  tuned = []
  if lengths:
    place = path.with_name(f'{path.stem}-tuned')
    tuned = eight_bits.lengths(
      network, builder, metric, lengths, FLAGS.fine_tune_lr, (chosen, place),
      sets,
    )  # fmt: skip
    paths['tuned'] = path.with_name(f'{path.stem}-tuned.onnx')
    payload = pathlib.Path(eight_bits.best(tuned)['path']).read_bytes()
    disk.publish(paths['tuned'], payload)
    exported['tuned'] = hearing.load(paths['tuned'])
  written = []
  for name in ('sherpa', 'onnx_asr'):
    if FLAGS[name].value:
      models = {n: onnx.library().load(paths[n]) for n in ('float32', 'int8')}
      recordings = [u.samples_n for u in spoken]
      place = command.directory(name)
      write = getattr(elsewhere, name)
      written.append(write(network, models, place, recordings, said))
  networks |= exported
  rates = {
    what: onnx_files.rates(networks, s, network) for what, s in sets.items()
  }
  record = {
    'run': FLAGS.run,
    'network': network.label,
    'metric': metric.lower(),
    'split': FLAGS.split,
    'calibration': FLAGS.calibration if FLAGS.int8 else None,
    'files': {
      name: _measured(where, apart.get(name)) for name, where in paths.items()
    },
    'fine_tuned': tuned,
    'elsewhere': written,
    'rates': rates,
  }
  if FLAGS.int8:
    files = record['files']
    record['ratio'] = files['float32']['bytes'] / files['int8']['bytes']
  _print(record)
  if FLAGS.json:
    command.publish_json(FLAGS.json, record)


if __name__ == '__main__':
  command.run(run)
