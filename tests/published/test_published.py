"""The released files: what is read, how it is converted, what is refused."""

import hashlib
import json
import pathlib
import pickle

import numpy as np
import pytest
import tiny_run
from published_files import (
  CONV,
  CONV_E40,
  CONV_HASH,
  GPU,
  LATENCY,
  MIXED,
  MIXED_E40,
  MIXED_HASH,
  NANO,
  SPACE,
  ZERO,
  benchmarking,
  release,
  static,
  training,
  write,
  write_all,
)

from nasjax import cost, models, published, table

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'released').mkdir()
  return write_all(tmp_path / 'released')


# Reading and converting.


@pytest.mark.parametrize('number', [float, np.float32, np.float64])
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_readme_values_come_back(tmp_path, protocol, number):
  (tmp_path / 'in').mkdir()
  write_all(tmp_path / 'in', protocol, number)
  done = published.convert(
    tmp_path / 'in', tmp_path / 'out', convention='paper'
  )
  assert (done.rows, done.counted, done.deviating) == (12, 0, 1)
  t = table.open(done.path)
  assert t.recipes == ('e5', 'e40') and t.seeds == (1234, 1235, 1236)

  def ask(cell, column, seed, recipe='e40', **more):
    return t.query(cell, column, seed=seed, recipe=recipe, **more)

  def same(found, printed):
    # As float32 where the file has that, and as it prints anyhow.
    assert found == float(number(printed))
    assert np.float32(found) == np.float32(printed)

  for seed, (at_epoch, tested) in CONV_E40.items():
    assert ask(CONV, 'test_per', seed) == tested
    for epoch, per in at_epoch.items():
      same(ask(CONV, 'val_per', seed, epoch=epoch), per)
  for epoch, per in enumerate(MIXED_E40, start=1):
    same(ask(MIXED, 'val_per', 1236, epoch=epoch), per)
  same(ask(MIXED, 'val_per', 1236, epoch='best'), 0.22275354)
  assert ask(MIXED, 'best_epoch', 1236) == 39
  assert ask(MIXED, 'test_per', 1236) == 0.24767844378948212
  assert ask(CONV, 'test_per', 1234, 'e5') == 0.3227997124195099
  same(ask(CONV, 'val_per', 1234, 'e5', epoch='last'), 0.3053065)
  assert ask(CONV, 'params', 1234) == 26_338_848
  assert ask(MIXED, 'params', 1234) == 43_100_448


def test_a_record_has_what_the_file_has(folder):
  path = folder / 'nb-asr-e40-1236.pickle'
  record = published.read(path)
  assert (record.kind, len(record)) == ('training', 3)
  assert record.header == training(40, 1236)[0]
  assert record.hashes[:2] == (CONV_HASH, MIXED_HASH)
  assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
  assert record.columns['arch_vec'][1].tolist() == [0, 1, 1, 1, 0, 4, 1, 0, 1]
  assert record.columns['val_per'].shape == (3, 40)
  assert record.columns['test_per'][1] == 0.24767844378948212
  info = published.read(folder / 'nb-asr-info.pickle')
  assert info.columns['flops'].tolist()[1] == 3_845_877_266
  assert info.columns['params'].dtype == np.int64
  bench = published.read(folder / f'nb-asr-bench-{NANO}.pickle')
  assert bench.columns['latency'][1] == 0.578345775604248
  assert 'nb-asr-bench' in repr(bench) and '3 rows' in repr(bench)


@pytest.mark.parametrize('kind', [np.int64, np.int32, np.uint8, np.int16])
def test_numpy_integers_and_other_sequences(tmp_path, kind):
  h, rows = training(5, 1234)
  h['columns'] = tuple(h['columns'])
  rows = [
    (key, tuple(val), test, [list(map(kind, node)) for node in cell])
    for key, val, test, cell in rows
  ]
  record = published.read(*release(tmp_path, (h, rows)))
  assert record.columns['arch_vec'][1].tolist() == [0, 1, 1, 1, 0, 4, 1, 0, 1]


def test_what_only_one_file_has_is_kept(tmp_path):
  h, rows = static()
  h = h | {'columns': [*h['columns'], 'note'], 'made': '2021-07'}
  rows = [[*row, {'n': None}] for row in rows]
  record = published.read(*release(tmp_path, (h, rows)))
  assert record.columns['note'] == ({'n': None},) * 3
  assert record.header['made'] == '2021-07'


