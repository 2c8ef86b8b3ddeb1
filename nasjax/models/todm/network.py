"""Transducers with state-space encoders: the networks of TODM.

Shangguan et al. 2023, "TODM: Train Once Deploy Many": an encoder of `SSMLayer`s
whose feed-forward widths and number are what is searched, a predictor of three
LSTMs, and a joiner that adds the two up. The paper does not say what stands
between features and encoder: here frames are stacked, and a product brings them
to the encoder's channels where they have another number.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nasjax.layers import elastic, modules, ssm

PREDICTORS = ('lstm', 'stateless', 'separable')


class Choice(NamedTuple):
  """Which of an elastic encoder's networks runs.

  Attributes:
    width_n: int32, for each layer which of its widths.
    depth: int32, how many layers there are, from the first.
  """

  width_n: jax.Array
  depth: jax.Array


class Encoder(nn.Module):
  """Features to what the joiner adds up.

  Attributes:
    hidden: of the feed-forward part of each layer; for an elastic one the
      widths there are.
    channels: of every layer.
    joined: numbers of the output.
    stacked: frames that become one.
    heads, depth, gate, states, form, causal, rate: of `ssm.SSMLayer`.
    least: layers that no `Choice` leaves out.
    adaptive: of `ssm.SSMLayer`.
    padded: whether stacked frames are filled up with zeros, as in
      `macros.Todm`.
    exits: layers behind each of which there is an output of its own: what a
      `Choice` of that depth ends with.
  """

  hidden: tuple
  channels: int = 512
  joined: int = 1024
  stacked: int = 1
  heads: int = 1
  depth: int = 2
  gate: str = 'none'
  states: int = 32
  form: str = 'fft'
  causal: bool = False
  rate: float = 0.0
  least: int = 1
  adaptive: bool = True
  padded: bool = False
  exits: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x_btf, len_b, key=None, state=None, choice=None):
    """Runs it.

    Args:
      x_btf: features.
      len_b: frames of each utterance.
      key: of dropout, or None.
      state: to stream, a tuple of what `ssm.initial_state` returns for each
        layer, or what the call before returned; frames come in whole stacks.
      choice: `Choice`, for utterances as a whole; None for the largest network.

    Returns:
      enc_btd and its lengths; where a state is given, also the next one; else,
      where there are exits, also a tuple of enc_btd of each.
    """
    x_btc, len_b = stack(x_btf, len_b, self.stacked)
    if self.padded:
      spare = self.channels - x_btc.shape[-1]
      x_btc = jnp.pad(x_btc, ((0, 0), (0, 0), (0, spare)))
    elif x_btc.shape[-1] != self.channels:
      x_btc = modules.Dense(self.channels, name='front')(x_btc)
    states, inner = [], []
    for n, layer in enumerate(self.layers()):
      if state is None and choice is None:
        x_btc = layer(x_btc, len_b, key)
      elif state is None:
        x_btc = self._chosen(n, layer, x_btc, len_b, key, choice)
      else:
        x_btc, new = layer(x_btc, len_b, key, state[n])
        states.append(new)
      if n + 1 in self.exits:
        exit_ = modules.Dense(self.joined, name=f'exit{n + 1}')
        inner.append(exit_(x_btc))
    enc_btd = modules.Dense(self.joined, name='out')(x_btc)
    if state is not None:
      return enc_btd, len_b, tuple(states)
    if not self.exits:
      return enc_btd, len_b
    if choice is not None:
      for depth, exit_btd in zip(sorted(self.exits), inner):
        enc_btd = jnp.where(choice.depth == depth, exit_btd, enc_btd)
    return enc_btd, len_b, tuple(inner)

  def _chosen(self, n, layer, x_btc, len_b, key, choice):
    def run(layer, x_btc):
      return layer(x_btc, len_b, key, None, choice.width_n[n])

    if n < self.least or self.is_initializing():
      return run(layer, x_btc)
    # What is left out is not computed.
    return nn.cond(n < choice.depth, run, lambda _, x_btc: x_btc, layer, x_btc)

  def layers(self):
    """Makes the layers, in order."""
    return [
      ssm.SSMLayer(
        hidden,
        *(self.heads, self.depth, self.gate, self.states, self.form),
        *(self.causal, self.rate, 2 * n, self.adaptive),
        name=f'layer{n}',
      )
      for n, hidden in enumerate(self.hidden)
    ]


def alone(encoder, params, widths):
  """Returns one network of an elastic encoder by itself.

  Args:
    encoder: `Encoder`, elastic.
    params: of it.
    widths: of the layers that there are, from the first.

  Returns:
    `Encoder` and its parameters, views of those given.

  Raises:
    ValueError: a width is none of its layer's, or there are too many or too few
      layers.
  """
  widths = tuple(widths)
  if not encoder.least <= len(widths) <= len(encoder.hidden):
    raise ValueError(
      f'{len(widths)} layers; there are {encoder.least} to '
      f'{len(encoder.hidden)}'
    )
  kept = {
    k: v for k, v in params.items() if not k.startswith(('layer', 'exit'))
  }
  if len(widths) in encoder.exits:
    kept['out'] = params[f'exit{len(widths)}']
  for n, width in enumerate(widths):
    if width not in encoder.hidden[n]:
      raise ValueError(
        f'layer {n}: width {width} is none of {tuple(encoder.hidden[n])}'
      )
    layer = params[f'layer{n}']
    kept[f'layer{n}'] = layer | {'ffn': elastic.sliced(layer['ffn'], width)}
  plain = encoder.clone(hidden=widths, least=1, exits=(), parent=None)
  return plain, kept


def stack(x_btf, len_b, count):
  """Puts `count` frames into one; the last is filled up with zeros.

  Returns:
    x_btf and its lengths, ceil(len / count).
  """
  x_btf = modules.mask_frames(x_btf, len_b)
  if count == 1:
    return x_btf, len_b
  batch, frames, features = x_btf.shape
  x_btf = jnp.pad(x_btf, ((0, 0), (0, -frames % count), (0, 0)))
  x_btf = x_btf.reshape(batch, -(-frames // count), count * features)
  return x_btf, -(-len_b // count)


class Separable(nn.Module):
  """A convolution of each channel over labels said, and a product of channels.

  What came in is added to what they make of it.

  Attributes:
    context: labels that it knows, with the last one.
  """

  context: int

  @nn.compact
  def __call__(self, x_buc, before_bkc=None):
    """Runs it.

    Args:
      x_buc: input.
      before_bkc: of the labels before, context - 1 of them, what came in; None
        for the beginning, before which there are zeros.

    Returns:
      y_buc; where the labels before are given, y_buc and the last ones.
    """
    batch, columns, channels = x_buc.shape
    taps_kc = self.param(
      'taps',
      nn.initializers.normal(self.context**-0.5),
      (self.context, channels),
    )
    past_bkc = before_bkc
    if before_bkc is None:
      past_bkc = jnp.zeros((batch, self.context - 1, channels))
    past_bkc = jnp.concatenate([past_bkc, x_buc], axis=1)
    seen_buc = sum(
      past_bkc[:, k : k + columns] * taps_kc[k][None, None]
      for k in range(self.context)
    )
    y_buc = x_buc + nn.relu(modules.Dense(channels, name='mix')(seen_buc))
    return y_buc if before_bkc is None else (y_buc, past_bkc[:, columns:])


class Predictor(nn.Module):
  """Labels said so far to what goes into the joiner.

  Attributes:
    outputs: symbols, one of which (0) is the blank, and the beginning.
    channels: of the embedding and of the layers.
    joined: numbers of the output.
    kind: 'lstm'; 'stateless', which knows the last `context` labels alone
      (Ghodsi et al. 2020, "RNN-Transducer with Stateless Prediction Network");
      or 'separable', layers of `Separable` on one another.
    depth: LSTMs or `Separable`s on one another.
    context: labels that a stateless one, or each `Separable`, knows.
  """

  outputs: int
  channels: int = 512
  joined: int = 1024
  kind: str = 'lstm'
  depth: int = 3
  context: int = 2

  def setup(self):
    if self.kind not in PREDICTORS:
      raise ValueError(f'kind is {self.kind!r}; it must be one of {PREDICTORS}')
    self.embed = nn.Embed(self.outputs, self.channels)
    if self.kind == 'lstm':
      self.lstm = [modules.LSTM(self.channels) for _ in range(self.depth)]
    elif self.kind == 'separable':
      self.separable = [Separable(self.context) for _ in range(self.depth)]
    else:
      self.taps = self.param(
        'taps',
        nn.initializers.normal(self.context**-0.5),
        (self.context, self.channels),
      )
    self.out = modules.Dense(self.joined)

  def __call__(self, labels_bl):
    """Returns pred_bud, u from 0 to L labels said.

    Args:
      labels_bl: transcripts; what stands beyond their ends reaches only what
        comes behind it.
    """
    said_bu = jnp.pad(labels_bl, ((0, 0), (1, 0)))
    if self.kind != 'stateless':
      x_buc = self._embedded(said_bu)
      for layer in self._layers():
        x_buc = layer(x_buc)
      return self.out(x_buc)
    before = jnp.pad(said_bu, ((0, 0), (self.context - 1, 0)))
    columns = said_bu.shape[1]
    last_buk = jnp.stack(
      [before[:, k : k + columns] for k in range(self.context)], axis=-1
    )
    return self.out(self._mixed(last_buk))

  def step(self, state, label_b):
    """Goes on by one label; returns the state and pred_bd."""
    if self.kind == 'stateless':
      state = jnp.concatenate([state[:, 1:], label_b[:, None]], axis=1)
      return state, self.out(self._mixed(state[:, None]))[:, 0]
    x_b1c, states = self._embedded(label_b[:, None]), []
    for layer, before in zip(self._layers(), state):
      x_b1c, after = layer(x_b1c, before)
      states.append(after)
    return tuple(states), self.out(x_b1c)[:, 0]

  def _layers(self):
    return self.lstm if self.kind == 'lstm' else self.separable

  def _embedded(self, labels):
    # The loss tells of labels that there are not.
    return self.embed(jnp.clip(labels, 0, self.outputs - 1))

  def _mixed(self, last_buk):
    x_bukc = self._embedded(last_buk)
    return nn.relu((x_bukc * self.taps[None, None]).sum(axis=2))


def predictor_state(predictor, batch):
  """Returns the state before all labels, and the blank that begins them."""
  if predictor.kind == 'stateless':
    return jnp.zeros((batch, predictor.context), jnp.int32)
  if predictor.kind == 'separable':
    shape = batch, predictor.context - 1, predictor.channels
    return (jnp.zeros(shape),) * predictor.depth
  zeros_bc = jnp.zeros((batch, predictor.channels))
  return ((zeros_bc, zeros_bc),) * predictor.depth


def _added(enc_btud, pred_btud):
  return jnp.tanh(enc_btud + pred_btud)


def _multiplied(enc_btud, pred_btud):
  return jnp.tanh(enc_btud * pred_btud)


def _gated(enc_btud, pred_btud):
  (enc_btud, one), (pred_btud, other) = (
    jnp.split(x_btud, 2, axis=-1) for x_btud in (enc_btud, pred_btud)
  )
  share = nn.sigmoid(one + other)
  return share * jnp.tanh(enc_btud) + (1 - share) * jnp.tanh(pred_btud)


# What a joiner makes of the two before its product.
JOINERS = {'add': _added, 'multiply': _multiplied, 'gate': _gated}


class Joiner(nn.Module):
  """Scores of the symbols at a node, from encoder and predictor.

  Attributes:
    outputs: symbols.
    kind: 'add', the hyperbolic tangent of the sum; 'multiply', of the product
      (Saon et al. 2021, "Advancing RNN Transducer Technology for Speech
      Recognition"); 'gate', of either by itself, mixed by a gate between 0 and
      1 (Zhang et al. 2022, "Improving the Fusion of Acoustic and Text
      Representations in RNN-T"), which takes of both twice as many numbers.
  """

  outputs: int
  kind: str = 'add'

  @nn.compact
  def __call__(self, enc_btud, pred_btud):
    """Returns logits_btuv; either may be the same for all t, or all u."""
    x_btud = JOINERS[self.kind](enc_btud, pred_btud)
    batch, frames, columns, joined = x_btud.shape
    x_rud = x_btud.reshape(batch * frames, columns, joined)
    logits_ruv = modules.Dense(self.outputs, name='out')(x_rud)
    return logits_ruv.reshape(batch, frames, columns, self.outputs)


class Transducer(nn.Module):
  """The three parts, each to be run by itself: its scores would be large.

  Attributes:
    encoder, predictor: modules.
  """

  encoder: Encoder
  predictor: Predictor

  def setup(self):
    self.joiner = Joiner(self.predictor.outputs)

  def __call__(self, x_btf, len_b, labels_bl, key=None):
    """Returns enc_btd, its lengths, and pred_bud, for a loss with `join`."""
    enc_btd, len_b = self.encoder(x_btf, len_b, key)
    pred_bud = self.predictor(labels_bl)
    # So that there are parameters; nobody computes it.
    self.joiner(enc_btd[:, :1, None], pred_bud[:, None, :1])
    return enc_btd, len_b, pred_bud


def join(params, enc_btud, pred_btud, kind='add'):
  """The joiner as losses take it; `params` are those named 'joiner'."""
  outputs = params['out']['bias'].shape[-1]
  return Joiner(outputs, kind).apply({'params': params}, enc_btud, pred_btud)


# By its kind: each time the same function, for programs are kept by it.
JOINS = {kind: functools.partial(join, kind=kind) for kind in JOINERS}


def decoding(network, params, join=join):
  """Returns start, predict and join of a `decoding.transducer.Model`."""
  predictor = network.predictor.clone(parent=None, name=None)

  def predict(state, label_b):
    return predictor.apply(
      {'params': params['predictor']}, state, label_b, method='step'
    )

  def join_rows(enc_bd, pred_bd):
    logits_b11v = join(
      params['joiner'], enc_bd[:, None, None], pred_bd[:, None, None]
    )
    return logits_b11v[:, 0, 0]

  return (
    lambda batch: predictor_state(predictor, batch),
    predict,
    join_rows,
  )


def shapes(network, features):
  """Returns the parameters' shapes, of an input of so many features."""
  some = jax.eval_shape(
    network.init,
    jax.random.key(0),
    jnp.zeros((1, 8, features)),
    jnp.ones(1, jnp.int32),
    jnp.zeros((1, 1), jnp.int32),
  )
  return some['params']
