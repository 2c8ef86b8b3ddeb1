"""Files of device.py: eight bits, ONNX, what they hear, a log for drift."""

import csv
import io
import json

import numpy as np
from absl import flags
from studies import device_latency, onnx_files

import nasjax
from nasjax.analysis import drift as drift_lib
from nasjax.models import families
from nasjax.storage import disk

FLAGS = flags.FLAGS

ROLES = 'manual', 'found'
# Entries of the log that tell level and spread, and passes in an entry.
_FIRST, _PASSES = 50, 5
_FALSE_ALARMS = 0.01


class Files:
  """The manual network and the one that was found, as files.

  Args:
    study: `device_study.Study`.
    chosen: rows of both, `{role: row}`.
  """

  def __init__(self, study, chosen):
    self._study, self._chosen = study, chosen
    self._place = study.out / 'models'
    self._kept = study.out / 'exported.json'

  def path(self, role, precision='float32'):
    suffix = '' if precision == 'float32' else f'-{precision}'
    return self._place / f'{role}{suffix}.onnx'

  def exported(self):
    """Writes and measures files; returns a dict for each role."""
    steps = self._study.steps
    if not FLAGS.export:
      steps.say('no files, for --noexport was given')
      return {}
    disk.make_directory(self._place)
    found = {}
    if self._kept.exists():
      found = json.loads(self._kept.read_text())
    for role in ROLES:
      if role not in found:
        found[role] = self._measured(role)
        disk.publish(self._kept, json.dumps(found, indent=1).encode())
      self._tell(role, found[role])
    return found

  def _network(self, role):
    row = self._chosen[role]
    return nasjax.load_network(
      self._study.out, row['arch'], row['best_seed'],
      recipe=self._study.recipe.name,
    )  # fmt: skip

  def _measured(self, role):
    from nasjax.export import hearing, onnx, timing

    builder, network = self._study.work.builder, self._network(role)
    paths = {name: self.path(role, name) for name in ('float32', 'int8')}
    onnx.save_network(paths['float32'], network)
    some = onnx_files.utterances(builder, 'train', FLAGS.calibration)
    onnx.save_network(
      paths['int8'], network, onnx_files.features(network, some)
    )
    if role == 'found' and self._tuned():
      paths['tuned'] = self.path(role, 'tuned')
      tuned = self._trained_on(network)
      onnx.save_network(
        paths['tuned'], tuned, onnx_files.features(tuned, some)
      )
    loaded = {name: hearing.load(path) for name, path in paths.items()}
    said = onnx_files.utterances(builder, 'test', None)
    apart = onnx_files.apart(network, loaded, said[:4])
    rates = onnx_files.rates({'jax': network} | loaded, said)
    known = onnx_files.utterances(builder, 'validation', None)
    chosen = onnx_files.rates(loaded, known, network)
    return {
      'network': network.label,
      'seed': self._chosen[role]['best_seed'],
      'test': rates['jax'],
      'files': {
        name: timing.measured(
          path, FLAGS.frames, FLAGS.threads, FLAGS.runs, FLAGS.clock
        )
        | {
          'path': str(path),
          'bytes': path.stat().st_size,
          'apart': apart[name]['most'],
          'validation': chosen[name],
          'test': rates[name],
        }
        for name, path in paths.items()
      },
    }

  def _tuned(self):
    study = self._study
    if not FLAGS.fine_tune_epochs:
      return False
    able = families.family(study.space).eight_bits
    if not able:
      study.steps.say(
        f'networks of space {study.space.name} are not trained for eight bits'
      )
    return able

  def _trained_on(self, network):
    """Returns the network trained on for eight bits."""
    from nasjax.benchmark import fine_tuning

    study = self._study
    out = study.out / 'tuned'
    fine_tuning.run(
      network, study.work.corpus, out, FLAGS.fine_tune_epochs,
      metric=study.metric,
    )  # fmt: skip
    return nasjax.load_network(out)

  def _tell(self, role, record):
    metric = self._study.metric
    for name, file in record['files'].items():
      self._study.steps.say(
        f'{role}, {name}: {file["path"]}, {file["bytes"]:,} bytes, {metric} '
        f'{file["validation"]["rate"]:.2%} on validation, '
        f'{file["test"]["rate"]:.2%} on test ({file["test"]["errors"]} of '
        f'{file["test"]["of"]}), logits apart by at most {file["apart"]:.2g}, '
        f'real-time factor {file["real_time_factor"]:.5f}, '
        f'{file["peak_bytes"] / 2**20:.0f} MiB of memory'
      )

  def heard(self, small):
    """Lets files of what was found hear recordings of test.

    Args:
      small: which of eight bits, beside that of float32.

    Returns:
      what was said, and heard, a dict for each recording.
    """
    import soundfile

    from nasjax.data import corpus, features
    from nasjax.decoding import transcripts
    from nasjax.export import hearing

    place = self._study.out / 'recordings'
    disk.make_directory(place)
    networks = {
      name: hearing.load(self.path('found', name))
      for name in ('float32', small)
    }
    found = []
    test = corpus.utterances(self._study.work.builder, 'test')
    for n, one in zip(range(FLAGS.recordings), test):
      path = place / f'test{n + 1}.wav'
      payload = io.BytesIO()
      soundfile.write(
        payload, one.samples_n, features.SAMPLE_RATE, format='WAV'
      )
      disk.publish(path, payload.getvalue())
      symbols = networks['float32'].symbols
      said = transcripts.spelt(one.labels, symbols)
      heard = {
        name: network.transcribe(path).text
        for name, network in networks.items()
      }
      found.append({'recording': str(path), 'said': said, 'heard': heard})
      self._study.steps.say(
        f'{path}: said {said!r}, heard {heard["float32"]!r}; by eight bits '
        f'{heard[small]!r}'
      )
    return found

  def drift(self, predictor):
    """Logs passes of the network that was found, and looks for drift."""
    study = self._study
    path = study.out / 'latency_log.csv'
    row = self._chosen['found']
    if not path.exists():
      watch = device_latency.stopwatch(
        study.space, study.macro, FLAGS.watched * _PASSES
      )
      seconds = np.reshape(watch.passes(row['arch']), (-1, _PASSES))
      seconds = np.median(seconds, axis=1)
      disk.publish(path, _csv(row['arch'], seconds).encode())
    with path.open() as lines:
      seconds = [float(entry['seconds']) for entry in csv.DictReader(lines)]
    ratio_n = np.log(seconds / predictor.predict([row['arch']]))
    chart = drift_lib.chart(
      ratio_n[:_FIRST], len(ratio_n) - _FIRST, _FALSE_ALARMS
    )
    found = drift_lib.drift(ratio_n[_FIRST:], chart)
    told = 'no drift'
    if found.at is not None:
      told = (
        f'an alarm at entry {_FIRST + found.at + 1}: {found.ratio:.3f} of what '
        'it was'
      )
    command = (
      f'python experiments/drift.py --profile={study.out / "profile.json"} '
      f'--log={path} --predictor={predictor.name} --first={_FIRST}'
    )
    study.steps.say(
      f'{len(seconds)} entries, medians of {_PASSES} passes: measured is '
      f'{np.exp(chart.level):.3f} of predicted, spread {chart.spread:.1%}; '
      f'{told} (false alarms in {chart.false_alarms:.2%} of logs without drift)'
    )
    study.steps.say(f'watch with {command}')
    return {
      'log': str(path),
      'entries': len(seconds),
      'command': command,
      'level': float(np.exp(chart.level)),
      'spread': float(chart.spread),
      'false_alarms': float(chart.false_alarms),
      'drift': found.at is not None,
    }


def _csv(arch, seconds):
  lines = io.StringIO()
  rows = csv.writer(lines, lineterminator='\n')
  rows.writerow(('arch', 'seconds', 'device'))
  device = device_latency.device()
  rows.writerows((json.dumps(arch), f'{s:.9f}', device) for s in seconds)
  return lines.getvalue()