def test_tensorflow_flips_skips_and_keeps_names(folder, tmp_path):
  paths = release(tmp_path, training(40, 1236, [CONV, MIXED]))
  done = published.convert(paths, tmp_path / 'out', convention='tensorflow')
  t = table.open(done.path)
  ours = [[0, 0], [1, 0, 1], [4, 0, 1, 0]]
  assert t.query(ours, 'test_per', seed=1236) == 0.24767844378948212
  with pytest.raises(table.MissingEntryError):
    t.query(MIXED, 'test_per', seed=1236)
  all_skips = [[1, 1], [1, 1, 1], [1, 1, 1, 1]]
  assert t.query(all_skips, 'test_per', seed=1236) == CONV_E40[1236][1]
  assert set(t.column('macro')) == {'nb_asr_undilated'}
  # An undilated conv7d2 must not answer for conv7, nor conv7 for it.
  with pytest.raises(table.MissingEntryError):
    t.query([[0, 0], [1, 0, 1], [3, 0, 1, 0]], 'test_per', seed=1236)
  recipe = json.loads(t.column('recipe_json')[0])
  assert recipe['published']['dilation'] == 'ignored'
  assert t.shards[0].meta['convention']['present'] == 0
  assert t.shards[0].meta['source_sha256'] == published.read(*paths).sha256

  for found, (device, seconds) in zip(
    published.latencies(folder, convention='tensorflow'), LATENCY.items()
  ):
    assert found.device == device
    assert found.seconds_r.tolist() == list(seconds.values())
    assert SPACE.nested(found.archs_rd[1]) == ours
  there = published.cells([MIXED, CONV], convention='tensorflow')
  assert SPACE.nested(there[0]) == ours
  back = published.cells(there, convention='tensorflow')
  np.testing.assert_array_equal(back, SPACE.parse_all([MIXED, CONV]))
  kept = published.cells([MIXED, CONV], convention='paper')
  np.testing.assert_array_equal(kept, SPACE.parse_all([MIXED, CONV]))


def test_undilated_names_what_tensorflow_could_not_tell_apart():
  archs_pd = SPACE.enumerate()
  found_pd = published.undilated(archs_pd)
  names = {'conv5d2': 'conv5', 'conv7d2': 'conv7'}
  for p in range(0, len(archs_pd), 97):
    wanted = [names.get(name, name) for name in SPACE.main_ops(archs_pd[p])]
    assert list(SPACE.main_ops(found_pd[p])) == wanted
  np.testing.assert_array_equal(
    SPACE.skip_matrices(found_pd), SPACE.skip_matrices(archs_pd)
  )
  assert len(np.unique(found_pd, axis=0)) == 4**3 * 2**6


@pytest.mark.parametrize('convention', [None, 'torch', '', 1, ['paper']])
def test_a_convention_must_be_said(folder, tmp_path, convention):
  with pytest.raises(TypeError, match='convention'):
    published.convert(folder, tmp_path / 'out')
  with pytest.raises(published.PublishedError, match='paper, tensorflow'):
    published.convert(folder, tmp_path / 'out', convention=convention)
  assert not (tmp_path / 'out').exists()


def test_converting_again_and_otherwise(folder, tmp_path):
  out = tmp_path / 'out'
  first = published.convert(folder, out, convention='paper')
  before = {p.name: p.read_bytes() for p in out.glob('*.*')}
  again = published.convert(folder, out, convention='paper')
  assert again.shards == first.shards and len(again.shards) == 4
  with pytest.raises(table.ConflictError, match='other results'):
    published.convert(folder, out, convention='tensorflow')
  assert {p.name: p.read_bytes() for p in out.glob('*.*')} == before


def test_nothing_is_invented(tmp_path):
  content = training(5, 1234)
  content[1][0][1] = [0.9, 0.3, 0.5, 0.3, 0.4]
  paths = release(tmp_path, content)
  done = published.convert(paths, tmp_path / 'out', convention='paper')
  t = table.open(done.path)
  for name in ('train_loss', 'val_loss', 'learning_rate', 'epoch_seconds'):
    assert np.isnan(t.curves(name)).all() and t.curves(name).shape == (3, 5)
  assert np.isnan(t.column('test_loss')).all()
  assert np.isnan(t.column('seconds')).all()
  assert set(t.column('commit')) == {'unknown'}
  # The released code tests the last of the best epochs.
  assert t.query(CONV, 'best_epoch', seed=1234) == 4
  # Without static information parameters are counted, and it is said.
  counted = [cost.params(SPACE, c, models.NB_ASR) for c in (CONV, MIXED, ZERO)]
  assert t.column('params').tolist() == counted
  assert t.shards[0].meta['params'] == 'by formula'
  assert (done.counted, done.deviating, done.latencies) == (3, 0, ())
  keys = set(SPACE.keys(SPACE.enumerate()).tolist())
  assert done.absent == tuple(sorted(keys - {CONV_HASH, MIXED_HASH}
                                     - {SPACE.key(ZERO)}))  # fmt: skip


