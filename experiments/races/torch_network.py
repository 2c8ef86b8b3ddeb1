"""The NB-ASR network in PyTorch's own layers: what throughput.py races.

PyTorch is an optional requirement of that benchmark alone:
pip install torch==2.13.0

As fast as PyTorch's eager mode was found to be on two AVX-512 cores (batch 8,
200 frames): tensors are [b, c, 1, t] with channels last in memory, so that
convolutions, dense layers and layer norms all read them in place. Against
[b, c, t] and Conv1d with transposes a full-width step fell from 1.61 to 1.30 s
(three convolutions, all skips), 1.88 to 1.75 s (mixture) and 2.52 to 2.48 s
(three linear); fused Adam took 24 ms of it, foreach 84, plain 92.
"""

import torch
from torch import nn

from nasjax import spaces
from nasjax.kernels.taps import CONVOLUTIONS, reach


class ClippedConv(nn.Module):
  """Zero padding, convolution in time, ReLU clipped at 20."""

  def __init__(self, channels, width, kernel, dilation, stride, groups):
    super().__init__()
    self.pad = nn.ZeroPad2d((*reach(kernel, dilation, stride), 0, 0))
    self.conv = nn.Conv2d(
      channels, width, (1, kernel), (1, stride), 0, (1, dilation), groups
    )
    self.clip = nn.Hardtanh(0, 20, inplace=True)

  def forward(self, x):
    return self.clip(self.conv(self.pad(x)))


class OverChannels(nn.Module):
  """Applies a layer to the channels of each frame; moves no data."""

  def __init__(self, layer):
    super().__init__()
    self.layer = layer

  def forward(self, x):
    return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _operation(name, width, macro):
  if name == 'linear':
    # The clip changes the product itself, not a view of it.
    clip = nn.Hardtanh(0, 20, inplace=True)
    return OverChannels(nn.Sequential(nn.Linear(width, width), clip))
  kernel, dilation = CONVOLUTIONS[name]
  return ClippedConv(width, width, kernel, dilation, 1, macro.groups)


def _norm(width, macro):
  return OverChannels(nn.LayerNorm(width, eps=macro.epsilon))


class Cell(nn.Module):
  """Three nodes, each one operation and skips."""

  def __init__(self, arch, width, macro, rate):
    super().__init__()
    # Plain lists: torch.compile takes arrays for tensors, and graphs apart.
    self.skips = spaces.NB_ASR.skip_matrix(arch).tolist()
    self.nodes = nn.ModuleList(
      None
      if name == 'zero'
      else nn.Sequential(_operation(name, width, macro), nn.Dropout(rate))
      for name in spaces.NB_ASR.main_ops(arch)
    )
    self.norm = _norm(width, macro)

  def forward(self, x):
    xs = [x]
    for n, node in enumerate(self.nodes):
      terms = [past for m, past in enumerate(xs) if self.skips[n][m]]
      if node is not None:
        terms.insert(0, node(xs[-1]))
      y = terms[0] if terms else torch.zeros_like(x)
      for term in terms[1:]:
        y = y + term
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
      layers.append(_norm(width, macro))
      layers.extend(Cell(arch, width, macro, rate) for _ in range(cells))
      channels = width
    self.body = nn.Sequential(*layers)
    self.drop = nn.Dropout(rate)
    self.lstm = nn.LSTM(channels, macro.lstm, batch_first=True)
    self.head = nn.Linear(macro.lstm, macro.outputs)
    self.to(memory_format=torch.channels_last)

  def forward(self, x):
    x = self.body(x.transpose(1, 2).unsqueeze(2))
    return self.head(self.lstm(self.drop(x.squeeze(2).transpose(1, 2)))[0])


def loss_of(model, macro, x, labels):
  """Mean CTC loss over output frames + 1; utterances fill the batch."""
  batch, frames = x.shape[:2]
  out = macro.output_frames(frames)
  log_probs = model(x).log_softmax(-1).transpose(0, 1)
  nll = nn.functional.ctc_loss(
    log_probs,
    labels,
    torch.full((batch,), out),
    torch.full((batch,), labels.shape[1]),
    reduction='none',
  )
  return (nll / (out + 1)).mean()


def make_step(arch, macro, recipe, device):
  """Returns a function of one batch: loss, gradient, clipping, Adam."""
  model = Network(arch, macro, recipe.dropout).to(device)
  optimiser = torch.optim.Adam(
    model.parameters(), lr=recipe.lr, eps=recipe.adam_epsilon, fused=True
  )

  def step(x, labels):
    optimiser.zero_grad(set_to_none=True)
    loss = loss_of(model, macro, x, labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return loss.detach()

  return step
