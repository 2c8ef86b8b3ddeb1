"""Tests of what is said of a run from its directory alone."""

import datetime
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import table_rows
import tiny_run
from common import watching
from rich.console import Console
from summaries import status_port, status_views

from nasjax import table
from nasjax.benchmark import failures

CELLS = ([[0, 1], [0, 0, 1], [0, 1, 0, 0]], [[1, 0], [0, 1, 0], [4, 1, 0, 1]])
EPOCHS = 40
NOW = 1_800_000_000.0


def _done(out, name, ended, seconds, rows):
  """Writes a shard that took some seconds."""
  at = datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat()
  share = {'created': at, 'seconds': seconds / len(rows)}
  table.write_shard(out / 'table', name, [row | share for row in rows])


def _running(out, name, begun, before, epoch, saved):
  """Leaves what a shard in training leaves."""
  note = out / 'attempts' / f'{name}.json'
  note.parent.mkdir(exist_ok=True)
  note.write_text(json.dumps({'running': True, 'epoch': before, 'size': 2}))
  os.utime(note, (begun, begun))
  if epoch:
    place = out / 'checkpoints' / name / str(epoch)
    place.mkdir(parents=True)
    os.utime(place, (saved, saved))


@pytest.fixture
def run(tmp_path):
  """Six shards of two networks: two done, two running, a killed one, one left.

  The first took 100 s, the second, beside it, too; then nobody trained for an
  hour.
  """
  plan = {
    'run': {
      'space': 'nb_asr',
      'macro': {'name': 'tiny'},
      'recipe': {'name': 'e40', 'epochs': EPOCHS},
      'corpus': 'digits',
    },
    'shards': [{'name': f's{n}', 'members': [{}, {}]} for n in range(6)],
  }
  (tmp_path / 'shards.json').write_text(json.dumps(plan))
  good, bad = [table_rows.row(cell) for cell in CELLS], []
  bad = [table_rows.diverged(CELLS[0], 3), good[1] | {'status': 'oom'}]
  _done(tmp_path, 's0', NOW - 4000, 100.0, good)
  _done(tmp_path, 's1', NOW - 3900, 100.0, bad)
  _running(tmp_path, 's2', NOW - 60, 0, 20, NOW - 10)
  _running(tmp_path, 's3', NOW - 30, 0, 0, 0)
  _running(tmp_path, 's4', NOW - 9000, 0, 10, NOW - 8000)
  return tmp_path


def test_what_is_said_of_a_run(run):
  seen = watching.Watch(run).look(now=NOW)
  assert seen['shards'] == {
    'total': 6, 'done': 2, 'running': 2, 'failed': 0, 'waiting': 2,
  }  # fmt: skip
  assert seen['members'] == {'total': 12, 'done': 4, 'diverged': 1, 'oom': 1}
  assert seen['state'] == 'running' and seen['errors'] == []
  # Four networks in 200 s of work: the hours after it do not count.
  assert seen['members_per_second'] == pytest.approx(4 / 200)
  # Eight networks, of which two have half of their epochs, two a quarter.
  assert seen['seconds_left'] == pytest.approx((8 - 1 - 0.5) / (4 / 200))
  first, second = seen['running']
  assert (first['shard'], first['epoch'], first['epochs']) == ('s2', 20, 40)
  assert (first['quiet_seconds'], second['shard']) == (10.0, 's3')


def test_it_follows_the_run(run):
  watch = watching.Watch(run)
  watch.look(now=NOW)
  _done(run, 's2', NOW + 10, 50.0, [table_rows.row(c, 3) for c in CELLS])
  (run / 'attempts' / 's2.json').unlink()
  seen = watch.look(now=NOW + 20)
  assert seen['shards']['done'] == 3 and seen['members']['done'] == 6
  assert [r['shard'] for r in seen['running']] == ['s3']
  # Nobody gives a sign of life for a day.
  seen = watch.look(now=NOW + 86400)
  assert seen['state'] == 'stopped' and seen['shards']['waiting'] == 3


