"""Released files into a benchmark table, and what their digits mean.

The digits of a released `arch_vec` have been read in two ways (WORKSPACE.md,
section 3), and no file says which is right:

- 'paper': a skip digit of 1 means present, and the d2 convolutions are dilated.
  So do the paper, the released hash and the released torch network.
- 'tensorflow': 0 means present, for the released TensorFlow network lists the
  identity first; and it never passes the dilation on, so that conv5d2 computes
  what conv5 does, and conv7d2 what conv7 does. The released results are said to
  be of this network, and the one FLOPs value known and the learning curves
  known agree.

Under 'tensorflow' the skip digits are flipped, since ours always mean present.
The d2 operations keep their names: with conv5 for conv5d2, up to eight released
trainings would be one row with eight results. Instead the macro network is
called `nb_asr_undilated`, so that no such row ever answers for, or is merged
with, a network that was dilated; `undilated` says which rows are one function.
Both steps can be undone, so nothing of a file is lost.
"""

import datetime
import json
import pathlib
from typing import NamedTuple

import numpy as np

import nasjax
from nasjax import table
from nasjax.models import macros
from nasjax.published import files as files_lib
from nasjax.published import together
from nasjax.published.files import SPACE
from nasjax.published.plain import PublishedError

CORPUS = 'timit'
FINGERPRINT = 'published'  # the utterances were not released
NAN_CURVES = ('train_loss', 'val_loss', 'learning_rate', 'epoch_seconds')


class Convention(NamedTuple):
  """How the digits of released cells are read.

  Attributes:
    name: as `convention=` has it.
    present: the skip digit that means present.
    macro: what tables call the macro network.
    dilation: what was done with the dilation of d2 operations.
  """

  name: str
  present: int
  macro: str
  dilation: str


CONVENTIONS = {
  c.name: c
  for c in (
    Convention('paper', 1, 'nb_asr', 'applied'),
    Convention('tensorflow', 0, 'nb_asr_undilated', 'ignored'),
  )
}


class Latencies(NamedTuple):
  """Latencies of cells on one device.

  Attributes:
    device: its released name, such as gtx-1080ti-fp32.
    archs_rd: the cells, int8, by our digits.
    seconds_r: float64.
  """

  device: str
  archs_rd: np.ndarray
  seconds_r: np.ndarray


class Conversion(NamedTuple):
  """What `convert` did.

  Attributes:
    path: of the table.
    convention: how digits were read.
    shards: names of its shards that came from the files.
    rows: how many trainings these have.
    latencies: of each device that the files have.
    counted: how many cells have params by formula, for want of released ones.
    deviating: how many cells have released params other than by formula.
    absent: released hashes of the space that no training file has, sorted.
  """

  path: pathlib.Path
  convention: Convention
  shards: tuple[str, ...]
  rows: int
  latencies: tuple[Latencies, ...]
  counted: int
  deviating: int
  absent: tuple[str, ...]


def convert(files, out, *, convention, passes=None):
  """Writes released files into a table.

  Recipes are called e40, e10, e5. What the files do not have is NaN: losses,
  learning rates, seconds. The epoch tested is by the released code's rule the
  last of those with the lowest validation PER. Parameters are the released ones
  where the files have static information, and by formula otherwise; MACs are by
  formula. The mark of a shard keeps the header and the SHA-256 of its file.

  Latencies are written for those devices only whose batch and frames are given,
  for a table must know them and the files do not tell. Nor do they tell how
  often a cell was timed: a latency is the median and both quartiles of one run.

  Every file is read and checked before anything is written; killed and called
  again, it goes on.

  Args:
    files: a folder, whose every `.pickle` is taken; one file; or a list.
    out: directory of the table; made if need be.
    convention: 'paper' or 'tensorflow', see above. There is no default: with
      the wrong one every skip is reversed.
    passes: a dict from names of devices to the utterances of a pass and the
      frames of each of them.

  Returns:
    A Conversion.

  Raises:
    PublishedError: a file is not as released, or they do not belong together.
    TableError: `out` has other rows of these trainings.
  """
  rule = _rule(convention)
  records = together.read_all(files)
  trainings = [r for r in records if r.kind == 'training']
  if not trainings:
    raise PublishedError(
      f'{records[0].path}: no training file (nb-asr-e40-1234.pickle) is among '
      f'the {len(records)} files; there is nothing to make rows of'
    )
  costs = _costs(records, trainings)
  latencies_ = _latencies(records, rule)
  passes = _passes(passes, latencies_)
  shards = []
  for record in trainings:
    rows = _rows(record, rule, costs)
    meta = _meta(record, rule, costs)
    shards.append(table.write_shard(out, record.name, rows, meta))
  for found in latencies_:
    if found.device in passes:
      name = f'latency-nb-asr-{found.device}'
      rows, meta = _latency_rows(found, rule, *passes[found.device])
      shards.append(table.write_shard(out, name, rows, meta))
  there = {h for record in trainings for h in record.hashes}
  return Conversion(
    pathlib.Path(out),
    rule,
    tuple(shard.name for shard in shards),
    sum(map(len, trainings)),
    latencies_,
    sum(not known for _, _, known, _ in costs.values()),
    sum(not agrees for _, _, _, agrees in costs.values()),
    tuple(sorted(files_lib.encodings().keys() - there)),
  )


