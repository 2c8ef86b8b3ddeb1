"""Tests of the archive of a table."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time

import numpy as np
import pytest
import tiny_run
from table_rows import SPACE, latency_row, row

from nasjax import table

CELLS = SPACE.from_index(np.arange(100, 108))


@pytest.fixture
def run(tmp_path):
  """A run: two seeds of eight cells, a pack, a shard and a latency."""
  directory = tmp_path / 'run' / 'table'
  for seed in (1, 2):
    for n, half in enumerate((CELLS[:4], CELLS[4:])):
      rows = [row(cell, seed) for cell in half]
      table.write_shard(directory, f's{seed}{n}', rows, {'metric': 'PER'})
  table.compact(directory)
  table.write_shard(directory, 'later', [row(CELLS[0], 3)])
  table.write_shard(directory, 'latency-x', [latency_row(CELLS[0])])
  record = {
    'macro': {'name': 'SMALL'},
    'prepared_corpus': '/home/somebody/data/an4',
    'flags': {'out': '/home/somebody/out', 'epochs': 40},
  }
  (tmp_path / 'run' / 'run.json').write_text(json.dumps(record))
  return tmp_path / 'run'


def same_answers(one, other):
  one, other = table.open(one), table.open(other)
  assert one.to_arrow().equals(other.to_arrow())
  assert [s[2:] for s in one.shards] == [s[2:] for s in other.shards]
  assert one.latencies == other.latencies
  ask = {'seed': 'mean', 'epoch': 'best'}
  np.testing.assert_array_equal(
    one.query(CELLS, 'val_per', **ask), other.query(CELLS, 'val_per', **ask)
  )


def test_what_is_unpacked_is_the_table(run, tmp_path):
  archive = tmp_path / 'r.tar'
  digest = table.release(run, archive, 'Eight cells', ['Ann B.'], 'CC-BY-4.0')
  assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest
  assert (tmp_path / 'r.tar.sha256').read_text() == f'{digest}  r.tar\n'
  out = tmp_path / 'new' / 'copy'
  table.unpack(archive, out)
  same_answers(out, run)
  same_answers(archive, run)
  manifest = json.loads((out / 'manifest.json').read_text())
  files = {str(p.relative_to(out)) for p in out.rglob('*') if p.is_file()}
  assert files == {*manifest['files'], 'manifest.json'}
  for name, told in manifest['files'].items():
    payload = (out / name).read_bytes()
    assert told == {
      'sha256': hashlib.sha256(payload).hexdigest(),
      'size': len(payload),
    }
  sums = ['sha256sum', '-c', '--quiet', 'SHA256SUMS']
  assert subprocess.run(sums, cwd=out, check=True, capture_output=True)
  cite = (out / 'CITATION.cff').read_text()
  assert 'type: dataset' in cite and '  - name: "Ann B."' in cite
  sheet = (out / 'DATASHEET.md').read_text()
  assert sheet.startswith('# Eight cells\n') and '- seeds: 1, 2, 3' in sheet
  assert '17 trainings' in sheet and 'seeds 1 and 2, recipe e40, over' in sheet
  # What it tells of seeds is what a plain ranking says.
  t = table.open(run)
  first, second = (t.query(t.archs, 'test_per', seed=s) for s in (1, 2))
  ranks = [np.argsort(np.argsort(x)) for x in (first, second)]
  assert f'{np.corrcoef(*ranks)[0, 1]:.3f}' in sheet
  assert 'somebody' not in ''.join(
    (out / name).read_text() for name in ('run.json', 'DATASHEET.md')
  )
  with pytest.raises(table.TableError, match='unpack into a new directory'):
    table.unpack(archive, out)


def test_the_same_table_makes_the_same_bytes(run, tmp_path):
  one = table.release(run, tmp_path / 'one.tar')
  for path in run.rglob('*'):
    os.utime(path, (1, 1))
    path.chmod(path.stat().st_mode | 0o111)
  time.sleep(0.01)
  assert table.release(run / 'table', tmp_path / 'two.tar') == one
  with tarfile.open(tmp_path / 'two.tar') as tar:
    members = tar.getmembers()
  assert {(m.mtime, m.uid, m.mode, m.uname) for m in members} == {
    (0, 0, 0o644, '')
  }


def test_damaged_tables_are_not_released(run, tmp_path):
  path = run / 'table' / 'later.parquet'
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(table.DamagedShardError, match='later'):
    table.release(run, tmp_path / 'r.tar')
  assert not (tmp_path / 'r.tar').exists()
  with pytest.raises(table.TableError, match='plain tar file; name it'):
    table.release(run, tmp_path / 'r.zip')


def test_fifty_of_fifty_flipped_bits_are_caught(run, tmp_path):
  archive, out = tmp_path / 'r.tar', tmp_path / 'out'
  table.release(run, archive)
  good = archive.read_bytes()
  with tarfile.open(archive) as tar:
    # Bits of padding say nothing, and those of headers are tried below.
    spans = [(m.offset_data, m.size) for m in tar.getmembers()]
  rng = np.random.default_rng(0)
  caught = 0
  for k in range(50):
    first, size = spans[k % len(spans)]
    bad = bytearray(good)
    bad[first + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    archive.write_bytes(bad)
    with pytest.raises(table.TableError, match='r.tar '):
      table.check_release(archive)
    if k < 5:
      with pytest.raises(table.TableError, match='r.tar '):
        table.unpack(archive, out)
      assert not out.exists()
    caught += 1
  assert caught == 50 and not list(tmp_path.glob('.*'))
  for first, _ in spans[::3]:
    bad = bytearray(good)
    bad[first - 512 + int(rng.integers(100))] ^= 1
    archive.write_bytes(bad)
    with pytest.raises(table.TableError):
      table.check_release(archive)
  archive.write_bytes(good[: len(good) // 2])
  with pytest.raises(table.TableError):
    table.unpack(archive, out)
  assert not out.exists()


def _archive(path, members, manifest=None):
  """Writes a tar file of (TarInfo, bytes) behind a manifest that vouches."""
  files = {
    info.name.removeprefix('nasjax-table/'): {
      'size': info.size,
      'sha256': hashlib.sha256(payload).hexdigest(),
    }
    for info, payload in members
  }
  told = {'format': 'nasjax-release', 'version': 1, 'files': files, 'rows': 1}
  text = json.dumps(told | (manifest or {})).encode()
  head = tarfile.TarInfo('nasjax-table/manifest.json')
  head.size = len(text)
  with tarfile.open(path, 'w') as tar:
    tar.addfile(head, io.BytesIO(text))
    for info, payload in members:
      tar.addfile(info, io.BytesIO(payload))


def _info(name, payload=b'x', **changes):
  info = tarfile.TarInfo(name)
  info.size = len(payload)
  for key, value in changes.items():
    setattr(info, key, value)
  return info, payload


TOP = 'nasjax-table'
HOSTILE = {
  'parent': [_info(f'{TOP}/../../evil')],
  'absolute': [_info('/tmp/evil')],
  'hidden': [_info(f'{TOP}/table/.lock')],
  'elsewhere': [_info('other/file')],
  'link': [_info(f'{TOP}/a', b'', type=tarfile.SYMTYPE, linkname='/etc')],
  'hard link': [_info(f'{TOP}/a', b'', type=tarfile.LNKTYPE, linkname='b')],
  'device': [_info(f'{TOP}/a', b'', type=tarfile.CHRTYPE)],
  'folder': [_info(f'{TOP}/a', b'', type=tarfile.DIRTYPE)],
  'twice': [_info(f'{TOP}/a'), _info(f'{TOP}/a')],
  'sparse': [_info(f'{TOP}/a', b'', pax_headers={
    'GNU.sparse.major': '1', 'GNU.sparse.minor': '0',
    'GNU.sparse.name': f'{TOP}/a', 'GNU.sparse.realsize': str(10**12)})],
}  # fmt: skip


@pytest.mark.parametrize('kind', HOSTILE)
def test_hostile_archives_are_refused(tmp_path, kind):
  archive, out = tmp_path / 'deep' / 'r.tar', tmp_path / 'deep' / 'out'
  archive.parent.mkdir()
  _archive(archive, HOSTILE[kind])
  for _ in range(2):
    with pytest.raises(table.TableError, match='r.tar '):
      table.unpack(archive, out)
    with pytest.raises(table.TableError):
      table.check_release(archive)
  assert [p.name for p in archive.parent.iterdir()] == ['r.tar']
  assert [p.name for p in tmp_path.iterdir()] == ['deep']


def test_absurd_sizes_and_manifests_are_refused(tmp_path):
  archive = tmp_path / 'r.tar'
  _archive(archive, [_info(f'{TOP}/a')])
  raw = bytearray(archive.read_bytes())
  with tarfile.open(archive) as tar:
    header = tar.getmembers()[1].offset
  huge = tarfile.TarInfo(f'{TOP}/a')
  huge.size = 10 << 30
  raw[header : header + 512] = huge.tobuf(tarfile.GNU_FORMAT)
  archive.write_bytes(raw)
  with pytest.raises(table.TableError, match='declares 10737418240 bytes'):
    table.check_release(archive)
  for changes, told in (
    ({'format': 'other'}, 'no manifest that can be read'),
    ({'files': {'a': 3}}, 'no manifest that can be read'),
    ({'version': 2}, 'release of version 2'),
    ({'files': {}}, 'not in its manifest'),
  ):
    _archive(archive, [_info(f'{TOP}/a')], changes)
    with pytest.raises(table.TableError, match=told):
      table.check_release(archive)
  archive.write_bytes(b'no tar at all')
  for wrong in (archive, tmp_path, tmp_path / 'none.tar'):
    with pytest.raises(table.TableError):
      table.check_release(wrong)


def test_the_launcher(run, tmp_path):
  archive, out = tmp_path / 'r.tar', tmp_path / 'out'
  tries = [
    [f'--table={run}', f'--out={archive}', '--authors=Ann,Bob'],
    [f'--check={archive}', f'--json={tmp_path / "r.json"}'],
    [f'--unpack={archive}', f'--out={out}'],
    [f'--check={archive}', f'--table={run}'],
    [f'--table={run}'],
  ]
  made, checked, unpacked, two, lost = tiny_run.tried(tries, 'release')
  assert made[0] == 0 and made[1].endswith(f'  {archive}\n'), made
  assert '17 rows in 6 shards' in checked[1], checked
  assert json.loads((tmp_path / 'r.json').read_text())['rows'] == 17
  assert unpacked[1] == f'17 rows in 5 shards in {out}\n', unpacked
  assert 'name: "Bob"' in (out / 'CITATION.cff').read_text()
  assert two[0] == 1 and 'give one of --table' in two[2]
  assert lost[0] == 1 and '--out is missing' in lost[2]
