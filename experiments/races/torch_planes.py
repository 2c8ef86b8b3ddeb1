"""The mixture of DARTS-ASR in PyTorch's own layers: what conv2d_speed.py races.

For batches whose utterances are all as long as the batch, where nothing has to
be masked: PyTorch's batch normalisation and pools know no lengths. On CPUs
tensors have their channels last in memory, as its convolutions want them.
"""

import torch
from torch import nn
from torch.nn import functional

from nasjax.spaces.darts_asr import CONVOLUTIONS


class Convolution(nn.Module):
  """Convolution, ReLU, batch normalisation."""

  def __init__(self, name, width):
    super().__init__()
    taps, dilation = CONVOLUTIONS[name]
    reach = taps // 2 * dilation
    self.conv = nn.Conv2d(width, width, taps, 1, reach, dilation)
    self.norm = nn.BatchNorm2d(width)

  def forward(self, x):
    return self.norm(functional.relu(self.conv(x)))


def _operation(name, width):
  if name in CONVOLUTIONS:
    return Convolution(name, width)
  if name == 'avg_pool3x3':
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
  if name == 'max_pool3x3':
    return nn.MaxPool2d(3, 1, 1)
  return nn.Identity()


class Network(nn.Module):
  """Features to logits.

  Args:
    macro: `macros.Graph`.
    ops: candidates of each edge, as `models.darts_asr.network.Network` has it.
  """

  def __init__(self, macro, ops):
    super().__init__()
    self.ops = ops
    side = macro.stride
    self.stem = nn.Conv2d(1, macro.width, side, side)
    self.edges = nn.ModuleList(
      nn.ModuleList(_operation(name, macro.width) for name in names)
      for names in ops
    )
    self.alpha = nn.ParameterList(torch.zeros(len(names)) for names in ops)
    nodes = 0
    while nodes * (nodes + 1) // 2 < len(ops):
      nodes += 1
    height = -(-macro.features // side)
    self.pad = 0, -macro.features % side, 0, 0
    self.side = side
    self.lstm = nn.LSTM(
      nodes * macro.width * height, macro.lstm, macro.lstms,
      batch_first=True, bidirectional=True,
    )  # fmt: skip
    self.head = nn.Linear(2 * macro.lstm, macro.outputs)

  def _mixed(self, e, x):
    operations = self.edges[e]
    if len(operations) == 1:
      return operations[0](x)
    weights = torch.softmax(self.alpha[e], 0)
    return sum(w * f(x) for w, f in zip(weights, operations))

  def forward(self, x_btf):
    x = functional.pad(x_btf, (0, self.pad[1], 0, -x_btf.shape[1] % self.side))
    tensors, e = [self.stem(x[:, None])], 0
    while e < len(self.ops):
      own = []
      for tensor in tensors:
        own.append(self._mixed(e, tensor))
        e += 1
      tensors.append(sum(own))
    h = torch.cat(tensors[1:], 1)  # [b, c, t, f]
    h = h.permute(0, 2, 3, 1).flatten(2)
    return self.head(self.lstm(h)[0])


def load(network, params):
  """Gives a network the parameters of ours, NumPy arrays."""

  def put(leaf, array):
    with torch.no_grad():
      leaf.copy_(torch.tensor(array))

  def conv(module, own):
    put(module.weight, own['kernel'].transpose(3, 2, 0, 1))
    put(module.bias, own['bias'])

  conv(network.stem, params['stem_conv'])
  for e, names in enumerate(network.ops):
    for name, module in zip(names, network.edges[e]):
      if name in CONVOLUTIONS:
        own = params[f'edge{e}_{name}']
        conv(module.conv, own)
        put(module.norm.weight, own['scale'])
        put(module.norm.bias, own['shift'])
  trunk = params['trunk']
  for n in range(network.lstm.num_layers):
    for way, end in ('forward', ''), ('backward', '_reverse'):
      own = trunk[f'blstm{n}'][way]
      put(getattr(network.lstm, f'weight_ih_l{n}{end}'), own['input_kernel'].T)
      put(
        getattr(network.lstm, f'weight_hh_l{n}{end}'), own['recurrent_kernel'].T
      )
      put(getattr(network.lstm, f'bias_ih_l{n}{end}'), own['bias'])
      put(getattr(network.lstm, f'bias_hh_l{n}{end}'), 0 * own['bias'])
  put(network.head.weight, trunk['head']['kernel'].T)
  put(network.head.bias, trunk['head']['bias'])


def stepper(macro, ops, params, x_btf, labels_bl, lr):
  """Returns a function that makes a training step and returns its loss."""
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  network = Network(macro, ops)
  load(network, params)
  network = network.to(device)
  if device == 'cpu':
    network = network.to(memory_format=torch.channels_last)
  x_btf = torch.tensor(x_btf, device=device)
  labels_bl = torch.tensor(labels_bl, device=device)
  batch, symbols = labels_bl.shape
  frames = macro.output_frames(x_btf.shape[1])
  alphas = list(network.alpha)
  known = {id(a) for a in alphas}
  weights = [p for p in network.parameters() if id(p) not in known]
  optimiser = torch.optim.SGD(weights, lr, 0.9, weight_decay=3e-4)
  searched = torch.optim.Adam(alphas, 1e-4, (0.5, 0.999), weight_decay=1e-3)

  def step():
    optimiser.zero_grad(set_to_none=True)
    searched.zero_grad(set_to_none=True)
    logits_tbv = network(x_btf).transpose(0, 1)
    loss = functional.ctc_loss(
      functional.log_softmax(logits_tbv, -1), labels_bl,
      torch.full((batch,), frames), torch.full((batch,), symbols),
      reduction='sum',
    )  # fmt: skip
    loss = loss / batch
    loss.backward()
    optimiser.step()
    if alphas[0].grad is not None:
      searched.step()
    if device == 'cuda':
      torch.cuda.synchronize()
    return loss.item()

  return step