def test_latencies_are_written_when_their_passes_are_told(folder, tmp_path):
  out = tmp_path / 'out'
  for wrong in ({'cpu': (1, 100)}, {GPU: (0, 100)}, {GPU: (32,)}):
    with pytest.raises(published.PublishedError, match='passes'):
      published.convert(folder, out, convention='paper', passes=wrong)
  assert not out.exists()
  done = published.convert(
    folder, out, convention='paper', passes={GPU: (32, 100)}
  )
  assert done.shards[-1] == f'latency-nb-asr-{GPU}'
  t = table.open(out)
  found = t.latency(MIXED, device=GPU, batch=32, frames=100)
  assert found == 0.04792499542236328
  with pytest.raises(table.MissingEntryError):
    t.latency(MIXED, device=NANO)


# Files that are not as released.


def _changed(content, path, value):
  """Returns a content with one value replaced; None removes a dict's entry."""
  copy = list(pickle.loads(pickle.dumps(content)))
  *way, last = path
  place = copy
  for step in way:
    place = place[step]
  if value is None and isinstance(place, dict):
    del place[last]
  else:
    place[last] = value
  return copy


HEADERS = {
  'no type': ('dataset_type', None, "lacks 'dataset_type'"),
  'type': ('dataset_type', 'testing', "'testing'"),
  'type list': ('dataset_type', ['training'], 'training'),
  'no version': ('version', None, "lacks 'version'"),
  'future': ('version', 3, "'version' in the header is 3"),
  'version float': ('version', 1.0, "'version' in the header is 1.0"),
  'version bool': ('version', True, "'version' in the header is True"),
  'columns': ('columns', 'model_hash', "'columns' in the header"),
  'order': (
    'columns', ['model_hash', 'test_per', 'val_per', 'arch_vec'], 'begins with',
  ),
  'few': ('columns', ['model_hash', 'val_per', 'test_per'], 'begins with'),
  'twice': ('columns', ['model_hash'] * 4, "'columns' in the header"),
  'no epochs': ('epochs', None, "lacks 'epochs'"),
  'epochs': ('epochs', 0, "'epochs' in the header is 0"),
  'epochs text': ('epochs', '5', "'epochs' in the header is '5'"),
  'many epochs': ('epochs', 10**9, "'epochs' in the header"),
  'seed': ('seed', -1, "'seed' in the header is -1"),
  'seed float': ('seed', 1234.0, "'seed' in the header is 1234.0"),
  'large seed': ('seed', 2**31, "'seed' in the header"),
  'no space': ('search_space', None, "lacks 'search_space'"),
  'space list': ('search_space', [6, 2], "'search_space' in the header"),
  'shape': ('search_space', {'shape': [[6, 2]]}, "'shape' of the search space"),
  'NaN': ('extra', float('nan'), 'no JSON'),
  'huge': ('extra', 'x' * 100_000, 'header has'),
}  # fmt: skip


@pytest.mark.parametrize('name', HEADERS)
def test_headers_refused(tmp_path, name):
  entry, value, part = HEADERS[name]
  content = _changed(training(5, 1234), (0, entry), value)
  path = write(tmp_path / 'file.pickle', content)
  with pytest.raises(published.PublishedError, match='file.pickle') as e:
    published.read(path)
  assert part in str(e.value)


@pytest.mark.parametrize(
  'entry, value',
  [('ops', ['linear', 'conv5', 'conv5d2', 'conv7', 'zero', 'conv7d2']),
   ('nodes', 4), ('nodes', True), ('nodes', 3.0), ('nodes', None)],
)  # fmt: skip
def test_other_search_spaces_refused(tmp_path, entry, value):
  content = _changed(training(5, 1234), (0, 'search_space', entry), value)
  path = write(tmp_path / 'file.pickle', content)
  with pytest.raises(published.PublishedError, match=f'{entry!r} of the sear'):
    published.read(path)


def test_devices_refused(tmp_path):
  for value in ('', '../gpu', 'a b', 7, 'x' * 65, None):
    content = _changed(benchmarking(GPU), (0, 'device'), value)
    path = write(tmp_path / 'file.pickle', content)
    with pytest.raises(published.PublishedError, match="'device'"):
      published.read(path)


