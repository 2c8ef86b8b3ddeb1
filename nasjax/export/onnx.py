"""Networks as ONNX files, written node by node.

  onnx.save('cell.onnx', space, arch, macro, params)
  onnx.save_network('heard.onnx', nasjax.load_network('results/quickstart'))

Standard operators of opset 17 alone, in float32: no scan, no switch, no loop
but the LSTM's own. Input are normalised features and the frames of each
utterance, any number of both; output are logits and their frames, equal to the
network's in every valid frame. `WRITERS` has the families that are written
today. `text` stands inside the file.
"""

import pathlib

from nasjax.export import conformer, nb_asr, st_nas
from nasjax.export import graph as graph_lib
from nasjax.export import text as text_lib
from nasjax.export.text import ExportError, UnsupportedError
from nasjax.models import families
from nasjax.models.conformer.network import Network as Conformer
from nasjax.models.nb_asr.network import Network as Cells
from nasjax.models.st_nas.network import Network as Tdnn
from nasjax.storage import disk

# How the networks of a family are written down.
WRITERS = {
  Cells: nb_asr.write,
  Tdnn: st_nas.write,
  Conformer: conformer.write,
}


def library():
  """Returns the package onnx.

  Raises:
    ExportError: it is not installed.
  """
  try:
    import onnx
  except ImportError:
    raise ExportError(
      "the package onnx is not installed; pip install -e '.[export]'"
    ) from None
  return onnx


def save(path, space, arch, macro, params, speech=None, calibration=None):
  """Writes a network as an ONNX file, whole or not at all.

  Args:
    path: of the file.
    space: search space.
    arch: one architecture of it, in any form that `space.parse` takes.
    macro: its macro network.
    params: of `families.single`, what `families.unpack` returns.
    speech: `text.Speech`, what the file shall know of features and alphabet;
      without it the file is a network that runs, and hears no recording.
    calibration: a list of features x_tf, float32 [frames, features]: the file
      has eight bits, with ranges of what it makes of these
      (`quantise.static`). None for float32.

  Returns:
    bytes of the file.

  Raises:
    UnsupportedError: no such network is written yet.
    ExportError: a package is missing, a parameter, or its shape is another; or
      the features to calibrate on are none of the network's.
  """
  path = pathlib.Path(path).expanduser()
  if not path.parent.is_dir():
    raise ExportError(f'{path}: no directory {path.parent}; make it')
  if path.is_dir():
    raise ExportError(f'{path} is a directory; name a file in it')
  made = model(space, arch, macro, params, speech)
  if calibration is not None:
    from nasjax.export import quantise

    made = quantise.static(made, calibration)
  payload = made.SerializeToString()
  disk.publish(path, payload)
  return len(payload)


def save_network(path, network, calibration=None):
  """Writes a `listening.TrainedNetwork` with all it needs; see `save`."""
  return save(
    path,
    *(network.space, network.arch, network.macro, network.params),
    text_lib.of_network(network),
    calibration,
  )


def writer(space):
  """Returns the entry of `WRITERS` for networks of a space.

  Raises:
    UnsupportedError: there is none.
  """
  write = WRITERS.get(families.family(space).Network)
  if write is None:
    able = [n for n, one in families.FAMILIES.items() if one.Network in WRITERS]
    raise UnsupportedError(
      f'networks of space {space.name} cannot be written as ONNX yet; those of '
      f'{", ".join(able)} can'
    )
  return write


def model(space, arch, macro, params, speech=None):
  """Returns the `onnx.ModelProto` that `save` writes in float32."""
  onnx = library()
  families.check(space, macro)
  write, arch = writer(space), space.parse(arch)
  graph = graph_lib.Graph(onnx, params)
  write(graph, space, arch, macro, families.family(space).ops(space, arch))
  told = text_lib.written(space, arch, macro, speech)
  made = graph.model(macro)
  onnx.helper.set_model_props(made, {text_lib.KEY: text_lib.dumped(told)})
  onnx.checker.check_model(made, full_check=True)
  return made