def test_before_any_is_done_the_epochs_tell_the_speed(run):
  for path in (run / 'table').iterdir():
    path.unlink()
  seen = watching.Watch(run).look(now=NOW)
  # Two networks of 20 of 40 epochs in 50 s.
  assert seen['members_per_second'] == pytest.approx(1 / 50)


def test_leases_tell_who_is_at_work(run):
  leases = run / 'leases'
  leases.mkdir()
  text = 'held 0000000003\n{"pid": 12, "host": "ada", "seconds": 90}\n'
  for name, words, when in (
    ('s3.1', text, NOW - 900), ('s3.2', text, NOW - 4),
    ('s2.1', text.replace('held', 'free'), NOW - 1), ('s0.1', text, NOW),
  ):  # fmt: skip
    (leases / name).write_text(words)
    os.utime(leases / name, (when, when))
  (only,) = watching.Watch(run).look(now=NOW)['running']
  assert only['shard'] == 's3' and only['worker'] == 'process 12 on ada'
  assert only['quiet_seconds'] == 4


def test_errors_come_with_their_files_and_go(run):
  with pytest.raises(OSError), failures.noted(run, 's4'):
    raise OSError('no space left\non that device')
  with pytest.raises(ValueError), failures.noted(run, 's5'):
    raise ValueError('b' * 5000)
  for name, when in (('s4', NOW - 5), ('s5', NOW - 7)):
    os.utime(run / 'failures' / f'{name}.json', (when, when))
  (run / 'attempts' / 's4.json').unlink()
  seen = watching.Watch(run).look(errors=1, now=NOW)
  assert seen['shards']['failed'] == 2 == seen['errors_total']
  assert seen['shards']['waiting'] == 0
  (error,) = seen['errors']
  assert error['file'] == str(run / 'failures' / 's4.json')
  assert error['error'].endswith('OSError: no space left on that device')
  text = (run / 'failures' / 's4.json').read_text()
  assert 'raise OSError' in text and 'Traceback' in text
  assert error['attempts'] == 0 and json.loads(text)['shard'] == 's4'
  with failures.noted(run, 's4'):
    pass
  assert [f.shard for f in failures.read(run)] == ['s5']


def test_what_claiming_processes_gave_up_is_shown_everywhere(run):
  for number in (1, 2):
    failures.note(run, 's5', RuntimeError(f'try <{number}>\nof two'), more=1)
  (run / 'failures' / 's4.json').write_text('[torn')
  seen = watching.Watch(run).look(now=NOW)
  assert seen['shards']['failed'] == 2 and seen['shards']['waiting'] == 0
  by_shard = {error['shard']: error for error in seen['errors']}
  assert by_shard['s4']['error'].endswith('s4.json cannot be read')
  assert by_shard['s5']['attempts'] == 2
  told = by_shard['s5']['error']
  assert told.endswith('RuntimeError: try <2> of two')
  assert f'process {os.getpid()})' in told
  console = Console(file=io.StringIO(), width=200)
  console.print(status_views.screen(seen))
  assert told in console.file.getvalue()
  assert 'try &lt;2&gt; of two' in status_views.page(seen)
  text = status_views.prometheus(seen)
  assert 'nasjax_shards{state="failed"} 2\n' in text
  assert 'nasjax_errors 2\n' in text


def test_a_damaged_shard_is_an_error(run):
  path = run / 'table' / 's1.parquet'
  path.write_bytes(path.read_bytes()[:-1])
  seen = watching.Watch(run).look(now=NOW)
  assert seen['shards']['done'] == 1
  assert 's1.parquet has' in seen['errors'][0]['error']


