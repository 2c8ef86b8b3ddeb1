"""The way from a corpus to a network on a device, step by step."""

import dataclasses
import pathlib

import numpy as np
from absl import flags
from studies import (
  device_asked,
  device_files,
  device_latency,
  device_search,
  device_steps,
)

from nasjax import analysis
from nasjax.models import families
from nasjax.oneshot import sandwich
from nasjax.programs import energy

FLAGS = flags.FLAGS

# Networks whose neighbours are looked at for changes that change nothing.
_LOOKED_AT = 100
# How often the network to beat is timed, between the others of the profile.
_VISITS = 9
# Draws for one network under the limit, and networks timed for one that is
# trained, before fewer have to do.
_TRIES, _TIMED = 2000, 4


class Study:
  """What all steps share.

  Attributes:
    work: `jobs.Work`.
    space, macro, recipe, seeds: of all networks.
    manual: `{name: arch}`, the first the one to beat.
    out: directory.
    steps: `device_steps.Steps`.
  """

  def __init__(self, asked, manual, out):
    from common import jobs, training_flags  # defines flags

    self.asked, self.manual, self.out = asked, manual, out
    self.space, self.recipe = training_flags.space(), training_flags.recipe()
    self.seeds = training_flags.seeds()
    most = FLAGS.top + FLAGS.random + len(manual)
    self.work = jobs.prepare(self.recipe, most * len(self.seeds))
    self.macro, self.metric = self.work.job.macro, self.work.job.metric
    self.steps = device_steps.Steps(out / 'times' / 'steps.json')
    self.count = device_latency.counting(self.space, self.macro)

  @property
  def beaten(self):
    """The manual network to beat."""
    return next(iter(self.manual.values()))

  def run(self, record):
    """Takes all steps; returns what came out, plain values.

    Args:
      record: `command.Record`, written once the limit has proved good.
    """
    training = sandwich.Training(
      self.space,
      self.macro,
      dataclasses.replace(
        self.recipe, epochs=FLAGS.supernet_epochs or self.recipe.epochs
      ),
      device_asked.options(),
      self.seeds[0],
    )
    self._introduce()
    limit = predictor = None
    if self.asked.what == 'params':  # it can be said before all else
      (manual,) = self.count([self.beaten])
      limit = device_latency.limited(
        self.asked, self.space, self.count, float(manual)
      )
    predictor, judged = self._profile()
    limit = limit or self._limited(predictor)
    self.steps.say(
      f'networks may have at most {limit.most:.4g}{limit.unit}'
      f'{" as predicted" if limit.what == "latency" else ""}; '
      f'{self._name(self.beaten)} has {limit.manual:.4g}'
    )
    corpus = pathlib.Path(self.work.builder.data_dir).absolute()
    record.write(self.metric, prepared_corpus=str(corpus))
    evolved = self._evolved(training, limit)
    self._isomorphs()
    rows = self._trained(limit, predictor, evolved)
    self.steps.begin('export')
    files = device_files.Files(
      self, {role: chosen(rows, role) for role in device_files.ROLES}
    )
    exported, heard, small = files.exported(), [], None
    if exported:
      small = smaller(exported['found']['files'])
      self.steps.say(f'of eight bits validation chooses {small}')
      heard = files.heard(small)
    self.steps.begin('drift')
    drift = files.drift(predictor)
    return {
      'space': self.space.name,
      'macro': self.macro.name,
      'corpus': self.work.job.corpus_name,
      'metric': self.metric,
      'recipe': self.recipe.name,
      'seeds': list(self.seeds),
      'device': device_latency.device(),
      'frames': FLAGS.frames,
      'limit': {
        'what': limit.what, 'most': limit.most, 'manual': limit.manual,
        'asked': self.asked.flag,
      },
      'predictor': predictor.name,
      'predictors': judged,
      'evolution': {
        'networks': len(evolved.error_n),
        'supernet': evolved.supernet,
        'cost': evolved.cost_n.tolist(),
        'error': evolved.error_n.tolist(),
        'front': np.flatnonzero(evolved.front_n).tolist(),
        'front_archs': evolved.archs_nd[evolved.front_n].tolist(),
        'front_names': [
          self.space.names(arch) for arch in evolved.archs_nd[evolved.front_n]
        ],
      },
      'networks': rows,
      'compared': self._compared(rows, exported),
      'exported': exported,
      'eight_bits': small,
      'transcripts': heard,
      'drift': drift,
      'steps': self.steps.told(),
    }  # fmt: skip

  # The steps.

  def _introduce(self):
    steps, space = self.steps, self.space
    steps.begin('metrics')
    runs = 'ONNX Runtime' if FLAGS.runtime == 'onnx' else 'JAX'
    steps.say(
      f'{self.metric}; seconds of a pass of {FLAGS.frames / 100:g} s of speech '
      f'by {runs}; peak memory; bytes'
    )
    steps.say(energy.why_not() or 'joules of devices, for each step')
    steps.say(self._splits())
    steps.begin('space')
    elastic = families.elastic(space)
    least, most = self.count([elastic.smallest(space), elastic.largest(space)])
    steps.say(
      f'{space.name}: {len(space.fields)} decisions, {space.size:.3g} vectors, '
      f'networks of {least:,} to {most:,} parameters on macro {self.macro.name}'
    )
    for name, arch in self.manual.items():
      steps.say(f'{name}: {self._name(arch)}, {self.count([arch])[0]:,}')

  def _splits(self):
    corpus = self.work.corpus
    train, test = (
      set(split.speakers) - {''} for split in (corpus.train, corpus.test)
    )
    seen = 'nobody tells who speaks'
    if test:
      shared = len(test & train)
      seen = f'{shared} of its {len(test)} speakers stand in training'
    counts = (
      len(split.ids) for split in (corpus.train, corpus.validation, corpus.test)
    )
    return (
      '{} utterances for training, {} for every choice; the {} of test are for '
      f'what is told at the end alone, {seen}'
    ).format(*counts)

  def _profile(self):
    steps, space = self.steps, self.space
    steps.begin('profile')
    measured, again = (
      device_latency.Measured(self.out / name, space, self.macro)
      for name in ('profile.json', 'manual.json')
    )
    elastic = families.elastic(space)
    archs = [
      *self.manual.values(),
      elastic.smallest(space),
      elastic.largest(space),
      *device_latency.drawn(space, FLAGS.profiled, self.seeds[0]),
    ]
    from common import console

    with console.counter(f'measuring on {device_latency.device()}') as tick:
      for n, arch in enumerate(archs):
        tick(n, len(archs))
        measured.time(arch)
        # What machines do beside changes times by half; shares are of this one.
        while len(again.visits(self.beaten)) * len(archs) <= n * _VISITS:
          again.visit(self.beaten)
    ms = [1e3 * cell['seconds'] for cell in again.visits(self.beaten)]
    self.manual_ms = float(np.median(ms))
    steps.say(
      f'the manual network: {self.manual_ms:.3g} ms, the median of {len(ms)} '
      f'visits that found {min(ms):.3g} to {max(ms):.3g}'
    )
    profile = measured.profile()
    ms = 1e3 * profile.seconds_n
    steps.say(
      f'{len(ms)} networks on {profile.device}: {ms.min():.2f} to '
      f'{ms.max():.2f} ms, median {np.median(ms):.2f}'
    )
    predictor, judged = device_latency.fitted(
      profile, device_asked.predictors(), steps.say
    )
    steps.say(f'taken: {predictor.name}')
    return predictor, judged

  def _limited(self, predictor):
    def costs(archs):
      return 1e3 * predictor.predict(archs)

    return device_latency.limited(self.asked, self.space, costs, self.manual_ms)

  def _evolved(self, training, limit):
    steps = self.steps
    steps.begin('supernet')
    trainers = device_search.trained(training, self.work, self.out, steps)
    steps.begin('evolution')
    name = training.name(self.work.job.corpus_fingerprint)
    found = device_search.evolved(
      trainers, name, limit, list(self.manual.values()), self.out, steps
    )
    if not len(found.error_n):
      raise ValueError(
        'no network of the elastic one could be judged; train it for longer '
        '(--supernet_epochs), or at a lower rate'
      )
    steps.say(
      f'{len(found.error_n)} networks in {FLAGS.generations} generations, '
      f'{found.front_n.sum()} of them beaten by none; the best '
      f'{found.error_n[0]:.1%} {self.metric} on validation, '
      f'{found.cost_n[0]:.4g}{limit.unit}: {self._name(found.archs_nd[0])}'
    )
    return found

  def _isomorphs(self):
    steps = self.steps
    steps.begin('isomorphs')
    same, total = device_search.redundant(self.space, _LOOKED_AT, self.seeds[0])
    steps.say(
      f'{same} of {total} single changes of a network change no function '
      f'({same / total:.1%}); evolution takes networks of one function for one'
    )

  def _trained(self, limit, predictor, evolved):
    """Trains what was found, what people would take, and what chance takes.

    Returns:
      a dict of plain values for each network.
    """
    steps, space = self.steps, self.space
    steps.begin('training')
    measured = device_latency.Measured(
      self.out / 'measured.json', space, self.macro
    )
    roles = self._roles(limit, evolved, measured)
    from common import lab as lab_lib

    lab = lab_lib.Lab(self.work, self.out)
    lab.train(
      [(arch, seed) for arch in roles.values() for seed in self.seeds],
      steps.say,
    )
    found = []
    for role, arch in roles.items():
      timed = measured.time(arch)
      (predicted,) = 1e3 * predictor.predict([arch])
      validation, test = (
        [lab.value(arch, seed, column) for seed in self.seeds]
        for column in ('val_per', 'test_per')
      )
      same = space.semantic_keys(evolved.archs_nd) == space.semantic_key(arch)
      shared = evolved.error_n[same]
      found.append({
        'role': role,
        'arch': arch.tolist(),
        'names': space.names(arch),
        'params': int(self.count([arch])[0]),
        'within': bool(limit.costs([arch])[0] <= limit.most),
        'predicted_ms': float(predicted),
        'measured_ms': 1e3 * timed['seconds'],
        'measured_quartiles_ms': [
          1e3 * timed[name] for name in ('quartile_low', 'quartile_high')
        ],
        'real_time_factor': timed['real_time_factor'],
        'peak_bytes': timed.get('peak_bytes'),
        'shared_validation': float(shared[0]) if len(shared) else None,
        'validation': float(np.mean(validation)),
        'test': float(np.mean(test)),
        'test_of_seeds': test,
        'wer': self._wer(lab, arch),
        'best_seed': self.seeds[int(np.argmin(validation))],
      })  # fmt: skip
    self._told(found)
    return found

  def _wer(self, lab, arch):
    rates = lab.word_errors([arch], self.seeds)
    return None if rates is None else float(np.mean(rates))

  def _roles(self, limit, evolved, measured):
    """Returns the networks that are trained, `{role: arch}`."""
    space, steps = self.space, self.steps
    roles = {f'manual {name}': arch for name, arch in self.manual.items()}
    keys = {space.semantic_key(arch) for arch in roles.values()}
    top, over = [], []
    for arch in evolved.archs_nd:
      if len(top) == FLAGS.top or len(over) >= _TIMED * FLAGS.top:
        break
      if space.semantic_key(arch) in keys:
        continue
      seconds = measured.time(arch)['seconds']
      slow = limit.what == 'latency' and 1e3 * seconds > limit.most
      (over if slow else top).append(arch)
    if over:
      steps.say(
        f'{len(over)} networks passed over that take longer than was predicted'
      )
    if len(top) < FLAGS.top and over:
      steps.say(
        f'{FLAGS.top - len(top)} of them taken all the same: no others are left'
      )
      top += over[: FLAGS.top - len(top)]
    roles |= {f'found {n}': arch for n, arch in enumerate(top, 1)}
    if not top:
      raise ValueError(
        f'evolution found nothing but manual networks under {self.asked.flag}; '
        'give a higher limit, or more --generations'
      )
    keys |= {space.semantic_key(arch) for arch in top}
    rng = np.random.default_rng([self.seeds[0], 8])
    drawn = 0
    for _ in range(_TRIES * FLAGS.random):
      if drawn == FLAGS.random:
        break
      arch = rng.integers(0, space.sizes).astype(np.int8)
      key = space.semantic_key(arch)
      if key not in keys and limit.costs([arch])[0] <= limit.most:
        drawn += 1
        keys.add(key)
        roles[f'random {drawn}'] = arch
    if drawn < FLAGS.random:
      steps.say(f'chance found {drawn} networks under the limit')
    return roles

  def _told(self, rows):
    for row in sorted(rows, key=lambda row: row['validation']):
      self.steps.say(
        f'{row["role"]}: {self.metric} {row["validation"]:.2%} on validation, '
        f'{row["params"]:,} parameters, {row["measured_ms"]:.2f} ms measured, '
        f'{row["predicted_ms"]:.2f} predicted'
      )
    pairs = [
      (row['shared_validation'], row['validation'])
      for row in rows
      if row['shared_validation'] is not None
    ]
    rank = analysis.rank_correlation(*np.array(pairs).T)
    if rank.value == rank.value:
      self.steps.say(
        f'Spearman {rank.value:.2f} between the errors by shared weights and '
        f'from scratch, {len(pairs)} networks'
      )

  def _compared(self, rows, exported):
    """Returns the rows of the table manual against found."""
    table = []
    for role in device_files.ROLES:
      row = chosen(rows, role)
      files = exported.get(role, {}).get('files') or {'float32': {}}
      for precision, file in files.items():
        test = file.get('test')
        rate, interval = row['test'], None
        if test:
          rate = test['rate']
          share = analysis.share(min(test['errors'], test['of']), test['of'])
          interval = [share.low, share.high]
        table.append({
          'network': role,
          'role': row['role'],
          'precision': precision,
          'names': row['names'],
          'params': row['params'],
          'metric': self.metric,
          'error': rate,
          # As if symbols were wrong independently of each other.
          'interval': interval,
          'wer': row['wer'] if precision == 'float32' else None,
          'real_time_factor': file.get(
            'real_time_factor', row['real_time_factor']
          ),
          'latency_ms': 1e3 * file['seconds'] if file else row['measured_ms'],
          'peak_bytes': file.get('peak_bytes', row['peak_bytes']),
          'bytes': file.get('bytes', 4 * row['params']),
        })  # fmt: skip
    return table

  def _name(self, arch):
    return self.space.names(arch)


def smaller(files):
  """Returns which file of eight bits has the lowest validation error.

  Args:
    files: of the network that was found, by precision.
  """
  able = [name for name in files if name != 'float32']
  return min(able, key=lambda name: files[name]['validation']['rate'])


def chosen(rows, role):
  """Returns the network to beat, or that of those found which validation chose.

  Args:
    rows: of the networks that were trained.
    role: 'manual' or 'found'.
  """
  mine = [row for row in rows if row['role'].startswith(f'{role} ')]
  if role == 'manual':
    return mine[0]
  return min(mine, key=lambda row: (row['validation'], row['measured_ms']))