def latencies(files, *, convention):
  """Reads the latencies of released files.

  A benchmark names cells by hash. Where that covers several cells, a training
  file among `files` must say which one was meant.

  Args:
    files, convention: as in `convert`.

  Returns:
    A tuple of Latencies, one a device, by name.
  """
  rule = _rule(convention)
  return _latencies(together.read_all(files), rule)


def cells(archs, *, convention):
  """Returns released cells by our digits, or ours by the released.

  Args:
    archs: many cells, see `Space.parse_all`.
    convention: as in `convert`.

  Returns:
    archs_pd, int8; the flip of skip digits is its own inverse.
  """
  return _flip(SPACE.parse_all(archs), _rule(convention))


def undilated(archs):
  """Returns cells with conv5 for conv5d2 and conv7 for conv7d2.

  Cells that then are equal were one network in the released TensorFlow code:
  between their released PERs should be no more than lies between seeds.

  Args:
    archs: many cells, see `Space.parse_all`.

  Returns:
    archs_pd, int8.
  """
  plain_o = np.array(
    [SPACE.ops.index(name.removesuffix('d2')) for name in SPACE.ops], np.int8
  )
  archs_pd = SPACE.parse_all(archs).copy()
  places = list(SPACE.op_positions)
  archs_pd[:, places] = plain_o[archs_pd[:, places]]
  return archs_pd


def _rule(convention):
  if not isinstance(convention, str) or convention not in CONVENTIONS:
    raise PublishedError(
      f'convention={convention!r}; give one of {", ".join(CONVENTIONS)}'
    )
  return CONVENTIONS[convention]


def _flip(archs_pd, rule):
  """Returns cells with skip digits of which 1 means present, or back again."""
  archs_pd = archs_pd.copy()
  if rule.present == 0:
    skips = [d for d in range(archs_pd.shape[1]) if d not in SPACE.op_positions]
    archs_pd[:, skips] = 1 - archs_pd[:, skips]
  return archs_pd


# Rows.


def _costs(records, trainings):
  """Returns costs of each cell by hash.

  Each is params, MACs, whether the params are released ones, and whether they
  are what the formula gives.
  """
  # They bring JAX, which reading does without.
  from nasjax import cost

  released = None
  for info in (r for r in records if r.kind == 'static'):
    released = dict(zip(info.hashes, info.columns['params'].tolist()))
    for record in trainings:
      if lacking := sorted(set(record.hashes) - released.keys()):
        raise PublishedError(
          f'{info.path} lacks {len(lacking)} cells of {record.path}: '
          f'{together.named(lacking)}'
        )
  costs = {}
  for record in trainings:
    for h, arch in zip(record.hashes, record.columns['arch_vec']):
      if h not in costs:
        # Skips cost nothing, nor does dilation: both conventions agree.
        counted = cost.params(SPACE, arch, macros.NB_ASR)
        macs = cost.macs(SPACE, arch, macros.NB_ASR, frames=200)
        params = counted if released is None else released[h]
        known, agrees = released is not None, params == counted
        costs[h] = (params, macs, known, agrees)
  return costs


