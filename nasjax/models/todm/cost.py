"""What transducers with state-space encoders cost, by formula."""


def params(network, features):
  """Counts trainable parameters of a `network.Transducer`, by its parts.

  Args:
    network: `network.Transducer`.
    features: of its input.

  Returns:
    dict of int: encoder, predictor and joiner. With channels for features
    (512) and 4,097 outputs 99.82 M together for 16 layers of 4,096, 41.04 M for
    16 of 512 and 29.05 M for nine of those, as the paper's 99.9, 41.1 and 29.1.
  """
  encoder, predictor = network.encoder, network.predictor
  return {
    'encoder': encoder_params(encoder, features),
    'predictor': predictor_params(predictor),
    'joiner': dense(encoder.joined, predictor.outputs),
  }


def dense(inputs, outputs):
  """A product and its bias."""
  return (inputs + 1) * outputs


def feed_forward(channels, hidden):
  return dense(channels, hidden) + dense(hidden, channels)


def ssm(channels, states, causal=False):
  """`layers.ssm.SSM`: step and skip, decay, frequency and complex output."""
  ways = 1 if causal else 2
  heads = channels * (2 + 2 * (states // 2) + 2 * (states // 2))
  return ways * heads + dense(ways * channels, channels)


def mhssm(encoder):
  """`layers.ssm.MHSSM` of an encoder's layers."""
  channels, heads = encoder.channels, encoder.heads
  share = channels // heads
  total = heads * encoder.depth * ssm(share, encoder.states, encoder.causal)
  if heads == 1:
    return total
  kept = heads if encoder.gate == 'none' else heads // 2
  return total + dense(channels, channels) + dense(kept * share, channels)


def layer(encoder, hidden):
  """A layer of the encoder, its two normalisations among it.

  An elastic one, with several hidden widths, has the parameters of the widest.
  """
  channels = encoder.channels
  hidden = hidden if isinstance(hidden, int) else hidden[-1]
  return 4 * channels + mhssm(encoder) + feed_forward(channels, hidden)


def encoder_params(encoder, features):
  features = features * encoder.stacked
  total = sum(layer(encoder, hidden) for hidden in encoder.hidden)
  if features != encoder.channels and not encoder.padded:
    total += dense(features, encoder.channels)
  outputs = 1 + len(encoder.exits)
  return total + outputs * dense(encoder.channels, encoder.joined)


def predictor_params(predictor):
  channels = predictor.channels
  total = predictor.outputs * channels + dense(channels, predictor.joined)
  if predictor.kind == 'stateless':
    return total + predictor.context * channels
  if predictor.kind == 'separable':
    one = predictor.context * channels + dense(channels, channels)
    return total + predictor.depth * one
  return total + predictor.depth * dense(2 * channels, 4 * channels)


def encoder_macs(encoder, features, frames):
  """Counts multiply-accumulates of products with weights; see `cost.macs`.

  A state-space model counts as the recurrence that it is: of each of its
  complex states six a frame, four to go on and two for the output.

  Args:
    encoder: `network.Encoder`.
    features: of its input.
    frames: of its output.
  """
  channels = encoder.channels
  ways = 1 if encoder.causal else 2
  share = channels // encoder.heads
  one = ways * share * (6 * (encoder.states // 2) + share)
  heads = encoder.heads * encoder.depth * one
  if encoder.heads > 1:
    kept = encoder.heads if encoder.gate == 'none' else encoder.heads // 2
    heads += channels * channels + kept * share * channels
  each = sum(heads + 2 * channels * hidden for hidden in encoder.hidden)
  if features * encoder.stacked != channels and not encoder.padded:
    each += features * encoder.stacked * channels
  return frames * (each + channels * encoder.joined)


def predictor_macs(predictor):
  """Counts those of one label."""
  channels = predictor.channels
  total = channels * predictor.joined
  if predictor.kind == 'stateless':
    return total + predictor.context * channels
  if predictor.kind == 'separable':
    one = (predictor.context + channels) * channels
    return total + predictor.depth * one
  return total + predictor.depth * 8 * channels * channels