def test_prometheus_text_is_of_its_format(run):
  seen = watching.Watch(run).look(now=NOW)
  seen['run']['corpus'] = 'a "b"\\\n'
  lines = status_views.prometheus(seen).splitlines()
  assert 'nasjax_shards{state="done"} 2' in lines
  assert 'nasjax_members{state="diverged"} 1' in lines
  assert 'nasjax_shard_epoch{shard="s2"} 20' in lines
  assert any('corpus="a \\"b\\"\\\\\\n"' in line for line in lines)
  sample = re.compile(
    r'[a-z_]+(\{[a-z]+="[^"\n]*(\\"[^"\n]*)*"(,[a-z]+="([^"\\\n]|\\.)*")*\})? '
    r'(NaN|[0-9.e+-]+)'
  )
  told = {}
  for line in lines:
    if line.startswith('# '):
      what, name, rest = line[2:].split(' ', 2)
      told.setdefault(name, []).append((what, rest))
    else:
      assert sample.fullmatch(line), line
      # Samples stand under their own HELP and TYPE.
      assert re.match(r'\w+', line)[0] == name
  assert all(
    [what for what, _ in pair] == ['HELP', 'TYPE'] and pair[1][1] == 'gauge'
    for pair in told.values()
  )


def test_metrics_are_served(run):
  with status_port.served(watching.Watch(run), 0, 5) as port:
    url = f'http://127.0.0.1:{port}/metrics'
    with urllib.request.urlopen(url, timeout=30) as reply:
      assert reply.headers['Content-Type'].startswith('text/plain; version=0.0')
      assert b'\nnasjax_shards{state="done"} 2\n' in reply.read()
    with pytest.raises(urllib.error.HTTPError, match='404') as other:
      urllib.request.urlopen(url[:-7] + 'secret', timeout=30)
    other.value.close()
    with pytest.raises(ValueError, match=f'--prometheus_port={port}: '):
      status_port.served(watching.Watch(run), port, 5).__enter__()


def test_the_page_escapes_what_it_shows(run):
  with pytest.raises(ValueError), failures.noted(run, 's5'):
    raise ValueError('<script>alert(1)</script>')
  seen = watching.Watch(run).look(now=NOW)
  page = status_views.page(seen, refresh=2)
  assert '<script' not in page and '&lt;script&gt;' in page
  assert '<meta http-equiv="refresh" content="2">' in page
  assert 'http://' not in page and 'https://' not in page


def _launch(*flags):
  return subprocess.run(
    [sys.executable, 'experiments/status.py', *flags],
    cwd=tiny_run.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_the_launcher_on_a_real_run(tmp_path):
  run = tiny_run.finished()
  html = tmp_path / 'status.html'
  done = _launch(f'--out={run.out}', f'--html={html}', '--json')
  seen = json.loads(done.stdout)
  assert seen['state'] == 'done' and seen['shards']['done'] == 2
  assert seen['members'] == {'total': 4, 'done': 4, 'diverged': 0, 'oom': 0}
  assert seen['members_per_second'] > 0 == seen['seconds_left']
  path = tmp_path / 'status.json'
  done = _launch(f'--out={run.out}', f'--json={path}', f'--html={html}')
  assert (done.returncode, done.stderr) == (0, '')
  assert json.loads(path.read_text())['shards'] == seen['shards']
  assert '2 of 2 done' in done.stdout and '2 of 2 done' in html.read_text()


def test_the_launcher_serves_a_run_that_is_done(run):
  plan = json.loads((run / 'shards.json').read_text())
  plan['shards'] = plan['shards'][:2]
  (run / 'shards.json').write_text(json.dumps(plan))
  flags = f'--out={run}', '--prometheus_port=0', '--interval=0.1'
  with tiny_run.start(*flags, launcher='status') as process:
    try:
      port = re.match(r'serving port (\d+)', process.stdout.readline())[1]
      url = f'http://127.0.0.1:{port}/metrics'
      with urllib.request.urlopen(url, timeout=60) as reply:
        assert b'\nnasjax_shards{state="done"} 2\n' in reply.read()
    finally:
      process.terminate()


def test_what_is_no_run_is_told_in_a_line(tmp_path):
  done = _launch(f'--out={tmp_path}')
  assert done.returncode == 1 and done.stderr == (
    f'status.py: {tmp_path}/shards.json does not exist; give the --out of a '
    'run of benchmark.py\n'
  )
