"""What stands beside the weights comes back, or is refused in one line."""

import json
import shutil
import types

import numpy as np
import pytest

from nasjax.data import frontend
from nasjax.decoding import metrics
from nasjax.training import portable

ABOUT = {'space': 'nb_asr', 'members': [{'arch': [0], 'seed': 1}]}
UNITS = metrics.Units(('a', 'ß', ' '), np.array([0, 1, 2, 0], np.int32))


def _prepared(fitted, pieces=None):
  return types.SimpleNamespace(
    fitted=fitted, units=UNITS, classes=('a', 's'), pieces=pieces
  )


def _statistics(seed, mels):
  rng = np.random.default_rng(seed)
  return tuple(rng.normal(size=(2, mels)).astype(np.float32))


_SPEAKERS = {
  ('train', 'a'): _statistics(1, 40),
  ('test', 'a'): _statistics(2, 40),
  ('validation', 'müller'): _statistics(3, 40),
}
FITTED = {
  'corpus': frontend.Fitted(frontend.NB_ASR, *_statistics(0, 80)),
  'speakers': frontend.Fitted(frontend.ST_NAS, speakers=_SPEAKERS),
}


@pytest.mark.parametrize('kind', FITTED)
def test_all_of_it_comes_back(tmp_path, kind):
  fitted, place = FITTED[kind], tmp_path / 'shard [1]'
  place.mkdir()
  (place / f'.{portable.NAME}.0a1b2c3d.tmp').write_text('of who was killed')
  portable.keep(place, _prepared(fitted), ABOUT)
  found = portable.read(place)
  assert found.about == ABOUT and found.classes == ('a', 's')
  assert found.units.symbols == UNITS.symbols
  np.testing.assert_array_equal(found.units.fold_v, UNITS.fold_v)
  assert found.fitted.frontend == fitted.frontend
  assert found.fitted.speakers.keys() == fitted.speakers.keys()
  for who in ('a', 'müller', 'nobody', None):
    one, other = found.fitted.of_speaker(who), fitted.of_speaker(who)
    assert (one is None) == (other is None)
    if one is not None:
      np.testing.assert_array_equal(one, other)
  # It is written once, and the same way each time.
  path = place / portable.NAME
  payload, made = path.read_bytes(), path.stat().st_mtime_ns
  portable.keep(place, _prepared(fitted), {})
  assert path.stat().st_mtime_ns == made
  assert payload == portable.written(found)
  assert [p.name for p in place.iterdir()] == [portable.NAME]


def test_sub_words_have_their_model_beside_it(tmp_path):
  for _ in range(2):
    portable.keep(tmp_path, _prepared(FITTED['corpus'], b'model'), ABOUT)
    assert (tmp_path / 'pieces.model').read_bytes() == b'model'
    # A run that was killed between the two writes both.
    (tmp_path / 'pieces.model').unlink()


def test_numpy_alone_reads_it(tmp_path):
  portable.keep(tmp_path, _prepared(FITTED['corpus']), ABOUT)
  with np.load(tmp_path / portable.NAME) as arrays:
    assert arrays['window_k'].shape == (400,)
    assert arrays['filters_nf'].shape == (201, 80)
    assert arrays['mean_f'].dtype == np.float32
    about = json.loads(str(arrays['about']))
  assert about['symbols'] == ['a', 'ß', ' '] and about['hop'] == 160


def test_what_cannot_be_read_is_one_line(tmp_path):
  path = tmp_path / portable.NAME

  def told(kind=ValueError):
    with pytest.raises(kind) as caught:
      portable.read(tmp_path)
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)

  assert 'give the command of the run again' in told(portable.MissingError)
  portable.keep(tmp_path, _prepared(FITTED['corpus']), ABOUT)
  payload = path.read_bytes()
  for broken in (b'', b'x' * 99, payload[:-40], payload[:900] + payload[940:]):
    path.write_bytes(broken)
    assert 'is damaged' in told() and 'remove it' in told()
  path.write_bytes(payload)
  with np.load(path) as file:
    arrays = dict(file)
  other = arrays | {'window_k': arrays['window_k'][:-1]}
  np.savez(path, **other)
  assert 'take the nasjax that wrote it' in told()
  head = json.loads(str(arrays['about'])) | {'format': 99}
  np.savez(path, **arrays | {'about': np.array(json.dumps(head))})
  assert 'format 99' in told()
  shutil.rmtree(tmp_path)
