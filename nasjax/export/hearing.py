"""Exported networks that hear recordings, run by ONNX Runtime.

  network = hearing.load('heard.onnx')
  network.transcribe('audio.wav').text

The file is all that is needed. Features are made, and transcripts read out of
the logits, by the same code as for networks of JAX (`listening`).
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from nasjax import listening
from nasjax.export import text as text_lib
from nasjax.export.text import ExportError
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.programs import keeping
from nasjax.spaces import SPACES
from nasjax.training import recipes


def runtime():
  """Returns the package onnxruntime.

  Raises:
    ExportError: it is not installed.
  """
  try:
    import onnxruntime
  except ImportError:
    raise ExportError(
      "the package onnxruntime is not installed; pip install -e '.[export]'"
    ) from None
  return onnxruntime


def session(model, threads=0):
  """Returns an `onnxruntime.InferenceSession` on the CPU.

  Args:
    model: path of a file, or its bytes.
    threads: that an operator may use, 0 for one a core.

  Raises:
    ExportError: it is no file that ONNX Runtime can run.
  """
  library = runtime()
  options = library.SessionOptions()
  options.intra_op_num_threads = threads
  options.log_severity_level = 3  # errors alone
  what = 'the model'
  if not isinstance(model, bytes):
    what, path = str(model), pathlib.Path(model).expanduser()
    if not path.is_file():
      raise ExportError(f'no file {model}; experiments/export.py writes one')
    model = str(path)
  try:
    return library.InferenceSession(
      model, options, providers=['CPUExecutionProvider']
    )
  except Exception as e:  # the runtime's own kinds derive from no other
    reason = ' '.join(str(e).split())[:160]
    raise ExportError(
      f'{what} cannot be run by ONNX Runtime: {reason}'
    ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedNetwork(listening.TrainedNetwork):
  """A network in a file; what it does not have of a run is None.

  Attributes:
    session: `onnxruntime.InferenceSession`.
  """

  session: Any = None

  @property
  def pieces(self):
    return None

  @property
  def label(self):
    told = self.about
    seed = f', seed {self.seed}, recipe {self.recipe.name}'
    return f'{self.place}: {told["cell"]}{seed}, {told["precision"]}'

  def transcribe(self, audio, rate=None, **options):
    """Returns the `Transcript` of a recording; see `TrainedNetwork`."""
    if options.get('speaker') is not None:
      raise ValueError(
        f'{self.place} knows no speakers; leave speaker={options["speaker"]!r}'
      )
    return super().transcribe(audio, rate, **options)

  def logits(self, x_btf, len_b):
    """Returns logits_btv and the frames of each, NumPy.

    Args:
      x_btf: float32, normalised features.
      len_b: frames of each utterance.
    """
    inputs = {
      'features': np.asarray(x_btf, np.float32),
      'lengths': np.asarray(len_b, np.int64),
    }
    return self.session.run(('logits', 'logits_lengths'), inputs)

  def _hear(self, utterances, recipe, frames, batch=1):
    # Each by itself, as a device would: padding costs, and changes nothing.
    shape = batch, self.macro.output_frames(frames), self.macro.outputs
    logits_btv, len_b = np.zeros(shape, np.float32), np.zeros(batch, np.int32)
    for b, x_tf in enumerate(utterances):
      (found_tv,), (len_b[b],) = self.logits(x_tf[None], [len(x_tf)])
      logits_btv[b, : len_b[b]] = found_tv
    heard = jax.tree.map(np.asarray, _decoder(recipe)(logits_btv, len_b))
    return [self._transcript(heard, b) for b in range(len(utterances))]


@keeping.kept(64)
def _decoder(recipe):
  held = criterion.of(recipe)
  return jax.jit(lambda *outputs: held.hear(outputs, recipe))


def load(path, threads=0):
  """Returns the `ExportedNetwork` of a file.

  Args:
    path: of an ONNX file that `export.onnx.save` wrote.
    threads: as in `session`.

  Raises:
    ExportError: there is none, it cannot be run, has no text of nasjax in it,
      or one without features and alphabet.
  """
  found = session(path, threads)
  text = found.get_modelmeta().custom_metadata_map.get(text_lib.KEY)
  told, fitted, units = text_lib.read(text, path)
  if fitted is None or units is None or told['recipe'] is None:
    raise ExportError(
      f'{path} tells no features and no alphabet: exported without; write '
      'it by experiments/export.py, from a run'
    )
  if {value.name for value in found.get_inputs()} != {'features', 'lengths'}:
    raise ExportError(
      f'{path} takes samples, as other packages give them; take the file that '
      'takes features, which experiments/export.py writes beside it'
    )
  if told['space'] not in list(SPACES):
    raise ExportError(
      f'{path} is of space {told["space"]!r}, unknown here; there are '
      f'{", ".join(SPACES)}; give --own=FILE.py for one of your own'
    )
  space = SPACES[told['space']]
  try:
    macro = families.macro(space, told['macro'])
    recipe = recipes.Recipe(**told['recipe'])
    arch = space.parse(told['arch'])
    if len(units.symbols) + 1 != macro.outputs:
      raise ValueError(
        f'{len(units.symbols)} symbols of {macro.outputs} outputs, one of '
        'which is the blank'
      )
  except (AttributeError, TypeError, ValueError) as e:
    raise ExportError(
      f'{path}: its text of nasjax is damaged, or of another nasjax '
      f'({told["nasjax"]}): {e}; write the file again by experiments/export.py'
    ) from None
  return ExportedNetwork(
    *(None, None, None, space, arch, told['seed'], macro, recipe),
    *(told['epoch'], units, tuple(told['classes']), fitted),
    *(pathlib.Path(path), told),
    session=found,
  )