NAN, INF = float('nan'), float('inf')
ROWS = {
  'short row': ((1, 1), [CONV_HASH], 'does not have the 4 values'),
  'text row': ((1, 1), 'abcd', 'does not have the 4 values'),
  'other hash': ((1, 1, 0), CONV_HASH, 'both have model_hash'),
  'unknown hash': ((1, 1, 0), 'f' * 32, 'want a hash'),
  'no hash': ((1, 1, 0), 7, 'want a hash'),
  'hash of another': ((1, 1, 3), [(2, 0), (1, 0, 0), (1, 0, 0, 0)], 'arch_vec'),
  'short curve': ((1, 1, 1), [0.5] * 4, 'a list of 5 fractions'),
  'long curve': ((1, 1, 1), [0.5] * 6, 'a list of 5 fractions'),
  'no curve': ((1, 1, 1), 0.5, 'a list of 5 fractions'),
  'NaN in curve': ((1, 1, 1, 2), NAN, 'val_per of epoch 3 is nan'),
  'text in curve': ((1, 1, 1, 2), '0.5', "val_per of epoch 3 is '0.5'"),
  'list in curve': ((1, 1, 1, 2), [0.5], 'val_per of epoch 3 is'),
  'negative': ((1, 1, 1, 0), -0.01, 'val_per of epoch 1 is -0.01'),
  'percent': ((1, 1, 1, 0), 24.3, 'val_per of epoch 1 is 24.3'),
  'NaN': ((1, 1, 2), NAN, 'test_per is nan'),
  'infinite': ((1, 1, 2), INF, 'test_per is inf'),
  'truth': ((1, 1, 2), True, 'test_per is True'),
  'nothing': ((1, 1, 2), None, 'test_per is None'),
  'op': ((1, 1, 3, 0), (6, 1), 'op1'),
  'negative op': ((1, 1, 3, 0), (-1, 1), 'op1'),
  'skip': ((1, 1, 3, 0), (0, 7), 's00'),
  'truth digit': ((1, 1, 3, 0), (0, True), 's00'),
  'float digit': ((1, 1, 3, 0), (0.0, 1), 'op1'),
  'two nodes': ((1, 1, 3), [(0, 1), (1, 1, 0)], '3 nodes'),
  'flat': ((1, 1, 3), [0, 1, 1, 1, 0, 4, 1, 0, 1], '3 nodes'),
  'no cell': ((1, 1, 3), 'linear', '3 nodes'),
  'rows': ((1,), {'a': 1}, 'want a list'),
  'no rows': ((1,), [], 'want a list'),
}


@pytest.mark.parametrize('name', ROWS)
def test_rows_refused(tmp_path, name):
  path, value, part = ROWS[name]
  content = _changed(training(5, 1234), path, value)
  path = write(tmp_path / 'nb-asr-e5-1234.pickle', content)
  with pytest.raises(published.PublishedError, match='e5-1234.pickle') as e:
    published.read(path)
  assert part in str(e.value)
  assert name in ('rows', 'no rows', 'other hash') or ', row 1:' in str(e.value)


@pytest.mark.parametrize(
  'content, value',
  [(benchmarking(GPU), v) for v in (0.0, -1.0, NAN, INF, 1, '0.1', None)]
  + [(static(), v) for v in (0, -1, 1.5, True, '26338848', 2**63 - 1 + 1)],
)
def test_values_of_other_kinds_refused(tmp_path, content, value):
  path = write(tmp_path / 'file.pickle', _changed(content, (1, 2, 1), value))
  with pytest.raises(published.PublishedError, match='file.pickle.*'):
    published.read(path)


def test_files_of_other_names_and_ends(folder, tmp_path):
  right = folder / 'nb-asr-e40-1234.pickle'
  data = right.read_bytes()
  for name in ('nb-asr-e40-1235', 'nb-asr-info', f'nb-asr-bench-{GPU}'):
    (tmp_path / f'{name}.pickle').write_bytes(data)
    with pytest.raises(published.PublishedError, match='e40-1234.pickle; ren'):
      published.read(tmp_path / f'{name}.pickle')
  (tmp_path / 'mine').write_bytes(data)
  assert len(published.read(tmp_path / 'mine')) == 3
  right.write_bytes(data + pickle.dumps([]))
  with pytest.raises(published.PublishedError, match='bytes follow'):
    published.read(right)
  right.unlink()
  (folder / 'nb-asr-extra.pickle').write_bytes(data)
  with pytest.raises(published.PublishedError, match='nb-asr-extra.pickle'):
    published.convert(folder, tmp_path / 'out', convention='paper')
  with pytest.raises(published.PublishedError, match='no .pickle'):
    published.convert(ROOT / 'tests', tmp_path / 'out', convention='paper')
  with pytest.raises(published.PublishedError, match='no files'):
    published.convert([], tmp_path / 'out', convention='paper')
  with pytest.raises(OSError, match='nothing'):
    published.convert(
      tmp_path / 'nothing', tmp_path / 'out', convention='paper'
    )
  with pytest.raises(published.PublishedError, match='no plain file'):
    published.read(folder)
  assert not (tmp_path / 'out').exists()


