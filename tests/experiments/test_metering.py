"""Times of parts survive, and count once."""

import sys

import pytest

sys.path.insert(0, 'experiments')
from common import metering


class Clock:
  """Seconds, and joules of 50 W."""

  def __init__(self, monkeypatch, known=True):
    self.now = 0.0
    monkeypatch.setattr(metering.time, 'perf_counter', lambda: self.now)
    monkeypatch.setattr(
      metering.energy, 'joules', lambda: 50 * self.now if known else None
    )


def test_parts_add_up_over_processes_and_count_once(tmp_path, monkeypatch):
  clock = Clock(monkeypatch)
  path = tmp_path / 'times.json'
  meter = metering.Meter(path, devices=2)
  assert meter.seconds is None and meter.joules is None
  clock.now = 3
  meter.lap('epoch 1')
  clock.now = 10  # the process was killed within the second
  again = metering.Meter(path, devices=2)
  clock.now = 11
  again.begin()  # reading the first epoch counts for none
  clock.now = 15
  again.lap('epoch 2')
  assert again.seconds == 2 * (3 + 4)
  assert again.joules == 50 * (3 + 4)
  assert again.of('epoch 2') == 200 and again.of('epoch 9') is None
  clock.now = 16
  again.lap('epoch 2')
  assert again.seconds == 2 * (3 + 1)


def test_where_devices_do_not_tell_there_are_no_joules(tmp_path, monkeypatch):
  clock = Clock(monkeypatch, known=False)
  meter = metering.Meter(tmp_path / 'times.json')
  clock.now = 5
  meter.lap('all')
  assert meter.seconds == 5 and meter.joules is None


def test_a_damaged_file_is_named(tmp_path):
  path = tmp_path / 'times.json'
  path.write_text('{"a"')
  with pytest.raises(ValueError, match='times.json is damaged'):
    metering.Meter(path)
