"""Stages `torch` and `torch_compiled`: the same networks in PyTorch.

The network of `torch_network` on the same card and batch: float32 (products in
TF32, as JAX's own default is there) and bfloat16 by autocast. Eager, and by
`torch.compile`. One network at a time, which is what PyTorch trains.
"""

import importlib.util
import statistics
import time

from card import gpu_speed

_EAGER = (
  ('nb_asr', 'mixture', 'bfloat16'),
  ('small', 'mixture', 'bfloat16'),
  ('nb_asr', 'linear', 'bfloat16'),
  ('nb_asr', 'conv', 'bfloat16'),
  ('small', 'mixture', 'float32'),
  ('nb_asr', 'mixture', 'float32'),
  ('small', 'conv', 'bfloat16'),
  ('small', 'linear', 'bfloat16'),
)
_COMPILED = (
  ('small', 'mixture', 'bfloat16'),
  ('nb_asr', 'mixture', 'bfloat16'),
  ('nb_asr', 'linear', 'bfloat16'),
)
_REHEARSED = (('pocket', 'mixture', 'bfloat16'),)
_WARM_UP, _STEPS, _PASSES = 3, 10, 3


def torch(stage):
  _run(stage, _REHEARSED if stage.rehearse else _EAGER, compiled=False)


def torch_compiled(stage):
  _run(stage, _REHEARSED if stage.rehearse else _COMPILED, compiled=True)


def _run(stage, cells, compiled):
  if not importlib.util.find_spec('torch'):
    stage.publish({'skipped': 'PyTorch is not installed', 'rows': []})
    return
  import torch as torch_lib

  place = 'cpu' if stage.rehearse else 'cuda'
  # What JAX does on GPUs unless told otherwise: TF32 products.
  torch_lib.set_float32_matmul_precision('high')
  torch_lib.backends.cudnn.allow_tf32 = True
  torch_lib.backends.cudnn.benchmark = True
  found = {
    'torch': torch_lib.__version__,
    'device': 'cpu' if stage.rehearse else torch_lib.cuda.get_device_name(),
    'rows': [],
  }
  for setup in gpu_speed.setups(
    [(*c, 1, 'kept') for c in cells], stage.rehearse
  ):
    row = setup._asdict() | {'compiled': compiled}
    try:
      row |= _timed(setup, place, compiled)
    except Exception as e:  # one network must not end the stage
      row |= {'problem': f'{type(e).__name__}: {e}'[:500]}
    found['rows'].append(row)
    stage.publish(found)


def _timed(setup, place, compiled):
  """Returns seconds of the first step and milliseconds of later ones."""
  import torch as torch_lib
  from card import gpu_training
  from races import throughput_cells as cells_lib

  macro = gpu_training.MACROS[setup.macro]
  step = _step(setup, macro, place, compiled)
  x_btf, labels_bl = (
    torch_lib.tensor(whole).to(place)
    for whole in cells_lib.utterances(macro, setup.batch, setup.frames, 1)
  )

  def run(steps):
    started = time.perf_counter()
    for _ in range(steps):
      step(x_btf, labels_bl)
    if place == 'cuda':
      torch_lib.cuda.synchronize()
    return (time.perf_counter() - started) / steps

  first_s = run(1)
  run(_WARM_UP)
  step_s = statistics.median(run(_STEPS) for _ in range(_PASSES))
  row = {
    'first_s': first_s,
    'step_ms': 1e3 * step_s,
    'member_steps_per_second': 1 / step_s,
  }
  if place == 'cuda':
    row['peak_gb'] = torch_lib.cuda.max_memory_allocated() / 1e9
    torch_lib.cuda.reset_peak_memory_stats()
  return row


def _step(setup, macro, place, compiled):
  """As `torch_network.make_step`, by autocast in bfloat16, or compiled."""
  import torch as torch_lib
  from races import torch_network

  recipe = setup.recipe
  model = torch_network.Network(setup.arch, macro, recipe.dropout).to(place)
  run = torch_lib.compile(model) if compiled else model
  optimiser = torch_lib.optim.Adam(
    model.parameters(), lr=recipe.lr, eps=recipe.adam_epsilon, fused=True
  )
  rounds = setup.precision == 'bfloat16'

  def step(x_btf, labels_bl):
    optimiser.zero_grad(set_to_none=True)
    with torch_lib.autocast(place, torch_lib.bfloat16, enabled=rounds):
      loss = torch_network.loss_of(run, macro, x_btf, labels_bl)
    loss.backward()
    torch_lib.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()

  return step