def _refused(tmp_path, contents, part, names=None):
  paths = release(tmp_path, *contents)
  for path, name in zip(paths, names or ()):
    path.rename(tmp_path / name)
  paths = [tmp_path / name for name in names] if names else paths
  with pytest.raises(published.PublishedError) as e:
    published.convert(paths, tmp_path / 'out', convention='paper')
  assert all(p in str(e.value) for p in part), str(e.value)
  assert not (tmp_path / 'out').exists()


def test_files_must_belong_together(tmp_path):
  a, b = training(5, 1234), training(5, 1235)
  _refused(tmp_path, [a, _changed(b, (0, 'version'), 2)], ['version', '1235'])
  _refused(tmp_path, [a, _changed(b, (0, 'extra'), 1)], ['extra', '1235'])
  # Cells that only one of two seeds has, in either order.
  few = training(5, 1235, [CONV, ZERO])
  part = ['e5-1235.pickle lacks 1', MIXED_HASH, '[0, 1]']
  _refused(tmp_path, [a, few], part)
  _refused(tmp_path, [few, a], part)
  info = static([CONV, ZERO])
  _refused(tmp_path, [a, info], ['nb-asr-info.pickle lacks 1', MIXED_HASH])
  _refused(tmp_path, [info], ['no training file'])
  # Another budget may have other cells.
  paths = release(tmp_path, a, training(40, 1234, [CONV]))
  done = published.convert(paths, tmp_path / 'out', convention='paper')
  assert done.rows == 4


def test_one_training_twice(tmp_path):
  content = training(5, 1234)
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  paths = release(tmp_path / 'a', content) + release(tmp_path / 'b', content)
  with pytest.raises(published.PublishedError, match='both are nb-asr-e5-1234'):
    published.convert(paths, tmp_path / 'out', convention='paper')


def test_one_hash_must_mean_one_cell(tmp_path):
  twin = next(
    tuple(map(tuple, SPACE.nested(a)))
    for a in SPACE.enumerate()
    if SPACE.key(a) == SPACE.key(ZERO) and SPACE.index(a) != SPACE.index(ZERO)
  )
  other = _changed(training(5, 1235), (1, 2, 3), list(twin))
  _refused(tmp_path, [training(5, 1234), other], ['row 2', 'for one hash'])
  bench = release(tmp_path, benchmarking(GPU))
  with pytest.raises(published.PublishedError, match='row 2.*covers 160 cells'):
    published.latencies(bench, convention='paper')
  both = bench + release(tmp_path, training(5, 1234))
  found = published.latencies(both, convention='paper')[0]
  assert SPACE.nested(found.archs_rd[2]) == [list(node) for node in ZERO]
  plain_cells = release(tmp_path, benchmarking(GPU, [MIXED, CONV]))
  found = published.latencies(plain_cells, convention='paper')[0]
  assert SPACE.nested(found.archs_rd[0]) == [list(node) for node in MIXED]


# The launcher.


def _launch(*flags):
  return tiny_run.forked(*flags, launcher='convert_published')


def test_the_launcher(folder, tmp_path):
  out = tmp_path / 'results'
  status, output, errors = _launch(
    f'--folder={folder}', f'--out={out}', '--convention=tensorflow',
    f'--passes={GPU}:32:100',
  )  # fmt: skip
  assert status == 0, errors
  for part in (
    '12 trainings', '0 means present', 'nb_asr_undilated', '1 cells: released',
    f'latencies of {NANO} not written', '8239 released hashes',
  ):  # fmt: skip
    assert part in output
  assert len(table.open(out)) == 12
  status, _, errors = _launch(f'--folder={folder}', f'--out={out}')
  assert status == 1 and 'convention' in errors
  (folder / 'nb-asr-info.pickle').write_bytes(b'\x80\x04(ios\nsystem\n.')
  given = f'--folder={folder}', f'--out={out}', '--convention=paper'
  status, _, errors = _launch(*given)
  assert status == 1 and 'Traceback' not in errors
  assert 'nb-asr-info.pickle' in errors and 'INST' in errors
