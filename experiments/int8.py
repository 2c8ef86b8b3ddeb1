"""What eight bits cost the networks of a run, and whether they rank alike.

  python experiments/int8.py --run=results/int8_cells --json=results/int8.json

Every network whose weights the run keeps is heard on the test split twice: in
float32, and with weights and inputs of its dense products rounded as the file
of eight bits that export.py writes has them, with ranges of --calibration
training utterances; those of a shard together, in JAX. Errors go into the
run's table: `t.query(cell, 'test_per', seed=.., metric='int8')`. The files of
--check networks are written, and run by ONNX Runtime, for comparison. Killed
and started again with the same command, it goes on.
"""

import pathlib
import tempfile

from absl import flags
from common import command, device_flags, run_corpus

FLAGS = flags.FLAGS

flags.DEFINE_string('run', None, 'The run: what --out of its command named.')
flags.DEFINE_integer(
  'calibration', 64, 'Training utterances that give ranges.', lower_bound=1
)
flags.DEFINE_integer(
  'utterances', None, 'Only so many of the test split; all if not given.',
  lower_bound=1,
)  # fmt: skip
flags.DEFINE_integer(
  'check', 2, 'Networks whose files ONNX Runtime runs, too.', lower_bound=0
)
flags.DEFINE_string('json', None, 'Where all of it goes.')
flags.declare_key_flag('compilation_cache')


def _split(split, count):
  """Returns pairs of features and labels, the first `count` of them."""
  numbers = range(len(split.ids))[:count]
  return [(split.x_tf(u), split.labels[u]) for u in numbers]


def _by_files(networks, calibration, said):
  """Returns what ONNX Runtime's files of some networks err, a dict each."""
  import nasjax
  from nasjax.decoding import error_rates
  from nasjax.export import hearing, onnx

  xs, refs = zip(*said)
  found = []
  for one in networks:
    network = nasjax.load_network(
      FLAGS.run, one.arch.tolist(), one.seed, recipe=one.recipe
    )
    with tempfile.TemporaryDirectory() as place:
      path = pathlib.Path(place, 'int8.onnx')
      onnx.save_network(path, network, calibration)
      heard = hearing.load(path).hear(list(xs), frames=max(map(len, xs)))
    edits_k, of = error_rates.edits_by_kind(
      [transcript.labels for transcript in heard], refs, network.units.fold_v
    )
    found.append(
      {
        'network': network.label,
        'int8_error': one.int8_error,
        'file_error': float(edits_k.sum() / of),
        'of': int(of),
      }
    )
  return found


def _summary(networks):
  """Returns what eight bits cost, and the correlation, plain values."""
  import numpy as np

  from nasjax import analysis

  whole_n, int8_n = (
    np.array([getattr(one, name) for one in networks])
    for name in ('float_error', 'int8_error')
  )
  lost_n = int8_n - whole_n
  rank = analysis.rank_correlation(whole_n, int8_n)
  best = int(np.argmin(whole_n))
  return {
    'networks': len(networks),
    'float_error': float(whole_n.mean()),
    'int8_error': float(int8_n.mean()),
    'lost': dict(
      zip(
        ('least', 'median', 'most'),
        np.quantile(lost_n, (0, 0.5, 1)).tolist(),
      )
    ),
    'within_half_a_percent': int((lost_n < 0.005).sum()),
    'spearman': {k: None if v != v else v for k, v in rank._asdict().items()},
    # How many are better in eight bits than the best in float32.
    'place_of_best': int((int8_n < int8_n[best]).sum()) + 1,
  }


def _print(record):
  found, metric = record['summary'], record['metric'].upper()
  rank, lost = found['spearman'], found['lost']
  print(
    f'{found["networks"]} networks, test {metric} on average '
    f'{100 * found["float_error"]:.2f} % in float32, '
    f'{100 * found["int8_error"]:.2f} % in eight bits'
  )
  print(
    f'lost, absolute: median {100 * lost["median"]:+.2f}, from '
    f'{100 * lost["least"]:+.2f} to {100 * lost["most"]:+.2f}; less than 0.5: '
    f'{found["within_half_a_percent"]} of {found["networks"]}'
  )
  interval = ''
  if rank['low'] is not None:
    interval = f' [{rank["low"]:.3f}, {rank["high"]:.3f}]'
  value = 'unknown' if rank['value'] is None else f'{rank["value"]:.3f}'
  print(
    f'Spearman of float32 and eight bits {value}{interval}; the best in '
    f'float32 is number {found["place_of_best"]} in eight bits'
  )
  for one in record['checked']:
    print(
      f'{one["network"]}: {100 * one["int8_error"]:.2f} % here, '
      f'{100 * one["file_error"]:.2f} % by ONNX Runtime'
    )


def run():
  """Measures what the table lacks, says what there is, writes it."""
  if not FLAGS.run:
    raise ValueError('--run is empty; name the --out of a benchmark.py')
  metric = run_corpus.noted(FLAGS.run, 'metric', 'what it counts errors in')
  device_flags.cache()
  from common import console

  from nasjax import table
  from nasjax.data import corpus as corpus_lib
  from nasjax.export import hearing, measuring
  from nasjax.training import initial, portable

  if FLAGS.check:
    hearing.runtime()
  t = table.open(FLAGS.run)
  places = initial.places(FLAGS.run)
  frontend = portable.read(places[0]).fitted.frontend
  builder = run_corpus.builder(FLAGS.run)
  with console.counter('computing features') as tick:
    corpus = corpus_lib.load(builder, frontend=frontend, progress=tick)
  calibration = [x_tf for x_tf, _ in _split(corpus.train, FLAGS.calibration)]
  said = _split(corpus.test, FLAGS.utterances)
  with console.counter('rounding') as tick:
    networks = measuring.measure(
      *(t, FLAGS.run, calibration, said, tick, console.CONSOLE.print)
    )
  if not networks:
    raise ValueError(f'--run={FLAGS.run} has no network with weights')
  record = {
    'run': FLAGS.run,
    'metric': metric.lower(),
    'calibration': len(calibration),
    'utterances': len(said),
    'summary': _summary(networks),
    'cells': [
      one._asdict() | {'arch': t.space.nested(one.arch)} for one in networks
    ],
    'checked': _by_files(networks[: FLAGS.check], calibration, said),
  }
  _print(record)
  if FLAGS.json:
    command.publish_json(FLAGS.json, record)


if __name__ == '__main__':
  command.run(run)
