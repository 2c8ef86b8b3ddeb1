"""Files that take samples, their front end inside: sherpa-onnx loads them.

  sherpa(place, network, model, recordings)

writes `model.onnx` and `tokens.txt`, which `OfflineRecognizer.
from_omnilingual_asr_ctc(model=.., tokens=..)` takes as they are: the one format
of sherpa-onnx in which a CTC network of 16 kHz is given samples, not features
of its own making. It takes the mean of a recording away and divides by its
standard deviation; the file multiplies by the usual one of the recordings that
it was written with. So a recording's energies are off by a constant, the more
the louder or quieter than usual it is; all else is the network's own front end.
"""

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
  graph = onnx.GraphProto()
  graph.CopyFrom(made.graph)
  rest = list(graph.node)
  for name in ('node', 'input', 'output'):
    graph.ClearField(name)
  kind = onnx.TensorProto.FLOAT
  value = onnx.helper.make_tensor_value_info
  graph.input.append(value('samples', kind, ['batch', 'samples']))
  outputs = len(told['symbols']) + 1
  graph.output.append(value('logprobs', kind, ['batch', 'frames', outputs]))
  for name, array in _weights(fitted, level).items():
    graph.initializer.append(onnx.numpy_helper.from_array(array, name))
  front_end = [
    onnx.helper.make_node(kind, inputs, [output], output, **attributes)
    for output, kind, inputs, attributes in _front_end()
  ]
  graph.node.extend(front_end + rest)
  graph.node.append(
    onnx.helper.make_node('LogSoftmax', ['logits'], ['logprobs'], axis=-1)
  )
  found = onnx.ModelProto()
  found.CopyFrom(made)
  found.graph.CopyFrom(graph)
  told |= {
    'inputs': {
      'samples': f'float32 [batch, samples], of {features.SAMPLE_RATE} Hz; '
      f'multiplied by {level:g} they are of full scale 1'
    },
    'outputs': {'logprobs': f'float32 [batch, frames / reduction, {outputs}]'},
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
