"""The notebook that listens to a transfer, on a tiny one."""

import os
import re

import notebooks
import planted_table
import pytest
import tiny_run

from nasjax import table
from nasjax.data.synthetic import librispeech, synthesis

CACHE = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'


@pytest.mark.slow
def test_it_says_what_the_table_says(tmp_path):
  pytest.importorskip('sentencepiece', reason="pip install '.[words]'")
  pytest.importorskip('jiwer', reason="pip install '.[words]'")
  space = planted_table.SPACE
  archs = space.product(['conv5', 'conv7d2'], ['s10', 's21'])[:4]
  source = planted_table.write(tmp_path / 'source', archs).path
  spec = synthesis.Spec(
    num_utterances=100, grammar='digits', words=(2, 4), snr_db=None, rt60=None
  )
  librispeech.write(tmp_path / 'spoken', spec)
  out = tmp_path / 'out'
  status, _, errors = tiny_run.forked(
    f'--source={source}', '--best=1', '--random=0', '--worst=1', '--most=2',
    f'--out={out}', f'--data_dir={tmp_path / "data"}', CACHE,
    '--corpus=librispeech', f'--corpus_path={tmp_path / "spoken"}',
    '--partial_librispeech', '--pieces=24', '--seeds=1', '--cpu_devices=1',
    '--members_per_shard=2', '--macro=tiny', '--epochs=2', '--lr=0.01',
    '--batch=8', '--batch_long=8', '--buckets=1', '--curriculum=',
    '--metric=wer', launcher='transfer',
  )  # fmt: skip
  assert status == 0, errors
  fresh = notebooks.executed(
    'transfer',
    tmp_path,
    NASJAX_TRANSFER=str(out),
    NASJAX_SOURCE=str(source),
  )
  said = dict(
    re.findall(
      r'^(best|worst) +[\d.]+% +[\d.]+% +([\d.]+)% +[\d.]+%$',
      fresh['hear'].text,
      re.MULTILINE,
    )
  )
  t = table.open(out)
  rates = t.query(t.archs, 'val_per', epoch='best', seed='mean')
  for which, n in (('best', rates.argmin()), ('worst', rates.argmax())):
    wer = t.errors('wer')[(t.row_archs == t.archs[n]).all(axis=1)][0]
    assert float(said[which]) == pytest.approx(100 * wer, abs=0.051)
  assert fresh['align'].text.count('spoken  ') >= 6
  stored = notebooks.stored('transfer')
  assert {name: out.kinds for name, out in stored.items()} == {
    name: out.kinds for name, out in fresh.items()
  }
  notebooks.assert_drawn(p for o in fresh.values() for p in o.pictures)


def test_what_is_stored_is_whole():
  """A network hears what it did when its row was written."""
  stored = notebooks.stored('transfer')
  rows = re.findall(
    r'^(?:best|worst) +[\d.]+% +([\d.]+)% +([\d.]+)% +[\d.]+%$',
    stored['hear'].text,
    re.MULTILINE,
  )
  assert len(rows) == 2 and all(beam == kept for beam, kept in rows)
  correlations = re.findall(
    r'^(pearson|spearman|kendall) ', stored['compare'].text, re.M
  )
  assert correlations == ['pearson', 'spearman', 'kendall']
  (player,) = (d['text/html'] for d in stored['picture'].rest)
  assert 'data:audio/wav;base64,' in player
  assert len(stored['scatter'].pictures) == len(stored['picture'].pictures) == 1
