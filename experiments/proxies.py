"""Zero-cost proxies on a table: does any tell better networks from worse?

  python experiments/proxies.py --flagfile=experiments/flags/proxies.flags

Every cell of --table is scored at initialisation, with --weights draws of its
weights and --batches batches of its corpus, and the scores are held against
what training gave: Spearman's correlation with accuracy on test, and whether a
proxy lies above the number of parameters and of multiply-accumulates. Killed,
the same command goes on after the last proxy.
"""

import itertools
import json
import math
import time

from absl import flags
from common import command, corpus_flags, device_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'table', 'experiments/tables/synthetic_timit', 'The table of trained cells.'
)
flags.DEFINE_string(
  'table_recipe', None, 'Its recipe; that of most epochs if not given.'
)
flags.DEFINE_string(
  'metric', None, 'Error rate on test, as wer; what decides if not given.'
)
flags.DEFINE_list('proxies', None, 'Names; all there are if not given.')
flags.DEFINE_integer('weights', 3, 'Draws of weights.', lower_bound=1)
flags.DEFINE_integer('batches', 3, 'Batches of training.', lower_bound=1)
flags.DEFINE_bool(
  'crossed',
  True,
  'Every batch with every draw of weights; else the first with the first, and '
  'so on.',
)
flags.DEFINE_integer(
  'utterances', 8, 'Utterances of a batch; two tell more than one.',
  lower_bound=2,
)  # fmt: skip
flags.DEFINE_integer(
  'frames', 300, 'Longest utterance of a batch, in frames.', lower_bound=1
)
flags.DEFINE_string('out', 'results/proxies', 'Where scores and figure go.')
flags.DEFINE_string('json', None, 'Where scores and correlations go.')
for _module in corpus_flags, device_flags:
  flags.adopt_module_key_flags(_module)


def wanted():
  """Returns the names of proxies wanted, with the baselines.

  Raises:
    ValueError: there is none of a name.
  """
  from nasjax.predictors import zero_cost

  names = list(zero_cost.NAMES) if FLAGS.proxies is None else FLAGS.proxies
  for name in names:
    if name not in zero_cost.NAMES:
      raise ValueError(
        f'--proxies: {name!r}; there are {", ".join(zero_cost.NAMES)}'
      )
  return list(dict.fromkeys([*names, *zero_cost.BASELINES]))


def batches(rows):
  """Returns --batches batches of the corpus that a table was trained on.

  Raises:
    ValueError: the corpus of the flags is another, or has too few utterances.
  """
  import numpy as np

  from nasjax.data import corpus as corpus_lib
  from nasjax.training import batches as batches_lib

  corpus = corpus_lib.load(
    corpus_flags.prepare(), frontend=corpus_flags.frontend()
  )
  trained = str(rows.column('corpus_fingerprint')[0])
  if corpus.fingerprint != trained:
    raise ValueError(
      f'{FLAGS.table} was trained on corpus {trained[:12]}, the flags make '
      f'{corpus.fingerprint[:12]}; give the corpus flags of the table'
    )
  split, size = corpus.train, FLAGS.utterances
  short = np.flatnonzero(np.asarray(split.frames_u) <= FLAGS.frames)
  if len(short) < size:
    raise ValueError(
      f'--frames={FLAGS.frames}: {len(short)} utterances of training are no '
      f'longer, --utterances={size} are wanted'
    )
  made = []
  for number in range(FLAGS.batches):
    rng = np.random.default_rng([number, size])
    chosen = rng.choice(short, size, replace=False)
    x_btf = np.zeros((size, FLAGS.frames, split.features.shape[1]), np.float32)
    labels_bl = np.zeros((size, max(map(len, split.labels))), np.int32)
    for b, u in enumerate(chosen):
      start, count = int(split.offset_u[u]), int(split.frames_u[u])
      x_btf[b, :count] = split.features[start : start + count]
      labels_bl[b, : len(split.labels[u])] = split.labels[u]
    made.append(
      batches_lib.Batch(
        x_btf,
        np.asarray(split.frames_u, np.int32)[chosen],
        labels_bl,
        np.array([len(split.labels[u]) for u in chosen], np.int32),
        np.ones(size, np.float32),
      )
    )
  return made


