"""The NB-ASR network in PyTorch's own layers: what throughput.py races.

PyTorch is an optional requirement of that benchmark alone:
pip install torch==2.13.0
"""

import torch
from torch import nn

from nasjax import ops as ops_lib
from nasjax import spaces


class ClippedConv(nn.Module):
  """Zero padding, convolution in time, ReLU clipped at 20. Layout [b, c, t]."""

  def __init__(self, channels, width, kernel, dilation, stride, groups):
    super().__init__()
    self.pad = nn.ConstantPad1d(ops_lib.reach(kernel, dilation, stride), 0.0)
    self.conv = nn.Conv1d(channels, width, kernel, stride, 0, dilation, groups)

  def forward(self, x):
    return torch.clamp(self.conv(self.pad(x)), 0, 20)


class ClippedLinear(nn.Module):
  """Dense layer over channels, ReLU clipped at 20. Layout [b, c, t]."""

  def __init__(self, width):
    super().__init__()
    self.linear = nn.Linear(width, width)

  def forward(self, x):
    y = self.linear(x.transpose(1, 2)).transpose(1, 2)
    return torch.clamp(y, 0, 20)


class ChannelNorm(nn.Module):
  """Layer normalisation over channels of [b, c, t]."""

  def __init__(self, width, epsilon):
    super().__init__()
    self.norm = nn.LayerNorm(width, eps=epsilon)

  def forward(self, x):
    return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Cell(nn.Module):
  """Three nodes, each one operation and skips."""

  def __init__(self, arch, width, macro, rate):
    super().__init__()
    self.skips = spaces.NB_ASR.skip_matrix(arch)
    self.ops = nn.ModuleList()
    for name in spaces.NB_ASR.main_ops(arch):
      if name == 'zero':
        self.ops.append(None)
        continue
      if name == 'linear':
        op = ClippedLinear(width)
      else:
        kernel, dilation = ops_lib.CONVOLUTIONS[name]
        op = ClippedConv(width, width, kernel, dilation, 1, macro.groups)
      self.ops.append(nn.Sequential(op, nn.Dropout(rate)))
    self.norm = ChannelNorm(width, macro.epsilon)

  def forward(self, x):
    xs = [x]
    for n, op in enumerate(self.ops):
      y = torch.zeros_like(x) if op is None else op(xs[-1])
      for m, past in enumerate(xs):
        if self.skips[n, m]:
          y = y + past
      xs.append(y)
    return self.norm(xs[-1])


class Network(nn.Module):
  """Features [b, t, f] to logits [b, t', v]."""

  def __init__(self, arch, macro, rate):
    super().__init__()
    layers, channels = [], macro.features
    for width, cells, stride in zip(
      macro.filters, macro.cells, macro.strides, strict=True
    ):
      layers.append(ClippedConv(channels, width, macro.kernel, 1, stride, 1))
      layers.append(ChannelNorm(width, macro.epsilon))
      layers.extend(Cell(arch, width, macro, rate) for _ in range(cells))
      channels = width
    self.body = nn.Sequential(*layers)
    self.drop = nn.Dropout(rate)
    self.lstm = nn.LSTM(channels, macro.lstm, batch_first=True)
    self.head = nn.Linear(macro.lstm, macro.outputs)

  def forward(self, x):
    x = self.body(x.transpose(1, 2)).transpose(1, 2)
    return self.head(self.lstm(self.drop(x))[0])


def make_step(arch, macro, recipe, device):
  """Returns a function of one batch: loss, gradient, clipping, Adam."""
  model = Network(arch, macro, recipe.dropout).to(device)
  optimiser = torch.optim.Adam(
    model.parameters(), lr=recipe.lr, eps=recipe.adam_epsilon
  )
  kernels = [m.weight for m in model.modules() if isinstance(m, nn.Conv1d)]

  def step(x_btf, len_b, labels_bl, label_len_b):
    optimiser.zero_grad(set_to_none=True)
    logits = model(x_btf).log_softmax(-1).transpose(0, 1)
    out_b = macro.output_frames(len_b)
    nll_b = nn.functional.ctc_loss(
      logits, labels_bl, out_b, label_len_b, reduction='none'
    )
    loss = (nll_b / (out_b + 1)).mean()
    if recipe.l2:
      loss = loss + recipe.l2 * sum(w.square().sum() for w in kernels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return loss.detach()

  return step
