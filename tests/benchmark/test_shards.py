"""Shards: members become shards, and a plan is a file."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_corpus

from nasjax.benchmark import running, shards

SPACE, MACRO = tiny_corpus.SPACE, tiny_corpus.MACRO
CELLS = (
  [[2, 1], [0, 1, 1], [5, 0, 1, 1]],
  [[1, 0], [0, 1, 0], [5, 1, 0, 1]],
  [[3, 1], [0, 0, 0], [5, 0, 1, 1]],
)
MEMBERS = [(CELLS[0], 7), (CELLS[1], 9)]
# Made before plans were files. A new field of `Recipe` or `Macro` renames all
# shards; nothing else may.
NAMES = ['80e207bf0a2f55a0', 'c776a323f9dece7f', '292c6938f93123a4']


def _job(**changes):
  return dataclasses.replace(tiny_corpus.job(), **changes)


def _plan(members, limit=8, multiple=1, **changes):
  return shards.plan(_job(**changes), members, limit, multiple)


def _random_members(count, seed=0):
  rng = np.random.default_rng(seed)
  archs = SPACE.unique()
  chosen = rng.choice(len(archs), count, replace=False)
  return [(archs[i], int(rng.integers(0, 4))) for i in chosen]


@pytest.mark.parametrize('limit', [1, 2, 3, 8, 100])
@pytest.mark.parametrize('multiple', [1, 2, 3])
def test_shards_hold_every_member_once_in_equal_populations(limit, multiple):
  members = _random_members(60)
  planned = _plan(members, limit, multiple)
  placed = [member for shard in planned for member in shard.members]
  assert len(placed) == 60
  assert set(placed) == {(tuple(arch.tolist()), seed) for arch, seed in members}
  programs, groups = {}, {}
  for shard in planned:
    for arch, seed in shard.members:
      names = SPACE.main_ops(np.array(arch, np.int8))
      kinds = tuple(n if n in ('linear', 'zero') else 'conv' for n in names)
      assert kinds == shard.signature
      assert seed in shard.streams
    assert 0 < len(shard.members) <= shard.size
    assert shard.size <= max(limit, multiple)
    shape = (shard.size, len(shard.streams))
    programs.setdefault(shard.signature, set()).add(shape)
    groups.setdefault(shard.signature, []).append(shard)
  # One program a signature, and no more shards and padding than there must be.
  assert all(len(shapes) == 1 for shapes in programs.values())
  for group in groups.values():
    count = sum(len(shard.members) for shard in group)
    fits = max(multiple, limit // multiple * multiple)
    assert len(group) == -(-count // fits)
    padding = sum(shard.size for shard in group) - count
    assert padding <= multiple * len(group)
    # All but the last are whole, and fill so many devices.
    assert all(len(shard.members) == shard.size for shard in group[:-1])
    assert len(group) == 1 or group[0].size % multiple == 0
  # Shards of one signature stand together.
  order = [shard.signature for shard in planned]
  assert len(groups) == 1 + sum(a != b for a, b in zip(order, order[1:]))


def test_streams_are_the_seeds():
  cells = SPACE.parse(CELLS[0]), SPACE.parse(CELLS[1])
  (shard,) = _plan([(c, s) for c in cells for s in (5, 3)])
  assert shard.streams == (3, 5)
  one, two = _plan([(cells[0], 1), (cells[1], 2), (cells[0], 3)], 2)
  assert one.streams == (1, 2) and two.streams == (3, 3)
  both = _plan([(c, s) for s in (4, 5) for c in cells], 2)
  assert [shard.streams for shard in both] == [(4,), (5,)]


def test_a_plan_depends_neither_on_order_nor_on_repetition():
  members = _random_members(30)
  expected = _plan(members, 4)
  rng = np.random.default_rng(1)
  for _ in range(3):
    rng.shuffle(members)
    assert _plan([*members, members[0], members[3]], 4) == expected
  nested = [(SPACE.nested(arch), np.int64(seed)) for arch, seed in members]
  assert _plan(nested, 4) == expected


def test_a_name_is_a_hash_of_what_matters():
  ((shard,), names) = _plan(MEMBERS), set()
  changes = [
    {},
    {'recipe': tiny_corpus.variant(lr=1e-3)},
    {'recipe': tiny_corpus.variant(name='other')},
    {'recipe': tiny_corpus.variant(decoder='beam')},
    {'recipe': tiny_corpus.variant(curriculum=(16000,))},
    {'macro': dataclasses.replace(MACRO, lstm=9)},
    {'macro': MACRO.with_outputs(7)},
    {'corpus_fingerprint': 'f'},
  ]
  for change in changes:
    (other,) = _plan(MEMBERS, **change)
    assert other.members == shard.members
    names.add(other.name)
  for members in ([MEMBERS[0]], [(CELLS[0], 8), MEMBERS[1]]):
    names.add(_plan(members)[0].name)
  assert len(names) == len(changes) + 2
  # A corpus may be renamed.
  assert _plan(MEMBERS, corpus_name='x')[0].name == shard.name


def test_names_of_today_are_those_of_tomorrow():
  """Rows and checkpoints that exist bear them."""
  names = [
    shard.name
    for limit in (1, 8)
    for shard in _plan(MEMBERS, limit, corpus_fingerprint='f')
  ]
  assert names == NAMES


def test_padding_follows_the_devices_not_the_plan():
  shard = tiny_corpus.shard([(CELLS[0], 7), (CELLS[1], 9), (CELLS[2], 9)])
  for devices, size in ((1, 3), (2, 4)):
    trainer = running.Trainer(
      tiny_corpus.job(), shard, tiny_corpus.prepared(devices=devices)
    )
    assert trainer.size == len(trainer.members) == size


@pytest.mark.parametrize('seed', [-1, 2**31, 1.0, True, '1', None])
def test_seeds_that_are_none(seed):
  with pytest.raises(ValueError, match='seed is'):
    _plan([(CELLS[0], seed)])


def test_plans_of_nothing():
  with pytest.raises(ValueError, match='no members'):
    _plan([])
  with pytest.raises(ValueError, match='members_per_shard is 0'):
    _plan(MEMBERS, 0)
  with pytest.raises(ValueError, match='7'):
    _plan([([[7, 0], [0, 0, 0], [0, 0, 0, 0]], 1)])


# The file.


@pytest.fixture
def path(tmp_path):
  """The file of a plan of three members, at most two a shard."""
  path = tmp_path / 'shards.json'
  job, members = _job(), [*MEMBERS, (CELLS[2], 11)]
  shards.write(path, job, shards.Plan(2, shards.plan(job, members, 2)))
  return path


def _read(path, members=(), number=None, **changes):
  members = [*MEMBERS, (CELLS[2], 11), *members]
  return shards.read(path, _job(**changes), members, number)


def test_a_plan_comes_back_as_it_was_written(path):
  found = _read(path, number=2)
  assert found == _read(path) == _read(path, corpus_name='renamed')
  expected = _plan([*MEMBERS, (CELLS[2], 11)], 2)
  assert found == shards.Plan(2, expected)
  content = json.loads(path.read_text())
  assert content['run'] == json.loads(json.dumps(shards.describe(_job())))
  assert [path.name for path in path.parent.iterdir()] == ['shards.json']
  # A shard a line, for those who look for one.
  lines = [line for line in path.read_text().splitlines() if '"name"' in line]
  assert sum(expected[0].name in line for line in lines) == 1


def test_a_plan_is_the_same_bytes_whoever_makes_it(path, tmp_path):
  members = [(CELLS[2], 11), *MEMBERS[::-1], MEMBERS[0]]
  planned = shards.Plan(2, shards.plan(_job(), members, 2))
  shards.write(tmp_path / 'again.json', _job(), planned)
  assert (tmp_path / 'again.json').read_bytes() == path.read_bytes()


def test_a_plan_of_another_grouping_is_kept(tmp_path):
  """A run that devices once cut goes on so on any other."""
  path, members = tmp_path / 'shards.json', _random_members(60)
  planned = shards.Plan(6, _plan(members, 6, multiple=4))
  assert planned.shards != _plan(members, 6)
  shards.write(path, _job(), planned)
  assert shards.read(path, _job(), members, 6) == planned


@pytest.mark.parametrize(
  'changes, told',
  [
    ({'corpus_fingerprint': 'f'}, 'corpus fingerprint'),
    ({'recipe': tiny_corpus.variant(lr=1e-3)}, 'recipe'),
    ({'macro': dataclasses.replace(MACRO, lstm=9)}, 'macro'),
    ({'members': [(CELLS[2], 12)]}, 'cells or seeds'),
    ({'number': 3}, '2 members a shard, not 3'),
  ],
)
def test_a_plan_of_other_flags(path, changes, told):
  with pytest.raises(shards.OtherPlanError) as fault:
    _read(path, **changes)
  words = str(fault.value)
  assert words.startswith(f'{path} is the plan of another run ({told});')
  assert '--out' in words and '\n' not in words


def _changed(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  'text', ['', '{', '[]', '7', 'null', '\xff', '[' * 100_000, '{"a": 1}']
)
def test_a_file_that_is_no_plan(path, text):
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match='is damaged: .* remove it') as fault:
    _read(path)
  assert str(path) in str(fault.value) and '\n' not in str(fault.value)


def test_a_file_that_is_cut_off(path):
  content = path.read_bytes()
  for size in range(0, len(content) - 3, 97):
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match='is damaged'):
      _read(path)


@pytest.mark.parametrize(
  'change',
  [
    lambda c: c.pop('run'),
    lambda c: c.pop('training_version'),
    lambda c: c.update(shards=[]),
    lambda c: c.update(shards=7),
    lambda c: c.update(run=7),
    lambda c: c.update(members_per_shard=0),
    lambda c: c.update(members_per_shard='8'),
    lambda c: c['shards'][0].pop('members'),
    lambda c: c['shards'][0].update(members=[]),
    lambda c: c['shards'][0].update(members=[{'arch': 5, 'seed': 1}]),
    lambda c: c['shards'][0].update(name=7),
    lambda c: c['shards'][0]['members'][0].update(seed='7'),
    # All of it is there, and does not fit together.
    lambda c: c['shards'][0].update(name='0' * 16),
    lambda c: c['shards'][0].update(streams=[1]),
    lambda c: c['shards'][0].update(signature=['conv']),
    lambda c: c['shards'][0]['members'].reverse(),
  ],
)
def test_a_plan_with_a_part_that_is_wrong(path, change):
  _changed(path, change)
  with pytest.raises(ValueError, match='is damaged: .* remove it'):
    _read(path)


def test_a_plan_of_another_format_or_training(path):
  _changed(path, lambda c: c.update(training_version=1))
  with pytest.raises(shards.OtherPlanError, match='version of the training'):
    _read(path)
  _changed(path, lambda c: c.update(format=2))
  with pytest.raises(ValueError, match='has format 2, this code reads 1'):
    _read(path)


def test_shards_are_found_by_name(path):
  found = _read(path).shards
  one, other = (shard.name for shard in found)
  assert shards.named(path, found, [other, one, other]) == found
  assert shards.named(path, found, [other]) == found[1:]
  with pytest.raises(ValueError) as fault:
    shards.named(path, found, [one, f'{other[:-1]}x'])
  words = str(fault.value)
  # The one that was meant comes first.
  assert f'it has {other}' in words and '(2 in all)' in words
  with pytest.raises(ValueError, match=r'--shard=: .* in all\)'):
    shards.named(path, found, [''])
