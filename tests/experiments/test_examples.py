"""The examples of parts of one's own are run, as users run them."""

import importlib.util

import jax
import manifests
import numpy as np
import pytest
import soundfile
import tiny_corpus
import tiny_run

from nasjax import cost, spaces, table
from nasjax.benchmark import running
from nasjax.data import corpus, manifest
from nasjax.models import common, counting, families, macros
from nasjax.models.nb_asr import ops
from nasjax.oneshot import methods, stages, steps
from nasjax.oneshot import search as searching
from nasjax.oneshot.supernet import Supernet
from nasjax.search import driver, landscape

EXAMPLES = tiny_run.ROOT / 'experiments' / 'examples'
KNOWN = spaces.SPACES, macros.BY_SPACE, families.FAMILIES, ops.OWN


def _example(name):
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def examples():
  """The examples that add to what is known; it is as it was afterwards."""
  before = [dict(names) for names in KNOWN]
  yield {name: _example(name) for name in ('own_operation', 'own_space')}
  for names, were in zip(KNOWN, before):
    names.clear()
    names.update(were)


@pytest.mark.parametrize(
  'path', sorted(EXAMPLES.glob('*.py')), ids=lambda p: p.stem
)
def test_examples_are_short_and_on_the_map(path):
  lines = path.read_text().splitlines()
  assert len(lines) < 60 and lines[0].startswith('"""')
  assert f'experiments/examples/{path.name}' in ''.join(lines)
  workspace = (tiny_run.ROOT / 'WORKSPACE.md').read_text()
  how_to_add = workspace.partition('## 4.')[2].partition('## 5.')[0]
  assert f'experiments/examples/{path.name}' in how_to_add


def _trained(space, archs, macro, out):
  """Trains architectures on the tiny corpus; returns their table."""
  tiny, recipe = tiny_corpus.corpus(), tiny_corpus.RECIPE
  job = running.Job(space, macro, recipe, tiny.name, tiny.fingerprint)
  for shard in running.plan(job, [(arch, 1) for arch in archs], 1):
    assert running.run_shard(job, shard, tiny_corpus.prepared(recipe), out)
  return table.open(out)


def _assert_padding_is_nothing(space, arch, macro):
  network = families.single(space, arch, macro)
  gates, frames = families.gates(space, arch), 13
  params = common.initial_params(network, jax.random.key(0), gates)
  rng = np.random.default_rng(0)
  x_btf = rng.normal(size=(1, 20, macro.features)).astype(np.float32)
  apply = jax.jit(lambda x, n: network.apply({'params': params}, x, n, gates))
  len_b = np.array([frames], np.int32)
  alone, (length,) = apply(x_btf[:, :frames], len_b)
  padded, _ = apply(x_btf, len_b)
  assert length == macro.output_frames(frames) == alone.shape[1]
  np.testing.assert_allclose(padded[:, :length], alone, atol=2e-6)


CELL = [[2, 0], [0, 0, 0], [3, 1, 0, 1]]  # light9, linear, zero and skips


def test_an_operation_of_ones_own_is_trained_and_counted(examples, tmp_path):
  space, macro = examples['own_operation'].SPACE, tiny_corpus.MACRO
  t = _trained(space, [CELL], macro, tmp_path)
  assert t.space is space and np.isfinite(t.query(CELL, 'test_per', seed=1))
  ours = [[5, 0], [0, 0, 0], [5, 1, 0, 1]]  # with zero in place of light9
  known = spaces.NB_ASR, ours, macro
  width = macro.filters[0]
  assert t.query(CELL, 'params', seed=1) == cost.params(*known) + 10 * width
  frames = macro.output_frames(200)
  more = frames * 9 * width
  assert t.query(CELL, 'macs', seed=1) == cost.macs(*known, 200) + more
  # What is counted is what there is.
  arch = space.parse(CELL)
  assert counting.params(space, arch, macro) == cost.params(space, arch, macro)
  _assert_padding_is_nothing(space, arch, macro)


@pytest.mark.slow
def test_it_is_searched_with_shared_weights(examples, tmp_path):
  space, macro = examples['own_operation'].SPACE, tiny_corpus.MACRO
  search = searching.Search(
    Supernet(space, macro, ('linear', 'light9')),
    methods.ST_NAS,
    steps.Weights('adam', tiny_corpus.variant(l2=0.0)),
    stages.fixed(1, 2, 1e-2),
    seed=3,
  )
  found = searching.run(
    search, tiny_corpus.prepared(), 'tiny', tmp_path, lambda p: None
  )
  assert found['names'] == space.names(found['arch'])
  losses = found['curves']['train_loss']
  assert losses[-1] < losses[0]


