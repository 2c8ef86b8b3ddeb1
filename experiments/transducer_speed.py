"""Times the transducer's loss, value and gradient, and tells its memory.

  python experiments/transducer_speed.py --json=results/transducer_speed.json

Four forms: from scores that are there (`plain`), from encoder and predictor by
a joiner that runs for some frames at a time (`chunked`), over the likeliest
paths alone (`pruned`), and chunked with how far a student is from its teacher
over the ten symbols that this one finds likeliest (`distilled`). Where
torchaudio can be imported its loss takes its turns on the same scores, and
behind the same joiner, on the same device, so that other work on the machine
meets all alike. The batch of the published
comparison on GPUs (csukuangfj/transducer-loss-benchmarking: 30 utterances of
train-clean-100, 500 symbols, a joiner of 512) is one of the longest there with

  --utterances=30 --frames=412 --labels=100 --symbols=500 --width=512

of which --topology=h100 asks that card's compiler: 5.0 GB from scores that are
there, gradient included, 0.41 GB chunked, 0.45 GB pruned, where the comparison
has 7.5 GB for the leanest loss over all paths and 3.8 GB for a pruned one.
`processor` is the least time of all cores together, which other work lengthens
less. The memory is that of the compiled program (XLA's analysis), arguments and
results included; nothing of --memory_vocabulary symbols is run.

Two cores of an AMD EPYC with eight times the work that they can do, 256
symbols, least of two, time passed and of the processor: plain 1.9 and 0.39 s,
torchaudio 2.11 27.9 and 5.9 s (the same value to 2e-7); chunked 31 and 6.6 s,
pruned 3.4 and 0.75 s, nearly all of it the joiner's products. 4,097 symbols,
scores of 6,398 MB: the program in chunks of 64 MB takes 283 MB, the pruned one
527 MB.
"""

import os
import time

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('json', None, 'Where the figures go.')
flags.DEFINE_integer('utterances', 16, 'Utterances a batch.', lower_bound=1)
flags.DEFINE_integer('frames', 400, 'Frames of each.', lower_bound=1)
flags.DEFINE_integer('labels', 60, 'Labels of each.', lower_bound=1)
flags.DEFINE_integer('symbols', 256, 'Symbols, blank included.', lower_bound=2)
flags.DEFINE_integer('width', 512, 'Numbers a node that the joiner adds up.', 1)
flags.DEFINE_string(
  'topology',
  None,
  'A chip that is not there, as in accelerators.py: its compiler says what the '
  'programs take of its memory, and nothing runs.',
)
flags.DEFINE_integer('rounds', 5, 'Times of each loss.', lower_bound=1)
flags.DEFINE_integer(
  'memory_vocabulary', 4097, 'Symbols for which memory is told.', lower_bound=2
)


def join(kernel_dv, enc_bt1d, pred_btud):
  """The joiner: an output layer over what both say."""
  import jax.numpy as jnp

  return jnp.tanh(enc_bt1d + pred_btud) @ kernel_dv


