"""Leases: one holder at a time, by processes that die, stop and wake."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nasjax.storage import disk, leases

# Who gets no turn for so long, on a busy machine, loses his lease.
SECONDS = 1.0


@pytest.fixture
def place(tmp_path):
  return tmp_path / 'leases'


def _foreign(place, name='a', generation=1, seconds=SECONDS, state=b'held'):
  """Writes a lease of a process on another machine."""
  place.mkdir(exist_ok=True)
  holder = {'host': 'far', 'pid': 1, 'boot': 'other', 'seconds': seconds}
  path = place / f'{name}.{generation}'
  path.write_bytes(state + b' 0000000007\n' + json.dumps(holder).encode())
  return path


def _files(place):
  return sorted(path.name for path in place.iterdir())


def test_one_process_alone_holds_a_name(place):
  with leases.Leases(place) as one, leases.Leases(place) as other:
    assert one.take('a') and one.take('a') and other.take('b')
    assert not other.take('a') and not one.take('b')
    assert other.listing() == {'a': 1, 'b': 1}
    assert other.who('a').startswith(f'process {os.getpid()} on ')
    assert other.who('c') is None
    one.check('a')
    with pytest.raises(leases.LostError):
      one.check('b')
    one.finish('a')
    assert other.take('a') and _files(place) == ['a.1', 'b.1']
    other.free('a')
    assert one.take('a') and _files(place) == ['a.2', 'b.1']
  # What is left unfinished can be had, and its number goes on.
  with leases.Leases(place) as third:
    assert third.take('a') and third.take('b')
    third.finish('a')
    third.tidy({'b'})
    assert _files(place) == ['b.2']  # this process's own
  leases.Leases(place).tidy({'a'})
  assert _files(place) == ['b.2']
  leases.Leases(place).tidy({'b'})
  assert _files(place) == []


_RACE = """
import sys
from nasjax.storage import leases

with leases.Leases(sys.argv[1]) as own:
  print('ready', flush=True)
  input()
  for n in range(60):
    if own.take(f'n{n}'):
      print(n, flush=True)
  print('end', flush=True)
  input()
"""


def _process(code, place, **options):
  return subprocess.Popen(
    [sys.executable, '-c', code, str(place)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    **options,
  )


def test_processes_at_once_share_names_out(place):
  racers = [_process(_RACE, place) for _ in range(2)]
  for racer in racers:
    assert racer.stdout.readline() == 'ready\n'
  for racer in racers:
    print(file=racer.stdin, flush=True)
  taken = [list(iter(racer.stdout.readline, 'end\n')) for racer in racers]
  assert sorted(map(int, sum(taken, []))) == list(range(60))
  assert _files(place) == sorted(f'n{n}.1' for n in range(60))
  for racer in racers:
    racer.communicate('\n')


_HOLD = """
import sys, time
from nasjax.storage import leases

with leases.Leases(sys.argv[1], {seconds}) as own:
  print(own.take('a'), flush=True)
  for line in sys.stdin:
    try:
      own.check('a')
      print('held', flush=True)
    except leases.LostError as e:
      print('lost', flush=True)
      own.free('a')
