"""Which plan a run takes, and who may train beside whom; in this process."""

import dataclasses
import json
import pathlib
import types

import pytest
import tiny_corpus
from common import planning

from nasjax.benchmark import shards
from nasjax.storage import provenance

ROOT = pathlib.Path(__file__).resolve().parents[2]

CELL = [[2, 1], [0, 1, 1], [5, 0, 1, 1]]
MEMBERS = [(CELL, seed) for seed in range(10)]
JOB = tiny_corpus.job()


@pytest.fixture
def given(monkeypatch):
  """Returns a function that sets the flags of planning."""

  none = {'members_per_shard': None, 'shard': None}
  none |= {'plan_only': False, 'dry_run': False, 'claim': False}
  none |= {'lease_seconds': 0.6}

  def give(**values):
    monkeypatch.setattr(planning, 'FLAGS', _Flags(**none | values))

  give()
  return give


class _Flags(types.SimpleNamespace):
  """Values of flags, by attribute and by item as absl has them."""

  def __getitem__(self, name):
    return types.SimpleNamespace(value=getattr(self, name))


def _plan(out, job=JOB, members=MEMBERS, devices=1, write=True):
  planned = planning.plan(job, members, out, devices)
  if write:
    planning.write(job, members, planned)
  return planned


def _sizes(planned):
  return [len(shard.members) for shard in planned.plan.shards]


def test_eight_members_make_a_shard_on_any_machine(given, tmp_path):
  for devices in (1, 4):
    planned = _plan(tmp_path, devices=devices, write=False)
    assert planned.new and _sizes(planned) == [5, 5]
    assert planned.reason == 'at most 8 members a shard'
  given(members_per_shard=4)
  assert _sizes(_plan(tmp_path, write=False)) == [4, 4, 2]
  assert not (tmp_path / 'shards.json').exists()


def test_what_began_keeps_its_shards(given, tmp_path):
  given(members_per_shard=3)
  begun = _plan(tmp_path)
  assert begun.reason == 'at most 3 members a shard, as the flag says'
  given()
  again = _plan(tmp_path)
  assert again.plan == begun.plan and not again.new
  path = tmp_path / 'shards.json'
  assert again.reason == f'at most 3 members a shard, as {path} says'
  # Another recipe for the same table: a plan of its own, of the same number.
  other = dataclasses.replace(JOB, recipe=tiny_corpus.variant(name='other'))
  planned = _plan(tmp_path, other)
  assert planned.new and _sizes(planned) == _sizes(begun)
  assert _plan(tmp_path, write=False).plan == begun.plan


def test_a_run_of_before_there_were_plans_keeps_its_shards(given, tmp_path):
  """Its devices had cut them as they needed."""
  record = tmp_path / 'run.json'
  record.write_text(json.dumps({'members_per_shard': 7}))
  assert _sizes(_plan(tmp_path, write=False)) == [5, 5]
  planned = _plan(tmp_path, devices=4)
  assert _sizes(planned) == [4, 4, 2]
  assert planned.reason == f'at most 7 members a shard, as {record} says'
  # From now on the file says so, on any machine.
  assert _plan(tmp_path, devices=1).plan == planned.plan
  # Who has lost the file of a newer run makes the same one again.
  (tmp_path / 'shards.json').unlink()
  record.write_text(json.dumps({'members_per_shard': 7, 'plan': 'shards.json'}))
  assert _sizes(_plan(tmp_path, devices=4)) == [5, 5]


@pytest.mark.parametrize('text', ['{}', '{', '[]', ''])
def test_a_record_that_does_not_tell(given, tmp_path, text):
  (tmp_path / 'run.json').write_text(text)
  with pytest.raises(ValueError, match='run.json does not tell the members of'):
    _plan(tmp_path)
  given(members_per_shard=4)
  assert _sizes(_plan(tmp_path)) == [4, 4, 2]


def test_some_shards_are_chosen(given, tmp_path):
  one, other = _plan(tmp_path).plan.shards
  given(shard=[other.name])
  planning.check(tmp_path)
  planned = _plan(tmp_path)
  assert planned.chosen == [other] and planned.plan.shards == [one, other]
  assert planned.reason == f'1 of the 2 shards of {tmp_path / "shards.json"}'
  # Also where nobody has made the file yet.
  (tmp_path / 'shards.json').unlink()
  planning.check(tmp_path)
  assert _plan(tmp_path).chosen == [other]
  assert (tmp_path / 'shards.json').exists()


def test_shards_that_are_not_there(given, tmp_path):
  one, _ = _plan(tmp_path).plan.shards
  given(shard=[one.name, 'foo'])
  for ask in planning.check, _plan:
    with pytest.raises(ValueError, match='--shard=foo: .*has no such') as fault:
      ask(tmp_path)
    assert one.name in str(fault.value)
  given(shard=[])
  with pytest.raises(ValueError, match='--shard is empty; name shards of '):
    planning.check(tmp_path)
  for other in {'dry_run': True}, {'shard': ['a']}:
    given(plan_only=True, **other)
    with pytest.raises(ValueError, match='--plan_only does not go with --'):
      planning.check(tmp_path)
  given(shard=['a'], claim=True)
  with pytest.raises(ValueError, match='--claim does not go with --shard'):
    planning.check(tmp_path)


