"""Shards that are being trained, noted so that a killed process is found out.

Linux kills a process that takes more memory than there is, and no exception
tells of it. So the members that stand on the devices are written down before a
shard begins; a note that still says so when the run goes on is of a process
that was killed. Whether that was for memory is counted by the kernel.

  OUT/attempts/<shard>.json    removed when the shard is left, unless it says
                               that not all members fit
"""

import json
import pathlib

from nasjax.storage import disk

_PROC = pathlib.Path('/proc')


def begin(out, shard, size):
  """Notes that so many members of a shard are about to be trained at a time."""
  place = pathlib.Path(out) / 'attempts'
  disk.make_directory(place)
  disk.clear(place, f'.{shard.name}.')  # of who was killed here
  boot, kills = _kills()
  note = {
    'size': size,
    'epoch': _epoch(out, shard.name),
    'boot': boot,
    'kills': kills,
    'running': True,
  }
  disk.publish(place / f'{shard.name}.json', json.dumps(note).encode())


def end(out, shard):
  """Notes that a shard is no longer in training, whatever the reason.

  What is known of its size stays known: another shard of its signature would be
  killed as well.
  """
  path = pathlib.Path(out) / 'attempts' / f'{shard.name}.json'
  note = _read(path)
  if note is None or note['size'] >= shard.size:
    path.unlink(missing_ok=True)
  else:
    disk.publish(path, json.dumps(note | {'running': False}).encode())


def learnt(out, shards, devices, say):
  """Returns how many members fit, by the attempts of earlier processes.

  Args:
    out: directory of the run.
    shards: of `running.plan`.
    devices: what a number of members is a multiple of.
    say: called with a line of text where an attempt was killed for memory.

  Returns:
    dict from signatures to numbers; those of which nothing is known are absent.
  """
  at_once = {}
  for shard in shards:
    note = _read(pathlib.Path(out) / 'attempts' / f'{shard.name}.json')
    if note is None:
      continue
    size = note['size']
    if note['running'] and _killed_for_memory(out, shard.name, note):
      size = max(devices, -(-size // (2 * devices)) * devices)
      fault = (
        f'shard {shard.name}: the last run was killed with {note["size"]} '
        'networks on the devices, by all appearances for memory'
      )
      if size < note['size']:
        say(f'{fault}; going on with {size} at a time')
      else:
        say(f'{fault}, and there can be no fewer; it needs more memory')
    elif size >= shard.size:
      continue
    known = at_once.get(shard.signature, size)
    at_once[shard.signature] = min(known, size)
  return at_once


def _killed_for_memory(out, name, note):
  """Tells whether a process that was killed in training was so for memory.

  Since the same boot the kernel's count says. Elsewhere, on another machine,
  say, it is assumed of an attempt that did not see the end of an epoch.
  """
  boot, kills = _kills()
  if kills is not None and boot == note['boot'] and note['kills'] is not None:
    return kills > note['kills']
  return _epoch(out, name) <= note['epoch']


def _kills():
  """Returns which boot this is and what was killed for memory in it."""
  try:
    boot = (_PROC / 'sys/kernel/random/boot_id').read_text().strip()
    lines = (_PROC / 'vmstat').read_text().splitlines()
    counts = dict(line.split() for line in lines)
    return boot, int(counts['oom_kill'])
  except (OSError, KeyError, ValueError):
    return None, None


def _epoch(out, name):
  """Returns the last epoch of a shard that was saved, 0 before the first."""
  place = pathlib.Path(out) / 'checkpoints' / name
  found = [p.name for p in place.glob('*') if p.name.isdecimal()]
  return max(map(int, found), default=0)


def _read(path):
  """Returns a note; None where there is none that can be read."""
  try:
    note = json.loads(path.read_text())
    whole = note['size'] > 0 and note['epoch'] >= 0 and 'boot' in note
    return note if whole and {'kills', 'running'} <= set(note) else None
  except (OSError, ValueError, KeyError, TypeError):
    return None