"""


def _ask(process):
  print(file=process.stdin, flush=True)
  return process.stdout.readline().strip()


def test_who_is_stopped_loses_it_and_hears_of_it(place):
  with (
    _process(_HOLD.format(seconds=SECONDS), place) as holder,
    leases.Leases(place, SECONDS) as own,
  ):
    assert holder.stdout.readline() == 'True\n'
    end = time.monotonic() + 1.2 * SECONDS
    while time.monotonic() < end:
      assert not own.take('a')  # it lives
      time.sleep(0.05)
    assert not own.wait('a') and _ask(holder) == 'held'
    holder.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert own.wait('a')
    assert time.monotonic() - begun >= SECONDS
    mine = (place / 'a.2').read_bytes()
    holder.send_signal(signal.SIGCONT)
    time.sleep(SECONDS / 2)  # it beats, late
    assert _ask(holder) == 'lost'
    own.check('a')
    found = (place / 'a.2').read_bytes()
    assert found[16:] == mine[16:] and found.startswith(b'held')
    holder.communicate()
    assert _files(place) == ['a.2']


def test_who_is_dead_on_this_machine_has_lost_it_at_once(place):
  with _process(_HOLD.format(seconds=1000), place) as holder:
    assert holder.stdout.readline() == 'True\n'
    with leases.Leases(place) as own:
      assert not own.take('a')
      holder.kill()
      os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
      assert own.take('a')  # nobody has asked how it ended
      own.free('a')
    holder.communicate()
  # A number that another process has got since.
  path = place / 'a.3'
  head, _, text = (place / 'a.2').read_bytes().partition(b'\n')
  there = json.loads(text) | {'start': '1', 'pid': os.getpid()}
  head = head.replace(b'free', b'held')
  path.write_bytes(head + b'\n' + json.dumps(there).encode())
  with leases.Leases(place) as own:
    assert own.take('a')


def test_who_is_silent_elsewhere_has_lost_it_in_time(place):
  path = _foreign(place)
  with leases.Leases(place, 1000) as own, leases.Leases(place, 1000) as other:
    assert not own.take('a') and not other.take('a')
    assert own.who('a') == 'process 1 on far'
    time.sleep(SECONDS / 2)
    # It counts on: the time begins anew, whatever the number says.
    path.write_bytes(path.read_bytes().replace(b'07', b'05'))
    assert not own.take('a')
    time.sleep(SECONDS * 0.8)
    assert not own.take('a')
    time.sleep(SECONDS * 0.4)
    got = []
    both = [
      threading.Thread(target=lambda o=o: got.append(o.take('a')))
      for o in (own, other)
    ]
    for thread in both:
      thread.start()
    for thread in both:
      thread.join()
    assert sum(got) == 1 and _files(place) == ['a.2']


@pytest.mark.parametrize('raw', [b'', b'held', b'\xff\n{', b'held 1\n[]'])
def test_a_damaged_lease_is_over_in_time(place, raw):
  _foreign(place).write_bytes(raw)
  with leases.Leases(place, SECONDS) as own:
    assert not own.take('a') and own.who('a') in (None, 'process None on None')
    time.sleep(SECONDS * 1.1)
    assert own.take('a')


def test_what_is_free_elsewhere_is_had_at_once(place):
  _foreign(place, state=b'free', generation=12)
  with leases.Leases(place) as own:
    assert own.take('a') and _files(place) == ['a.13']


def test_a_lease_that_cannot_be_written_is_none(place, monkeypatch):
  def full(fd):
    raise OSError(28, 'No space left on device')

  own = leases.Leases(place)
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    own.take('a')
  assert _files(place) == [] and not own.holds('a')


def test_no_clock_that_can_be_set_is_read(place, monkeypatch):
  def read(*_):
    raise AssertionError('the wall clock was read')

  for name in ('time', 'time_ns', 'localtime', 'gmtime', 'clock_gettime'):
    monkeypatch.setattr(time, name, read)
  _foreign(place)
  with leases.Leases(place, SECONDS) as own:
    assert own.wait('a')
    time.sleep(SECONDS / 2)
    own.check('a')


# A file that one writer alone makes.


def test_of_several_writers_one_makes_the_file(tmp_path):
  path, won = tmp_path / 'x', []
  threads = [
    threading.Thread(
      target=lambda n=n: won.append(
        (disk.publish_new(path, f'{n}'.encode()), n)
      )
    )
    for n in range(8)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  (winner,) = [n for own, n in won if own]
  assert path.read_text() == str(winner)
  assert _files(tmp_path) == ['x']


def test_without_links_a_file_is_made_all_the_same(tmp_path, monkeypatch):
  def none(*_):
    raise OSError(1, 'Operation not permitted')

  monkeypatch.setattr(os, 'link', none)
  assert disk.publish_new(tmp_path / 'x', b'1')
  assert not disk.publish_new(tmp_path / 'x', b'2')
  assert (tmp_path / 'x').read_bytes() == b'1'
  assert _files(tmp_path) == ['x']


def test_an_answer_that_was_lost_is_no_refusal(tmp_path, monkeypatch):
  link = os.link

  def twice(*paths):
    link(*paths)
    link(*paths)

  monkeypatch.setattr(os, 'link', twice)
  assert disk.publish_new(tmp_path / 'x', b'1')
  monkeypatch.setattr(os, 'link', link)
  assert not disk.publish_new(tmp_path / 'x', b'2')
