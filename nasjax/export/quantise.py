"""Files of eight bits: ranges of what a network makes of calibration speech.

Static and in the QDQ format of ONNX' own operators. Dense products (the
convolutions that open blocks, linear operations, the output) take and weigh
eight bits, which ONNX Runtime does as whole numbers. The LSTM's weights are
kept in eight bits, a scale for each row of a gate, and multiplied in float: it
has no static kernel for LSTMs. The cells' grouped convolutions stay in
float32: its kernels for them are slower in eight bits.
"""

import pathlib
import tempfile

import numpy as np

from nasjax.export import hearing
from nasjax.export import onnx as onnx_lib
from nasjax.export import text as text_lib
from nasjax.export.text import ExportError

# What the text in the file says of it.
WHAT = (
  'int8: dense products by static QDQ, weights of the LSTM; float32: grouped '
  'convolutions, norms'
)


def static(model, calibration):
  """Returns the `onnx.ModelProto` of eight bits.

  Args:
    model: of `onnx.model`; stays as it is.
    calibration: a list of features x_tf, float32 [frames, features], of
      training utterances, not of those that are scored.

  Raises:
    ExportError: a package is missing, or there are no frames to calibrate on,
      or some of other features.
  """
  onnx = onnx_lib.library()
  hearing.runtime()
  from onnxruntime import quantization

  calibration = [np.asarray(x, np.float32) for x in calibration if len(x)]
  if not calibration:
    raise ExportError(
      'no utterance to calibrate eight bits on; give features of some dozens'
    )
  if not all(np.isfinite(x).all() for x in calibration):
    raise ExportError('features to calibrate on are not finite')
  shape = model.graph.input[0].type.tensor_type.shape
  width = shape.dim[-1].dim_value
  for x in calibration:
    if x.ndim != 2 or x.shape[1] != width:
      raise ExportError(
        f'features to calibrate on are of shape {x.shape}; want (frames, '
        f'{width}), an utterance each'
      )

  class Reader(quantization.CalibrationDataReader):
    def __init__(self):
      self._left = iter(calibration)

    def get_next(self):
      x_tf = next(self._left, None)
      if x_tf is None:
        return None
      return {
        'features': x_tf[None], 'lengths': np.array([len(x_tf)], np.int64)
      }  # fmt: skip

  copied = onnx.ModelProto()
  copied.CopyFrom(model)
  # There is nothing that its own preparation would fold or fuse.
  copied.metadata_props.add(
    key='onnx.quant.pre_process', value='onnxruntime.quant'
  )
  weights = {weight.name for weight in copied.graph.initializer}
  # Frames with frames, in attention: their kernel of whole numbers is no
  # faster, and probabilities are small numbers.
  dynamic = [
    node.name
    for node in copied.graph.node
    if node.op_type == 'MatMul' and not weights & set(node.input)
  ]
  with tempfile.TemporaryDirectory() as place:
    path = pathlib.Path(place, 'int8.onnx')
    quantization.quantize_static(
      copied,
      path,
      Reader(),
      op_types_to_quantize=['MatMul'],
      nodes_to_exclude=dynamic,
      per_channel=True,
      activation_type=quantization.QuantType.QUInt8,
      weight_type=quantization.QuantType.QInt8,
      extra_options={'OpTypesToExcludeOutputQuantization': ['MatMul']},
    )
    made = onnx.load(path)
  _lstm_weights(onnx, made.graph)
  _tell(onnx, model, made)
  onnx.checker.check_model(made, full_check=True)
  return made


def _lstm_weights(onnx, graph):
  """Puts the LSTM's weights to eight bits, and back before they are used."""
  weights = {weight.name: weight for weight in graph.initializer}
  for at, node in enumerate(list(graph.node)):
    if node.op_type != 'LSTM':
      continue
    for i in (1, 2):  # W and R [1, 4 h, k]
      name = node.input[i]
      w_1hk = onnx.numpy_helper.to_array(weights[name])
      scale_h = np.abs(w_1hk).max((0, 2)) / 127
      scale_h = np.where(scale_h > 0, scale_h, 1).astype(np.float32)
      whole_1hk = np.rint(w_1hk / scale_h[None, :, None]).astype(np.int8)
      graph.initializer.remove(weights[name])
      for part, value in (('int8', whole_1hk), ('scale', scale_h)):
        graph.initializer.append(
          onnx.numpy_helper.from_array(value, f'{name}/{part}')
        )
      back = onnx.helper.make_node(
        'DequantizeLinear',
        [f'{name}/int8', f'{name}/scale'],
        [f'{name}/float'],
        f'{name}/float',
        axis=1,
      )
      graph.node.insert(at, back)
      node.input[i] = f'{name}/float'
    return


def _tell(onnx, model, made):
  (text,) = (p.value for p in model.metadata_props if p.key == text_lib.KEY)
  told = text_lib.read(text, 'the model')[0] | {'precision': WHAT}
  del made.metadata_props[:]
  onnx.helper.set_model_props(made, {text_lib.KEY: text_lib.dumped(told)})