def scored(rows, archs, macro, names, path):
  """Returns `{name: score_rn}`, of all draws; those in a file are read.

  Raises:
    ValueError: the file is of another table or other flags.
  """
  import jax
  import numpy as np

  from nasjax.predictors import zero_cost
  from nasjax.storage import disk

  about = {
    'corpus': str(rows.column('corpus_fingerprint')[0]),
    'macro': macro.name,
    'cells': archs.tolist(),
    'draws': [FLAGS.weights, FLAGS.batches, FLAGS.utterances, FLAGS.frames]
    + ['crossed' if FLAGS.crossed else 'paired'],
  }
  held = {'about': about, 'scores': {}}
  if path.is_file():
    held = json.loads(path.read_text())
    for name, value in about.items():
      if held['about'].get(name) != value:
        raise ValueError(
          f'{path} has scores of another {name}; name another --out'
        )
  missing = [name for name in names if name not in held['scores']]
  made = batches(rows) if missing else []
  for name in missing:
    draws = list(itertools.product(made, range(FLAGS.weights)))
    if not FLAGS.crossed:
      draws = list(zip(made, range(FLAGS.weights)))
    if name in zero_cost.BASELINES:
      draws = draws[:1]
    started, score_rn = time.perf_counter(), []
    for batch, seed in draws:
      key = jax.random.key(seed)
      score_rn.append(
        zero_cost.score(name, rows.space, archs, macro, batch, key)
      )
    seconds = time.perf_counter() - started
    print(
      f'{name}: {len(draws)} x {len(archs)} networks in {seconds:.1f} s, '
      f'{60 * len(draws) * len(archs) / seconds:,.0f} a minute',
      flush=True,
    )
    # JSON has no infinity.
    held['scores'][name] = [
      [v if np.isfinite(v) else str(v) for v in score_n.tolist()]
      for score_n in score_rn
    ]
    disk.publish(path, json.dumps(held).encode())
  return {name: np.array(held['scores'][name], np.float64) for name in names}


def plain(estimate):
  """Returns an estimate for JSON, which has no NaN."""
  told = estimate._asdict().items()
  return {name: None if v != v else float(v) for name, v in told}


def verdict(found, baselines):
  """Says in one line whether any proxy lies above the baselines."""
  rest = {name: p for name, p in found.items() if p.gain is not None}
  above = [name for name, p in rest.items() if p.gain.low > 0]
  bars = ' and '.join(
    f'{name} ({found[name].correlation.value:.2f})' for name in baselines
  )
  if above:
    told = ', '.join(
      f'{name} (by {rest[name].gain.value:.2f} [{rest[name].gain.low:.2f}, '
      f'{rest[name].gain.high:.2f}])'
      for name in above
    )
    return f'yes: {told} lie above both {bars}'
  if not rest:
    return f'no proxy was scored beside {bars}'
  cells = next(iter(rest.values())).gain.n
  if all(math.isnan(p.gain.low) for p in rest.values()):
    return f'nobody can say: {cells} cells are too few for intervals'
  best = max(rest, key=lambda name: rest[name].gain.value)
  g = rest[best].gain
  return (
    f'no: none lies above both {bars}; the best, {best}, differs by '
    f'{g.value:.2f} [{g.low:.2f}, {g.high:.2f}]'
  )


def run():
  """Scores, correlates, draws."""
  corpus_flags.check()
  names, out = wanted(), command.directory('out')
  with command.exclusive(out):
    device_flags.configure(1)
    import numpy as np

    from nasjax import analysis, plots, table
    from nasjax.benchmark import latency
    from nasjax.predictors import zero_cost

    rows = table.open(FLAGS.table)
    macro = latency.macro_of(rows)
    if FLAGS.frontend is None:
      FLAGS.frontend = corpus_flags.frontend_for(macro.features, FLAGS.corpus)
    recipe = FLAGS.table_recipe or rows.recipes[-1]
    results = analysis.results(rows, recipe, FLAGS.metric)
    error_n = analysis.means(results.test_ns, results.has_ns)
    there_n = np.isfinite(error_n)
    archs = results.archs_nd[there_n]
    scores = scored(rows, archs, macro, names, out / 'scores.json')
    found = analysis.proxies(error_n[there_n], scores, zero_cost.BASELINES)
    for name, p in found.items():
      c = p.correlation
      draws = ''
      if len(p.each_r) > 1:
        draws = f'; single draws {p.each_r.min():.2f} to {p.each_r.max():.2f}'
      print(
        f'{name}: {c.value:.3f} [{c.low:.3f}, {c.high:.3f}]{draws}; the '
        f'network that it likes best has {p.first_r.mean():.2%}'
      )
    answer = verdict(found, zero_cost.BASELINES)
    print(f'Does any proxy beat parameters and MACs here? {answer}')
    figure = plots.correlations(
      {name: p.correlation for name, p in found.items()},
      title=f'Untrained networks and their accuracy after {recipe}',
    )
    plots.save(figure, out / 'proxies.png')
    if FLAGS.json:
      record = {
        'table': FLAGS.table,
        'recipe': recipe,
        'metric': rows.named(FLAGS.metric),
        'archs': archs.tolist(),
        'error': error_n[there_n].tolist(),
        'answer': answer,
        'proxies': {
          name: {
            'correlation': plain(p.correlation),
            'draws': [None if v != v else v for v in p.each_r.tolist()],
            'error_of_first': p.first_r.tolist(),
            'gain': None if p.gain is None else plain(p.gain),
            # The mean rank over draws, the highest for what should be best.
            'rank': analysis.mean_rank(scores[name]).tolist(),
          }
          for name, p in found.items()
        },
      }
      command.publish_json(FLAGS.json, record, allow_nan=False)


if __name__ == '__main__':
  command.run(run)
