"""One question has one answer, whoever asks it, and however often."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_run
from table_rows import SPACE, row

from nasjax import table

# In small: tests/table, in one process.
pytestmark = [pytest.mark.reliability, pytest.mark.slow]

ASK = """
import hashlib, sys
from nasjax import table
t = table.open(sys.argv[1])
cell = t.space.nested(t.archs[1])
answers = {
  repr(t.query(cell, 'val_per', seed=seed, epoch='best'))
  for _ in range(2500) for seed in (1, 2, 'mean', 'max')
}
text = ' '.join(sorted(answers)).encode()
print(hashlib.sha256(text).hexdigest(), len(answers))
"""


def test_one_question_has_one_answer(tmp_path):
  """Ten thousand times in each of four processes, of a table in a pack."""
  for name, seed in (('a', 1), ('b', 2)):
    cells = SPACE.from_index(np.arange(100, 104))
    table.write_shard(tmp_path, name, [row(cell, seed) for cell in cells])
  t = table.open(tmp_path)
  cell = t.space.nested(t.archs[1])
  wanted = sorted(
    repr(t.query(cell, 'val_per', seed=seed, epoch='best'))
    for seed in (1, 2, 'mean', 'max')
  )
  wanted = sorted(set(wanted))
  table.compact(tmp_path)
  command = [sys.executable, '-c', ASK, str(tmp_path)]
  processes = [
    subprocess.Popen(command, cwd=tiny_run.ROOT, stdout=subprocess.PIPE)
    for _ in range(4)
  ]
  digest = hashlib.sha256(' '.join(wanted).encode()).hexdigest()
  for process in processes:
    with process:
      said = process.communicate(timeout=300)[0].decode()
    assert said == f'{digest} {len(wanted)}\n'
