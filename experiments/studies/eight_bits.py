"""Training a network on for eight bits: what it saves, by how long it lasts."""

import pathlib

from common import console
from studies import onnx_files


def lengths(network, builder, metric, epochs_n, lr, calibration, sets):
  """Trains a network on, in float32 and for eight bits, some lengths each.

  Args:
    network: `listening.TrainedNetwork`.
    builder: its corpus, prepared.
    metric: what its errors are called.
    epochs_n: lengths of training.
    lr: learning rate; None for the usual one.
    calibration: `(features, directory)`: of training utterances, and where the
      runs and their files go.
    sets: utterances by name.

  Returns:
    a dict for each length: `epochs`; `validation`, the lowest error rate of
    either training; `rates` of each set: `float32` trained on in float32,
    `int8` the same put to eight bits, `tuned` trained for eight bits and put to
    them; `path` of that file; `run`, where it was trained.
  """
  import nasjax
  from nasjax.benchmark import fine_tuning
  from nasjax.data import corpus as corpus_lib
  from nasjax.export import hearing, onnx

  xs, place = calibration
  with console.counter('computing features') as tick:
    corpus = corpus_lib.load(
      builder, frontend=network.frontend.frontend, progress=tick
    )
  rows = []
  for epochs in epochs_n:
    files, validation, runs = {}, {}, {}
    for name in ('float32', 'int8'):
      out = runs[name] = place / f'{name}-e{epochs}'
      with console.counter(f'training on, {name}') as tick:
        validation[name] = fine_tuning.run(
          network,
          corpus,
          out,
          epochs,
          lr=lr,
          precision=name,
          metric=metric,
          place=pathlib.Path(builder.data_dir).absolute(),
          on_epoch=lambda done, of=epochs: tick(done.epoch, of),
        )
      trained = nasjax.load_network(out)
      if name == 'float32':
        files['float32'] = out / 'float32.onnx'
        onnx.save_network(files['float32'], trained)
      own = 'int8' if name == 'float32' else 'tuned'
      files[own] = out / 'int8.onnx'
      onnx.save_network(files[own], trained, xs)
    heard = {name: hearing.load(path) for name, path in files.items()}
    rows.append(
      {
        'epochs': epochs,
        'validation': {
          'float32': validation['float32'], 'tuned': validation['int8']
        },
        'rates': {
          what: onnx_files.rates(heard, said, network)
          for what, said in sets.items()
        },
        'path': str(files['tuned']),
        'run': str(runs['int8']),
      }
    )  # fmt: skip
  return rows


def best(rows):
  """Returns the row of the lowest validation error, of equals the shortest."""
  return min(rows, key=lambda row: (row['validation']['tuned'], row['epochs']))


def told(record):
  """Yields lines: a table of error rates by epochs, for each set."""
  for what in record['rates']:
    yield f'{record["metric"].upper()} in % by epochs of training on, {what}:'
    yield '  epochs  float32    int8   tuned'
    before = record['rates'][what]
    for epochs, found in [(0, before)] + [
      (row['epochs'], row['rates'][what]) for row in record['fine_tuned']
    ]:
      numbers = [
        f'{100 * found[name]["rate"]:8.2f}'
        if name in found and epochs or name in ('float32', 'int8')
        else '       -'
        for name in ('float32', 'int8', 'tuned')
      ]
      yield f'  {epochs:6}{"".join(numbers)}'