@pytest.mark.parametrize('way', ['shard', 'claim'])
def test_other_flags_are_refused_and_named(given, tmp_path, monkeypatch, way):
  before = _plan(tmp_path)
  content = (tmp_path / 'shards.json').read_bytes()
  beside = {'shard': [before.plan.shards[0].name]}
  if way == 'claim':
    beside = {'claim': True}
  given(**beside)
  for other, told in [
    ({'corpus_fingerprint': 'f'}, "corpus fingerprint 'tiny-.*', not 'f'"),
    ({'recipe': tiny_corpus.variant(lr=0.5)}, 'recipe: lr 0.02, not 0.5'),
  ]:
    with pytest.raises(ValueError, match=f'plan of another run .*{told};'):
      _plan(tmp_path, dataclasses.replace(JOB, **other))
  told = r'run .cells or seeds.; 1 networks are missing, such as .*\(seed 0\);'
  with pytest.raises(ValueError, match=told):
    _plan(tmp_path, members=MEMBERS[1:])
  given(members_per_shard=5, **beside)
  with pytest.raises(ValueError, match='8 members a shard, not 5'):
    _plan(tmp_path)
  given(**beside)
  monkeypatch.setattr(shards, 'TRAINING_VERSION', 99)
  with pytest.raises(ValueError, match='training version 2, not 99'):
    _plan(tmp_path)
  assert (tmp_path / 'shards.json').read_bytes() == content


def test_who_begins_at_once_with_other_flags_is_refused(given, tmp_path):
  """Neither has found a plan; the second does not write over the first's."""
  given(claim=True)
  other = dataclasses.replace(JOB, recipe=tiny_corpus.variant(lr=0.5))
  one, two = _plan(tmp_path, write=False), _plan(tmp_path, other, write=False)
  planning.write(JOB, MEMBERS, one)
  content = (tmp_path / 'shards.json').read_bytes()
  with pytest.raises(ValueError, match='recipe: lr 0.02, not 0.5'):
    planning.write(other, MEMBERS, two)
  assert (tmp_path / 'shards.json').read_bytes() == content


def test_other_versions_of_the_code_are_refused(given, tmp_path):
  versions = provenance.versions()
  record = tmp_path / 'run.json'
  given(claim=True)
  planning.check_versions(tmp_path)  # nobody has begun
  record.write_text(json.dumps({'versions': versions}))
  planning.check_versions(tmp_path)
  for name in ('nasjax', 'jax', 'flax'):
    record.write_text(json.dumps({'versions': versions | {name: '0.0.7'}}))
    told = f'other versions .{name} 0.0.7, not {versions[name]}.'
    with pytest.raises(ValueError, match=told):
      planning.check_versions(tmp_path)
  given()
  planning.check_versions(tmp_path)  # alone, it goes on with its own
  given(shard=['a'])
  record.write_text('{}')
  with pytest.raises(ValueError, match='does not tell its versions'):
    planning.check_versions(tmp_path)


def test_a_damaged_plan_is_refused_by_all(given, tmp_path):
  path = tmp_path / 'shards.json'
  for text, told in ('{', 'is damaged'), ('{"format": 9}', 'has format 9'):
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
      _plan(tmp_path)
    given(shard=['a'])
    for ask in planning.check, _plan:
      with pytest.raises(ValueError, match=told):
        ask(tmp_path)
    given()
  assert path.read_text() == '{"format": 9}'


def test_what_would_be_done_is_said(given, tmp_path, monkeypatch):
  from common import console

  said = []
  monkeypatch.setattr(console.CONSOLE, 'print', said.append)
  one, other = _plan(tmp_path).plan.shards
  planning.print_todo(_plan(tmp_path), ())
  assert said == []
  given(shard=[one.name, other.name])
  planning.print_todo(_plan(tmp_path), (other.name,))
  assert said == [
    f'shard {one.name} (5 networks) would be trained',
    f'shard {other.name} (5 networks) is done; nothing would be trained',
  ]
  planning.print_done(_plan(tmp_path), (other.name, 'of another recipe'))
  assert said[-1].startswith('1 of 2 shards are done; ')


# Locks. Each opens its files anew, so that this process excludes itself.


def test_some_shards_are_trained_beside_others(given, tmp_path):
  given(shard=['a', 'b', 'a'])
  with planning.hold(tmp_path), planning.leases(tmp_path) as one:
    planning.hold_shards(tmp_path, one)
    with planning.hold(tmp_path), planning.leases(tmp_path) as other:
      given(shard=['c', 'b'])
      told = '--shard=c: process [0-9]+ on .* is training it in '
      with planning.leases(tmp_path) as third:
        assert third.take('c')
        with pytest.raises(ValueError, match=told.replace('=c', '=b')):
          planning.hold_shards(tmp_path, other)
      # What is free again can be had.
      given(shard=['c'])
      planning.hold_shards(tmp_path, other)
      with (
        planning.leases(tmp_path) as third,
        pytest.raises(ValueError, match=told),
      ):
        planning.hold_shards(tmp_path, third)
    given()
    with (
      pytest.raises(ValueError, match='another run is writing there'),
      planning.hold(tmp_path),
    ):
      pass
  with planning.hold(tmp_path):
    for beside in {'shard': ['a']}, {'claim': True}:
      given(**beside)
      with (
        pytest.raises(ValueError, match='a run that wants it alone is writing'),
        planning.hold(tmp_path),
      ):
        pass
      given()
  with planning.hold(tmp_path):
    pass


def test_who_makes_the_same_plan_agrees(given, tmp_path):
  """Two processes that find no file write the same bytes."""
  one, other = (_plan(tmp_path, write=False) for _ in range(2))
  planning.write(JOB, MEMBERS, one)
  content = (tmp_path / 'shards.json').read_bytes()
  planning.write(JOB, MEMBERS, other)
  assert (tmp_path / 'shards.json').read_bytes() == content
  assert shards.read(tmp_path / 'shards.json', JOB, MEMBERS) == one.plan
