"""Exported networks in other people's packages, which load them as they are."""

import pathlib


def sherpa(network, models, place, calibration, said):
  """Writes a network as sherpa-onnx loads it, and hears with the package.

  Args:
    network: `listening.TrainedNetwork`.
    models: its `onnx.ModelProto`s by name, 'float32' and 'int8'.
    place: directory; each gets one of its name in it.
    calibration: int16 recordings of training utterances.
    said: utterances with `samples_n`, `labels` and `speaker`.

  Returns:
    a dict: `package`; `directory`; `rates`, error rates of a greedy search, by
    the package of each file, and of `network` under 'jax'. Without the package,
    or utterances, `rates` is None.
  """
  from nasjax.export import waves

  for name, made in models.items():
    waves.sherpa(pathlib.Path(place) / name, network, made, calibration)

  def hear():
    import sherpa_onnx

    for name in models:
      own = pathlib.Path(place, name)
      recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(own / 'model.onnx'), tokens=str(own / 'tokens.txt')
      )

      def tokens(full, recogniser=recogniser):
        stream = recogniser.create_stream()
        stream.accept_waveform(16_000, full)
        recogniser.decode_stream(stream)
        return stream.result.tokens

      yield name, tokens

  return _heard('sherpa-onnx', network, place, hear, said)


def onnx_asr(network, models, place, calibration, said):
  """Writes a network as onnx-asr loads it, and hears with it, as `sherpa`.

  Returns:
    as `sherpa`; `explained`, the share of the variance of the network's
    features that those of the package explain.

  Raises:
    ExportError: the package is not installed.
  """
  from nasjax.export import waves

  named = {'' if n == 'float32' else n: made for n, made in models.items()}
  explained = waves.onnx_asr(place, network, named, calibration)

  def hear():
    import onnx_asr

    for name in models:
      kind = None if name == 'float32' else name
      recogniser = onnx_asr.load_model(
        'nemo-conformer-ctc', place, quantization=kind
      ).with_timestamps()

      def tokens(full, recogniser=recogniser):
        return recogniser.recognize(full, sample_rate=16_000).tokens

      yield name, tokens

  found = _heard('onnx-asr', network, place, hear, said)
  return found | {'explained': float(explained)}


def _heard(package, network, place, hear, said):
  """Returns what the package hears, and the network itself, as `sherpa`."""
  import numpy as np

  from nasjax.export import waves

  found = {'package': package, 'directory': str(place), 'rates': None}
  if not said:
    return found
  lines = waves.tokens(network.symbols).splitlines()
  number = {line.split()[0]: int(line.split()[1]) for line in lines}
  heard = {}
  try:
    for name, tokens in hear():
      heard[name] = [
        # Between words they say a space.
        np.array(
          [
            number[token.strip() or waves.SPACE]
            for token in tokens(u.samples_n.astype(np.float32) / 32768) or ()
          ],
          np.int32,
        )
        for u in said
      ]
  except ImportError:
    return found
  xs = network.frontend.features(
    [u.samples_n for u in said], [u.speaker for u in said]
  )
  own = network.hear(xs, decoder='greedy', frames=max(map(len, xs)))
  heard = {'jax': [transcript.labels for transcript in own]} | heard
  refs = [u.labels for u in said]
  found['rates'] = {n: _rate(network, one, refs) for n, one in heard.items()}
  return found


def _rate(network, labels, refs):
  from nasjax.decoding import error_rates

  edits_k, of = error_rates.edits_by_kind(labels, refs, network.units.fold_v)
  return {
    'rate': float(edits_k.sum() / of),
    'errors': int(edits_k.sum()),
    'of': int(of),
  }


def told(record):
  """Returns a line of what `sherpa` or `onnx_asr` returned."""
  line = f'{record["package"]} loads {record["directory"]}'
  if record['rates'] is None:
    return f'{line}; nobody heard with it here'
  rates = (
    f'{name} {100 * one["rate"]:.2f} %' for name, one in record['rates'].items()
  )
  return f'{line}; by a greedy search {", ".join(rates)}'
