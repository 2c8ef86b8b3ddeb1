"""Files that other people's packages load as they are, with their front ends.

  sherpa(place, network, model, recordings)
  onnx_asr(place, network, models, recordings)

The first writes `model.onnx` and `tokens.txt`, which `OfflineRecognizer.
from_omnilingual_asr_ctc(model=.., tokens=..)` takes as they are: the one format
of sherpa-onnx in which a CTC network of 16 kHz is given samples, not features
of its own making. It takes the mean of a recording away and divides by its
standard deviation; the file multiplies by the usual one of the recordings that
it was written with. So a recording's energies are off by a constant, the more
the louder or quieter than usual it is; all else is the network's own front end.

The second writes what `onnx_asr.load_model('nemo-conformer-ctc', place)` takes.
That package gives no network of 16 kHz its samples, so the file takes NeMo's
80 log-mel energies (Slaney's filters, pre-emphasis, 512 points, each normalised
over the utterance), and makes the network's features of them: an affine map of
three frames, fitted by least squares to recordings of the training split.
"""

import json
import pathlib

import numpy as np

from nasjax.data import features
from nasjax.decoding import error_rates
from nasjax.export import onnx as onnx_lib
from nasjax.export import text as text_lib
from nasjax.export.text import ExportError, UnsupportedError
from nasjax.storage import disk

BLANK = '<blk>'
# Between words, as sherpa-onnx has it in lists of tokens.
SPACE = '▁'


def model(made, level=1.0):
  """Returns a model that takes samples instead of features.

  Args:
    made: an `onnx.ModelProto` of `onnx.model` or `quantise.static`, with the
      text of a network that knows its front end; stays as it is.
    level: what samples are multiplied by to be of full scale 1.

  Returns:
    an `onnx.ModelProto`: in `samples`, float32 [batch, samples], at least one
    window and all of one length; out `logprobs` [batch, frames, symbols].

  Raises:
    UnsupportedError: its front end has pitch, deltas, or means of speakers.
  """
  onnx = onnx_lib.library()
  (text,) = (p.value for p in made.metadata_props if p.key == text_lib.KEY)
  told, fitted, _ = text_lib.read(text, 'the model')
  if fitted is None:
    raise ExportError('the model tells no front end: write it from a run')
  front = fitted.frontend
  if front.pitch or front.deltas or fitted.mean_f is None:
    raise UnsupportedError(
      f'front end {front.name} has pitch, deltas or means of speakers, which '
      'no file makes yet; those of plain log-mel energies can'
    )
  inputs = {
    'samples': f'float32 [batch, samples], of {features.SAMPLE_RATE} Hz; '
    f'multiplied by {level:g} they are of full scale 1'
  }
  return _fronted(
    onnx,
    made,
    told | {'inputs': inputs},
    {'samples': (onnx.TensorProto.FLOAT, ['batch', 'samples'])},
    _weights(fitted, level),
    _front_end(),
  )


def _fronted(onnx, made, told, inputs, weights, nodes):
  """Returns a model with nodes before it that make `features` and `lengths`.

  Args:
    onnx: the package.
    made: the model; stays as it is.
    told: its text but for the outputs.
    inputs: type and shape of each, by name.
    weights: arrays of the nodes, by name.
    nodes: output, operator, inputs and attributes of each, in order.
  """
  graph = onnx.GraphProto()
  graph.CopyFrom(made.graph)
  rest = list(graph.node)
  for name in ('node', 'input', 'output'):
    graph.ClearField(name)
  value = onnx.helper.make_tensor_value_info
  graph.input.extend(value(name, *kind) for name, kind in inputs.items())
  outputs = len(told['symbols']) + 1
  shape = ['batch', 'frames', outputs]
  graph.output.append(value('logprobs', onnx.TensorProto.FLOAT, shape))
  for name, array in weights.items():
    graph.initializer.append(onnx.numpy_helper.from_array(array, name))
  graph.node.extend(
    onnx.helper.make_node(kind, reads, [output], output, **attributes)
    for output, kind, reads, attributes in nodes
  )
  graph.node.extend(rest)
  graph.node.append(
    onnx.helper.make_node('LogSoftmax', ['logits'], ['logprobs'], axis=-1)
  )
  found = onnx.ModelProto()
  found.CopyFrom(made)
  found.graph.CopyFrom(graph)
  told |= {
    'outputs': {'logprobs': f'float32 [batch, frames / reduction, {outputs}]'}
  }
  del found.metadata_props[:]
  onnx.helper.set_model_props(found, {text_lib.KEY: text_lib.dumped(told)})
  onnx.checker.check_model(found, full_check=True)
  return found