def test_a_space_of_ones_own_becomes_a_table_that_is_searched(
  examples, tmp_path
):
  example = examples['own_space']
  space = example.SPACE
  macro = macros.Plain('pocket', 8, 6, tiny_corpus.FEATURES, 2)
  archs = [{'layers': '1', 'taps': '3', 'end': '-'}, [1, 0, 1]]
  t = _trained(space, archs, macro, tmp_path)
  # A layer of 3 taps with its normalisation; the LSTM; the head.
  first, second = (3 * 8 + 3) * 8, (3 * 8 + 3) * 8
  head, lstm = 9 * 6, 4 * 8 * 17
  assert t.query(archs[0], 'params', seed=1) == first + head
  assert t.query(archs[1], 'params', seed=1) == first + second + lstm + head
  macs = 100 * (2 * 3 * 8 * 8 + 4 * 8 * 16 + 8 * 6)
  assert t.query(archs[1], 'macs', seed=1) == macs
  _assert_padding_is_nothing(space, space.parse(archs[1]), macro)
  scape = landscape.landscape(t)
  searcher = driver.made(
    _example('own_searcher').Annealing, scape.sizes, scape.epochs, 4
  )
  trace = driver.on_table(searcher, scape, 0, 2, 4)
  assert set(trace.test.ravel()) <= set(t.errors().astype(np.float32))


def test_names_of_nasjax_stay_its_own(examples):
  operation = examples['own_operation']
  for name in ('conv5', 'conv', 'a|b', ''):
    with pytest.raises(ValueError, match=f"operation '{name}'.*none of lin"):
      ops.add(name, ops.OWN['light9'])
  ours = spaces.Space('st_nas', {'a': ('1', '2')})
  with pytest.raises(ValueError, match="'st_nas' is one of nasjax"):
    families.add(ours, families.FAMILIES['light'])
  assert spaces.SPACES['light'] is operation.SPACE


def test_what_is_wrong_with_a_file_of_ones_own_is_one_line(tmp_path):
  (tmp_path / 'bad.py').write_text('import os\n\nos.nothing\n')
  (tmp_path / 'worse.py').write_text('import os\nos.(\n')
  mistakes = {
    f'--own={tmp_path}/none.py': f'there is no file {tmp_path}/none.py',
    f'--own={tmp_path}/bad.py': 'bad.py: line 3: AttributeError: module',
    f'--own={tmp_path}/worse.py': 'worse.py, line 2: invalid syntax',
    '--own=no_such_module': 'ModuleNotFoundError',
    '--space=light': 'conformer, conformer_small; --own=FILE.py',
  }
  outcomes = tiny_run.tried([(flag,) for flag in mistakes])
  for (status, output, errors), said in zip(outcomes, mistakes.values()):
    assert status == 1 and output == '' and said in errors, errors
    assert errors.startswith('benchmark.py: ') and errors.count('\n') == 1


def _recordings(folder):
  """Writes 8 recordings of noise with transcripts, two a speaker."""
  for i in range(8):
    place = folder / f'speaker{i // 2}'
    place.mkdir(exist_ok=True)
    suffix = '.flac' if i % 2 else '.WAV'
    audio_n = manifests.noise(seed=i, rate=22_050)
    soundfile.write(place / f'{i}{suffix}', audio_n, 22_050)
    (place / f'{i}.txt').write_text('Go on\n')


def test_recordings_of_ones_own_become_a_corpus(tmp_path, capsys):
  own_corpus = _example('own_corpus')
  _recordings(tmp_path)
  own_corpus.main(tmp_path)
  said = capsys.readouterr().out
  assert said == f'{tmp_path}/manifest.jsonl: 8 recordings, 0.1 minutes\n'
  builder = manifest.builder(
    tmp_path / 'manifest.jsonl',
    data_dir=tmp_path / 'tfds',
    targets='characters',
  )
  corpus.prepare(builder)
  sizes = {n: s.num_examples for n, s in builder.info.splits.items()}
  assert sizes == {'train': 4, 'validation': 2, 'test': 2}
  loaded = corpus.load(builder)
  assert loaded.symbols == (' ', 'g', 'n', 'o')
  assert loaded.train.ids[0].startswith('speaker')
  # What is wrong is told with its remedy.
  (tmp_path / 'speaker1' / '2.txt').write_text('go on ' * 40)
  with pytest.raises(SystemExit, match='manifest.jsonl:3: ctc_infeasible: .*;'):
    own_corpus.main(tmp_path)
  (tmp_path / 'speaker1' / '2.txt').unlink()
  with pytest.raises(OSError, match='No such file.*speaker1/2.txt'):
    own_corpus.main(tmp_path)


@pytest.mark.slow
def test_launchers_take_them_from_a_table_to_a_search(tmp_path):
  out, own = tmp_path / 'run', f'--own={EXAMPLES / "own_space.py"}'
  given = tiny_run.finished().flags
  dropped = '--cells=', '--macro=', '--members_per_shard=', '--cpu_devices='
  common_flags = [f for f in given if not f.startswith(dropped)]
  status, output, errors = tiny_run.finish(
    own, '--space=stack', '--macro=stack_16', '--random_cells=2',
    '--cpu_devices=1', f'--out={out}', *common_flags,
  )  # fmt: skip
  assert status == 0, errors
  assert '2 cells, 2 networks' in output and 'layers=' in output
  table_flags = own, f'--table={out}', f'--out={tmp_path / "s"}'
  status, output, errors = tiny_run.finish(
    *table_flags, '--searchers=evolution', '--repeats=2', '--budget=2',
    launcher='search',
  )  # fmt: skip
  assert status == 0 and 'evolution' in output, errors
  status, output, errors = tiny_run.finish(
    own, f'--run={out}', '--list', launcher='transcribe'
  )
  assert status == 0 and output.count('layers=') == 2, errors