def _rows(record, rule, costs):
  """Returns the table's columns of a training file."""
  count, epochs = len(record), record.header['epochs']
  archs_rd = _flip(record.columns['arch_vec'], rule)
  val_re = record.columns['val_per']
  recipe = {
    'name': f'e{epochs}',
    'epochs': epochs,
    'published': {
      'version': record.header['version'],
      'convention': rule.name,
      'dilation': rule.dilation,
    },
  }
  constant = {
    'space': SPACE.name,
    'seed': record.header['seed'],
    'recipe': recipe['name'],
    'recipe_json': json.dumps(recipe, sort_keys=True),
    'macro': rule.macro,
    'corpus': CORPUS,
    'corpus_fingerprint': FINGERPRINT,
    'epochs': epochs,
    'test_loss': np.nan,
    'seconds': np.nan,
    'status': 'ok',
    'diverged_epoch': None,
  } | _origin()
  unknown_e = np.full(epochs, np.nan)
  # Ties go to the latest epoch.
  best_r = epochs - np.argmin(val_re[:, ::-1], axis=1)
  return {name: [value] * count for name, value in constant.items()} | {
    'arch': list(archs_rd),
    'key': SPACE.keys(archs_rd).tolist(),
    'semantic_key': SPACE.semantic_keys(archs_rd).tolist(),
    **{name: [unknown_e] * count for name in NAN_CURVES},
    'val_per': list(val_re),
    'test_per': record.columns['test_per'].tolist(),
    'best_epoch': best_r.tolist(),
    'params': [costs[h][0] for h in record.hashes],
    'macs': [costs[h][1] for h in record.hashes],
  }


def _origin():
  """Returns what rows say of their making, by which conversion is meant."""
  return {
    'versions': json.dumps({'nasjax': nasjax.__version__}),
    'commit': 'unknown',
    'created': datetime.datetime.now(datetime.UTC).isoformat(),
  }


def _meta(record, rule, costs):
  """Returns what the mark of a shard says of the file it came from."""
  known = all(costs[h][2] for h in record.hashes)
  return {
    'source': record.path.name,
    'source_sha256': record.sha256,
    'header': record.header,
    'convention': rule._asdict(),
    'params': 'released' if known else 'by formula',
    'macs': 'by formula, 200 frames',
    'best_epoch': 'the last with the lowest val_per',
    'left_out': sorted(
      set(record.columns) - {'val_per', 'test_per', 'arch_vec'}
    ),
  }


def _latencies(records, rule):
  """Returns the latencies of Records."""
  of_hash = {
    h: arch
    for record in records
    if record.kind == 'training'
    for h, arch in zip(record.hashes, record.columns['arch_vec'])
  }
  found = []
  for record in sorted(records, key=lambda r: r.name):
    if record.kind != 'benchmarking':
      continue
    archs_rd = np.empty((len(record), len(SPACE.sizes)), np.int8)
    for r, h in enumerate(record.hashes):
      archs_rd[r] = of_hash[h] if h in of_hash else _only(record, r)
    found.append(
      Latencies(
        record.header['device'],
        _flip(archs_rd, rule),
        record.columns['latency'],
      )
    )
  return tuple(found)


def _only(record, r):
  """Returns the one cell that the hash of a row covers."""
  archs_pd = files_lib.encodings()[record.hashes[r]]
  if len(archs_pd) > 1:
    raise PublishedError(
      f'{record.path}, row {r}: model_hash {record.hashes[r]} covers '
      f'{len(archs_pd)} cells; add a training file, whose arch_vec tells which'
    )
  return archs_pd[0]


def _passes(passes, latencies_):
  """Checks what was said of batches and frames; returns it."""
  devices = [found.device for found in latencies_]
  for device, sizes in (passes or {}).items():
    if device not in devices:
      raise PublishedError(
        f'passes has {device!r}; the files have {", ".join(devices) or "none"}'
      )
    if len(sizes) != 2 or not all(type(n) is int and n >= 1 for n in sizes):
      raise PublishedError(
        f'passes of {device!r} is {sizes!r}; want (utterances, frames)'
      )
  return passes or {}


def _latency_rows(found, rule, batch, frames):
  """Returns the latency shard's columns of a device, and its mark's content."""
  constant = {
    'space': SPACE.name,
    'macro': rule.macro,
    'device': found.device,
    'batch': batch,
    'frames': frames,
    'runs': 1,
    'warmup': 0,
  } | _origin()
  seconds = found.seconds_r.tolist()
  rows = {name: [value] * len(seconds) for name, value in constant.items()} | {
    'arch': list(found.archs_rd),
    'semantic_key': SPACE.semantic_keys(found.archs_rd).tolist(),
    'median': seconds,
    'quartile_low': seconds,
    'quartile_high': seconds,
  }
  meta = {
    'convention': rule._asdict(),
    'unknown': ['runs', 'warmup', 'quartile_low', 'quartile_high'],
    'as_told': ['batch', 'frames'],
  }
  return rows, meta