def _weights(fitted, level):
  """Returns the arrays of the front end by name."""
  k = np.arange(features.WINDOW)
  turns_nk = 2 * np.pi * np.outer(np.arange(features.WINDOW // 2 + 1), k)
  turns_nk /= features.WINDOW
  window_k = level * fitted.window_k.astype(np.float64)
  parts_nk = [window_k * np.cos(turns_nk), window_k * np.sin(turns_nk)]
  # Sums of one kernel each: real parts, then imaginary ones.
  return {
    'wave/kernel': np.concatenate(parts_nk)[:, None].astype(np.float32),
    'wave/filters': fitted.filters_nf.astype(np.float32),
    'wave/floor': np.array(features.FLOOR, np.float32),
    'wave/mean': np.asarray(fitted.mean_f, np.float32),
    'wave/deviation': np.sqrt(
      np.asarray(fitted.variance_f, np.float32) + features.VARIANCE_FLOOR
    ),
    'wave/one': np.array([1], np.int64),
  }


def _front_end():
  """Yields output, operator, inputs and attributes of each node, in order."""
  yield 'wave/channel', 'Unsqueeze', ['samples', 'wave/one'], {}
  yield (
    'wave/spectrum',
    'Conv',
    ['wave/channel', 'wave/kernel'],
    {'kernel_shape': [features.WINDOW], 'strides': [features.HOP]},
  )
  yield 'wave/squares', 'Mul', ['wave/spectrum', 'wave/spectrum'], {}
  # Real parts and imaginary ones have the same filters.
  yield 'wave/frames', 'Transpose', ['wave/squares'], {'perm': (0, 2, 1)}
  yield 'wave/both', 'Concat', ['wave/filters', 'wave/filters'], {'axis': 0}
  yield 'wave/energies', 'MatMul', ['wave/frames', 'wave/both'], {}
  yield 'wave/floored', 'Add', ['wave/energies', 'wave/floor'], {}
  yield 'wave/logs', 'Log', ['wave/floored'], {}
  yield 'wave/centred', 'Sub', ['wave/logs', 'wave/mean'], {}
  yield 'features', 'Div', ['wave/centred', 'wave/deviation'], {}
  # All of a batch are equally long.
  yield 'wave/batch', 'Shape', ['features'], {'start': 0, 'end': 1}
  yield 'wave/count', 'Shape', ['features'], {'start': 1, 'end': 2}
  yield 'lengths', 'Expand', ['wave/count', 'wave/batch'], {}


def tokens(symbols):
  """Returns the lines of sherpa-onnx's tokens.txt.

  Raises:
    ExportError: a symbol is one that such a file cannot have.
  """
  border = error_rates.border(symbols)
  names = [BLANK]
  for symbol in symbols:
    name = SPACE if symbol in (border, ' ') else symbol
    if not name or any(c.isspace() for c in name) or name in names:
      raise ExportError(
        f'symbol {symbol!r} cannot stand in tokens.txt: white space, or twice'
      )
    names.append(name)
  return ''.join(f'{name} {i}\n' for i, name in enumerate(names))


def usual_level(recordings):
  """Returns the usual standard deviation of recordings, of full scale 1.

  Args:
    recordings: int16 samples of each.
  """
  logs = [
    np.log(np.std(samples_n.astype(np.float64) / 32768))
    for samples_n in recordings
    if np.ptp(samples_n)
  ]
  if not logs:
    raise ExportError('no recording with sound in it; give some')
  return float(np.exp(np.mean(logs)))


def sherpa(place, network, made, recordings):
  """Writes a network as sherpa-onnx loads it; returns the model's path.

  Args:
    place: directory, made if it is not there.
    network: `listening.TrainedNetwork`.
    made: its `onnx.ModelProto`, in float32 or eight bits.
    recordings: int16 samples at 16 kHz of training utterances, of which the
      usual loudness is.

  Raises:
    UnsupportedError: as `model`.
    ExportError: as `tokens`; or no recording has sound in it.
  """
  place = pathlib.Path(place)
  lines = tokens(network.symbols)
  found = model(made, usual_level(recordings))
  disk.make_directory(place)
  disk.publish(place / 'tokens.txt', lines.encode())
  disk.publish(place / 'model.onnx', found.SerializeToString())
  return place / 'model.onnx'


# How onnx-asr calls NeMo's front end, and how wide that is.
_NEMO, _NEMO_MELS = 'nemo80', 80
# Frames of theirs that make one of ours: theirs lie around every 10 ms, ours
# begin there, so that the middle of one lies behind those of these.
_CONTEXT = 3


def onnx_asr(place, network, models, recordings):
  """Writes a network as onnx-asr loads it.

  Args:
    place: directory, made if it is not there.
    network: `listening.TrainedNetwork`.
    models: its `onnx.ModelProto`s: '' in float32, 'int8' of eight bits, which
      the package loads with quantization='int8'.
    recordings: int16 samples at 16 kHz of training utterances.

  Returns:
    share of the variance of the network's features that the map explains.

  Raises:
    ExportError: as `tokens`; the package is not installed, or there is no
      recording.
  """
  onnx = onnx_lib.library()
  place, lines = pathlib.Path(place), tokens(network.symbols)
  kernel_fik, bias_f, explained = _fitted_map(network, recordings)
  disk.make_directory(place)
  for suffix, made in models.items():
    (text,) = (p.value for p in made.metadata_props if p.key == text_lib.KEY)
    inputs = {
      'audio_signal': f'float32 [batch, {_NEMO_MELS}, frames], of NeMo',
      'length': 'int64 [batch], frames of each',
    }
    found = _fronted(
      onnx,
      made,
      text_lib.read(text, 'the model')[0] | {'inputs': inputs},
      {
        'audio_signal': (
          onnx.TensorProto.FLOAT, ['batch', _NEMO_MELS, 'frames']
        ),
        'length': (onnx.TensorProto.INT64, ['batch']),
      },
      {'nemo/kernel': kernel_fik, 'nemo/bias': bias_f},
      (
        (
          'nemo/made',
          'Conv',
          ['audio_signal', 'nemo/kernel', 'nemo/bias'],
          {'kernel_shape': [_CONTEXT], 'pads': [0, _CONTEXT - 1]},
        ),
        ('features', 'Transpose', ['nemo/made'], {'perm': (0, 2, 1)}),
        ('lengths', 'Identity', ['length'], {}),
      ),
    )  # fmt: skip
    name = f'model.{suffix}.onnx' if suffix else 'model.onnx'
    disk.publish(place / name, found.SerializeToString())
  config = {
    'model_type': 'nemo-conformer-ctc',
    'features_size': _NEMO_MELS,
    'subsampling_factor': network.macro.reduction,
  }
  disk.publish(place / 'vocab.txt', lines.encode())
  disk.publish(place / 'config.json', json.dumps(config, indent=1).encode())
  return explained


def _fitted_map(network, recordings):
  """Returns kernel_fik and bias_f, float32, and the variance explained."""
  try:
    from onnx_asr.preprocessors import numpy_preprocessor
  except ImportError:
    raise ExportError(
      "the package onnx-asr is not installed; pip install -e '.[onnx-asr]'"
    ) from None
  recordings = [
    samples_n for samples_n in recordings if len(samples_n) >= features.WINDOW
  ]
  if not recordings:
    raise ExportError('no recording to fit features to; give some dozens')
  theirs = numpy_preprocessor.NemoPreprocessorNumpy(_NEMO)
  xs, ys = [], network.frontend.features(recordings)
  for samples_n, y_tf in zip(recordings, ys):
    full = (samples_n.astype(np.float32) / 32768)[None]
    (x_ft,), _ = theirs(full, np.array([len(samples_n)]))
    t = np.arange(len(y_tf))[:, None] + np.arange(_CONTEXT)
    # What lies behind the end is 0, as the file has it.
    x_ft = np.pad(x_ft, ((0, 0), (0, _CONTEXT)))
    xs.append(x_ft[:, t].transpose(1, 0, 2).reshape(len(y_tf), -1))
  x_nk, y_nf = np.concatenate(xs), np.concatenate(ys).astype(np.float64)
  x_nk = np.concatenate([x_nk, np.ones((len(x_nk), 1))], 1).astype(np.float64)
  # A little of a ridge, for recordings that are too few.
  square_kk = x_nk.T @ x_nk + 1e-3 * len(x_nk) * np.eye(x_nk.shape[1])
  map_kf = np.linalg.solve(square_kk, x_nk.T @ y_nf)
  rest = ((x_nk @ map_kf - y_nf) ** 2).mean() / y_nf.var()
  kernel_fik = map_kf[:-1].T.reshape(-1, _NEMO_MELS, _CONTEXT)
  return kernel_fik.astype(np.float32), map_kf[-1].astype(np.float32), 1 - rest