def forms(symbols):
  """Returns each form as a function, its inputs' shapes, and what is asked.

  Gradients are of the sum over the batch, by the first `count` arguments.
  """
  import jax
  import jax.numpy as jnp

  from nasjax.losses import distillation, transducer, transducer_pruned

  batch, frames, columns = FLAGS.utterances, FLAGS.frames, FLAGS.labels + 1
  rows = (
    jax.ShapeDtypeStruct((batch,), jnp.int32),
    jax.ShapeDtypeStruct((batch, FLAGS.labels), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )

  def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  joined = (
    floats(FLAGS.width, symbols),
    floats(batch, frames, FLAGS.width),
    floats(batch, columns, FLAGS.width),
  )
  simple = floats(batch, frames, symbols), floats(batch, columns, symbols)

  def distilled(kernel_dv, enc_btd, pred_bud, *rows):
    loss_b, _, apart_b = distillation.distilled_transducer_loss(
      join, (kernel_dv, -enc_btd, pred_bud), (kernel_dv, enc_btd, pred_bud),
      *rows, count=min(10, symbols - 1),
    )  # fmt: skip
    return (loss_b + apart_b).sum()

  found = {
    'plain': (
      lambda logits, *rows: transducer.transducer_loss(logits, *rows)[0].sum(),
      (floats(batch, frames, columns, symbols),),
    ),
    'chunked': (
      lambda *args: transducer.chunked_transducer_loss(join, *args)[0].sum(),
      joined,
    ),
    'pruned': (
      lambda *args: (
        transducer_pruned.pruned_transducer_loss(join, *args).total().sum()
      ),
      joined + simple,
    ),
    'distilled': (distilled, joined),
  }
  return {
    name: (
      jax.jit(jax.value_and_grad(function, tuple(range(len(inputs))))),
      inputs + rows,
    )
    for name, (function, inputs) in found.items()
  }


def drawn(shapes, symbols):
  """Draws inputs: full lengths, normal scores."""
  import jax.numpy as jnp
  import numpy as np

  rng = np.random.default_rng(0)
  *inputs, len_b, labels_bl, label_len_b = shapes
  return (
    *(jnp.asarray(rng.standard_normal(x.shape, np.float32)) for x in inputs),
    jnp.full(len_b.shape, FLAGS.frames, jnp.int32),
    jnp.asarray(rng.integers(1, symbols, labels_bl.shape), jnp.int32),
    jnp.full(label_len_b.shape, FLAGS.labels, jnp.int32),
  )


def theirs(inputs):
  """Returns torchaudio's losses, on JAX's kind of device, as functions.

  `torchaudio` is of scores that are there, `torchaudio joined` of the joiner's;
  each returns value and peak of the device's memory, None on CPUs. Empty
  without torchaudio.
  """
  import jax
  import numpy as np

  try:
    import torch
    from torchaudio.functional import rnnt_loss
  except ImportError:
    return {}
  on_gpu = jax.default_backend() == 'gpu' and torch.cuda.is_available()
  # What JAX does on GPUs unless told otherwise.
  torch.set_float32_matmul_precision('high')

  def tensors(name):
    return [
      torch.tensor(np.asarray(x), device='cuda' if on_gpu else 'cpu')
      for x in inputs[name]
    ]

  def scores(logits):
    return logits

  def join(kernel_dv, enc_btd, pred_bud):
    return torch.tanh(enc_btd[:, :, None] + pred_bud[:, None]) @ kernel_dv

  def loss(name, make):
    *args, len_b, labels_bl, label_len_b = tensors(name)
    for x in args:
      x.requires_grad_()

    def run():
      for x in args:
        x.grad = None
      if on_gpu:
        torch.cuda.reset_peak_memory_stats()
      rest = labels_bl, len_b, label_len_b
      total = rnnt_loss(make(*args), *rest, blank=0, reduction='sum')
      total.backward()
      value = total.item()
      return value, torch.cuda.max_memory_allocated() if on_gpu else None

    return run

  return {
    'torchaudio': loss('plain', scores),
    'torchaudio joined': loss('chunked', join),
  }


def program_bytes(program, shapes):
  """Returns the bytes of a program, on the devices of --topology if given."""
  import jax

  from nasjax.programs import chips
  from nasjax.programs import memory as memory_lib

  if FLAGS.topology:
    (device,) = chips.devices(FLAGS.topology, 1)
    place = jax.sharding.SingleDeviceSharding(device)
    shapes = [
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in shapes
    ]
  return memory_lib.program_bytes(program.lower(*shapes).compile())


def memory():
  """Returns bytes of each form's program at the vocabulary of the flag."""
  from nasjax.losses import transducer

  symbols = FLAGS.memory_vocabulary
  node = 4 * FLAGS.utterances * (FLAGS.labels + 1) * symbols
  found = {'logits': node * FLAGS.frames}
  found['chunk'] = node * max(1, transducer.CHUNK_BYTES // node)
  for name, (program, shapes) in forms(symbols).items():
    if name != 'plain':
      found[name] = program_bytes(program, shapes)
  return found


def compiled():
  """Returns the chip of --topology, and bytes of each form's program there."""
  return {
    'device': FLAGS.topology,
    'run_bytes': {
      name: program_bytes(program, shapes)
      for name, (program, shapes) in forms(FLAGS.symbols).items()
    },
  }


def measure():
  """Returns milliseconds and bytes of each form, and what values are off."""
  import jax
  import numpy as np

  programs = forms(FLAGS.symbols)
  inputs = {
    name: drawn(shapes, FLAGS.symbols) for name, (_, shapes) in programs.items()
  }
  runs = {
    name: lambda program=program, name=name: jax.block_until_ready(
      program(*inputs[name])
    )
    for name, (program, _) in programs.items()
  }
  values = {name: float(run()[0]) for name, run in runs.items()}
  found = {
    'device': jax.devices()[0].device_kind,
    'run_bytes': {
      name: program_bytes(*program) for name, program in programs.items()
    },
  }
  for name, run in theirs(inputs).items():
    runs[name] = run
    value, peak = run()
    ours = values['plain' if name == 'torchaudio' else 'chunked']
    found.setdefault('value_off', {})[name] = abs(ours / value - 1)
    if peak is not None:
      found['run_bytes'][name] = peak
  times = {name: [] for name in runs}
  for _ in range(FLAGS.rounds):
    for name, run in runs.items():
      start, busy = time.perf_counter(), time.process_time()
      run()
      ended = time.perf_counter() - start, time.process_time() - busy
      times[name].append([1e3 * seconds for seconds in ended])
  found['ms'] = {}
  for name, pairs in times.items():
    passed, busy = np.array(pairs).T
    values = passed.min(), np.median(passed), busy.min()
    found['ms'][name] = dict(
      zip(('least', 'median', 'processor'), np.round(values, 1).tolist())
    )
  return found


def show(found):
  """Prints the figures."""
  from rich.console import Console
  from rich.table import Table

  view = Table(title=f'value and gradient, {FLAGS.symbols} symbols, ms')
  for column in ('', 'least', 'median', 'processor'):
    view.add_column(column, justify='right' if column else 'left')
  for name, ms in found.get('ms', {}).items():
    view.add_row(name, *(f'{value:,.0f}' for value in ms.values()))
  console = Console(markup=False, emoji=False, highlight=False, width=80)
  if view.row_count:
    console.print(view)
  told = ', '.join(
    f'{name} {x / 1e6:,.0f} MB' for name, x in found['run_bytes'].items()
  )
  console.print(f'{FLAGS.symbols} symbols on {found["device"]}: {told}')
  megabytes = {name: x / 1e6 for name, x in found['bytes'].items()}
  console.print(
    f'{FLAGS.memory_vocabulary} symbols: all scores {megabytes["logits"]:,.0f} '
    f'MB; a chunk of them {megabytes["chunk"]:,.0f} MB, the program in chunks '
    f'{megabytes["chunked"]:,.0f} MB, pruned {megabytes["pruned"]:,.0f} MB'
  )
  if not FLAGS.topology and 'value_off' not in found:
    console.print('torchaudio is not installed: there is nothing beside it')


def run():
  """Measures, prints and writes."""
  if FLAGS.topology:
    from nasjax.programs import chips

    os.environ.update(chips.environment(FLAGS.topology))
  found = {'bytes': memory(), **(compiled() if FLAGS.topology else measure())}
  show(found)
  if FLAGS.json:
    command.publish_json(FLAGS.json, found)


if __name__ == '__main__':
  command.run(run)
