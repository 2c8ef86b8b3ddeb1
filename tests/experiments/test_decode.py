"""The launchers decode.py and language_model.py on runs that are over."""

import json
import os
import pathlib
import types
import wave

import pytest
import tensorflow_datasets as tfds
import tiny_run
from common import run_corpus

from nasjax import table
from nasjax.data import corpus, frontend
from nasjax.data.synthetic import librispeech, synthesis
from nasjax.decoding import arpa

pytest.importorskip('jiwer', reason="pip install '.[words]'")
CACHE = f'--compilation_cache={os.environ["NASJAX_TEST_CACHE"]}'
# Words of the grammar `digits` in the symbols of the 48 phones.
LEXICON = """one w ah n
two t uw
three th r iy
four f ao r
five f ay v
six s ih k s
"""


def _forked(launcher, *flags):
  status, output, errors = tiny_run.forked(*flags, launcher=launcher)
  assert status == 0, errors
  return output


@pytest.fixture(scope='module')
def lm(tmp_path_factory):
  """An ARPA file of the training transcripts of the tiny run."""
  place = tmp_path_factory.mktemp('lm')
  output = _forked(
    'language_model',
    f'--run={tiny_run.finished().out}',
    '--order=2',
    f'--lm={place / "lm.arpa"}',
    f'--json={place / "lm.json"}',
  )
  assert '10 words' in output and 'validation: perplexity' in output
  record = json.loads((place / 'lm.json').read_text())
  assert record['words'] == 10 and record['lacking']['words'] == 0
  assert record['validation_perplexity'] > 1
  assert arpa.read(place / 'lm.arpa').order == 2
  return place / 'lm.arpa'


def test_error_rates_are_those_of_the_table(tmp_path):
  run = tiny_run.finished()
  row = min(
    table.open(run.out).to_arrow().to_pylist(), key=lambda r: min(r['val_per'])
  )
  output = _forked(
    'decode',
    f'--run={run.out}',
    f'--cell={json.dumps(row["arch"])}',
    f'--seed={row["seed"]}',
    '--worst=2',
    f'--json={tmp_path / "found.json"}',
    CACHE,
  )
  record = json.loads((tmp_path / 'found.json').read_text())
  rate = record['rates']['per']
  assert rate['rate'] == pytest.approx(row['test_per'], abs=1e-12)
  counts = [rate[k] for k in ('substitutions', 'deletions', 'insertions')]
  assert sum(counts) == pytest.approx(rate['rate'] * rate['of'])
  assert f'PER {100 * rate["rate"]:.2f} %' in output
  assert 'wer' not in record['rates'] and not record['lacking']
  assert record['real_time_factor']['network'] > 0
  assert len(record['worst']) == 2 and record['utterances'] == 20
  first, second = record['worst']
  assert first['rate'] >= second['rate'] > 0
  assert f'1. {first["id"]}: ' in output and first['text'] in output


def test_words_of_phones_by_a_lexicon(tmp_path, lm):
  lexicon = tmp_path / 'lexicon.txt'
  lexicon.write_text(LEXICON)
  output = _forked(
    'decode',
    f'--run={tiny_run.finished().out}',
    f'--lm={lm}',
    f'--lexicon={lexicon}',
    '--utterances=6',
    f'--json={tmp_path / "found.json"}',
    CACHE,
  )
  record = json.loads((tmp_path / 'found.json').read_text())
  lacking = record['lacking']['lexicon']
  known = {line.split()[0] for line in LEXICON.splitlines()}
  assert lacking['words'] > 0 and not known & set(lacking['distinct'])
  assert lacking['of'] == record['rates']['wer']['of']
  assert record['lacking']['lm']['words'] == 0
  told = f'cannot hear {lacking["words"]} of {lacking["of"]} words'
  assert told in output
  assert record['real_time_factor']['search'] > 0


def test_recordings_are_heard_as_words(tmp_path, lm):
  """transcribe.py searches as decode.py does."""
  run = tiny_run.finished()
  lexicon, audio = tmp_path / 'lexicon.txt', tmp_path / 'one.wav'
  lexicon.write_text(LEXICON)
  place = json.loads((run.out / 'run.json').read_text())['prepared_corpus']
  builder = tfds.builder_from_directory(place)
  spoken = next(corpus.utterances(builder, 'test'))
  with wave.open(str(audio), 'wb') as file:
    file.setparams((1, 2, 16_000, 0, 'NONE', ''))
    file.writeframes(spoken.samples_n.tobytes())
  words = f'--lm={lm}', f'--lexicon={lexicon}', f'--run={run.out}', CACHE
  flags = *words, '--alternatives=3', '--align', f'--json={tmp_path / "t.json"}'
  output = _forked('transcribe', *flags, str(audio))
  (record,) = json.loads((tmp_path / 't.json').read_text())
  best, *others = record['alternatives']
  assert record['text'] == best['text'] and 0 < len(others) <= 2
  assert all(best['score'] >= other['score'] for other in others)
  assert output.startswith(f'{audio}: {best["text"]}\n')
  assert all(f'  {other["text"]}\n' in output for other in others)
  spelt = dict(line.split(' ', 1) for line in LEXICON.splitlines())
  symbols = ' '.join(spelt[word] for word in best['text'].split()).split()
  assert record['symbols'] == symbols == [span[0] for span in record['spans']]
  _forked('decode', *words, '--utterances=1', '--worst=1',
          f'--json={tmp_path / "d.json"}')  # fmt: skip
  decoded = json.loads((tmp_path / 'd.json').read_text())
  assert decoded['worst'][0]['heard'] == best['text']
  status, _, errors = tiny_run.forked(
    f'--run={run.out}', '--alternatives=3', str(audio), launcher='transcribe'
  )
  assert status == 1 and 'is for a search for words' in errors


def test_the_corpus_of_a_run_is_known_however_it_was_kept():
  """In 8 bits, in pieces, begun with other weights; but no other corpus."""
  own = types.SimpleNamespace(
    data_dir='data', info=types.SimpleNamespace(metadata={'fingerprint': 'abc'})
  )
  for kept in frontend.NB_ASR, frontend.NB_ASR_HAMMING:
    whole = kept.fingerprint('abc')
    for found in (whole, f'{whole}+uint8', f'{whole}+uint8+3pieces+initial-1'):
      run_corpus.check(_of_corpus(kept, found), own)
    for found in ('abcd', whole.replace('abc', 'abd'), f'{whole}d'):
      with pytest.raises(ValueError, match='data has corpus abc'):
        run_corpus.check(_of_corpus(kept, found), own)


def _of_corpus(kept, fingerprint):
  return types.SimpleNamespace(
    frontend=frontend.Fitted(kept), about={'corpus_fingerprint': fingerprint}
  )


def test_what_is_wrong_is_one_line(tmp_path, lm):
  run = f'--run={tiny_run.finished().out}'
  other = tmp_path / 'other.arpa'
  other.write_bytes(arpa.write(arpa.estimate([['\u0434\u0430']], 1)))
  spelt = tmp_path / 'spelt.txt'
  spelt.write_text(LEXICON)
  strange = tmp_path / 'strange.txt'
  strange.write_text('one W AH N\n')
  tries = [
    ([], '--run is empty'),
    ([f'--run={tmp_path}'], 'has no run.json'),
    ([run, f'--lm={tmp_path / "none"}'], 'none: No such file'),
    ([run, f'--lm={spelt}'], 'txt:6: no \\data\\'),
    ([run, f'--lm={lm}'], 'do not say where words begin'),
    ([run, f'--lexicon={strange}'], "txt:1: one: 'W' is no symbol"),
    ([run, f'--lm={other}', f'--lexicon={spelt}'], 'another alphabet'),
    ([run, '--rescore'], 'give --lm'),
    ([run, '--lexicon=lm'], '--lexicon=lm takes the words of --lm'),
    ([run, '--engine=flashlight', f'--lm={lm}'], 'needs --lexicon'),
    ([run, '--decoder=beam', f'--lm={lm}'], '--lm does not go with'),
  ]
  for flags, words in tries:
    status, _, errors = tiny_run.forked(*flags, CACHE, launcher='decode')
    assert status == 1 and words in errors, errors
    assert errors.count('\n') == 1


def test_sentences_of_a_file(tmp_path):
  text = tmp_path / 'text.txt'
  text.write_text("don't stop\n\nGo on, go!\n")
  output = _forked(
    'language_model', f'--text={text}', f'--lm={tmp_path / "lm.arpa"}'
  )
  assert '2 sentences, 4 words' in output
  assert arpa.read(tmp_path / 'lm.arpa').words == {"DON'T", 'STOP', 'GO', 'ON'}
  text.write_text('a 1\nb\nc 2\n')
  for flags, words in [
    (
      [f'--text={text}'],
      "txt:1: '1' in '1' is no letter (2 such lines in all)",
    ),
    ([f'--text={tmp_path / "no"}'], 'No such file'),
    ([], 'either --run or --text'),
  ]:
    status, _, errors = tiny_run.forked(
      *flags, f'--lm={tmp_path / "other"}', launcher='language_model'
    )
    assert status == 1 and words in errors and errors.count('\n') == 1
  assert not (tmp_path / 'other').exists()


@pytest.mark.slow
def test_from_librispeech_to_words(tmp_path):
  """Speech in its layout, sub-words, training, a model, and words."""
  pytest.importorskip('sentencepiece', reason="pip install '.[words]'")
  spec = synthesis.Spec(
    num_utterances=100, grammar='digits', words=(2, 4), snr_db=None, rt60=None
  )
  librispeech.write(tmp_path / 'spoken', spec)
  out = tmp_path / 'out'
  flags = (
    f'--out={out}', f'--data_dir={tmp_path / "data"}', CACHE,
    '--corpus=librispeech', f'--corpus_path={tmp_path / "spoken"}',
    '--partial_librispeech', '--pieces=24', '--random_cells=1', '--seeds=1',
    '--cpu_devices=1', '--macro=tiny', '--epochs=2', '--lr=0.01', '--batch=8',
    '--batch_long=8', '--buckets=1', '--curriculum=',
  )  # fmt: skip
  output = _forked('benchmark', *flags)
  assert 'LER' in output and 'WER' in output
  (place,) = (out / 'checkpoints').glob('*/pieces.model')
  (row,) = table.open(out).to_arrow().to_pylist()
  assert '+nb_asr_hamming-' in row['corpus_fingerprint']
  assert place.stat().st_size > 100
  found = pathlib.Path(tmp_path, 'found.json')
  _forked('decode', f'--run={out}', f'--json={found}', CACHE)
  rates = json.loads(found.read_text())['rates']
  assert rates['ler']['rate'] == pytest.approx(row['test_per'])
  lm = f'--lm={tmp_path / "lm.arpa"}'
  _forked('language_model', f'--run={out}', lm)
  for engine in ('own', 'flashlight'):
    if engine == 'flashlight':
      pytest.importorskip('flashlight', reason="pip install '.[lexicon]'")
    flags = lm, '--lexicon=lm', f'--engine={engine}', f'--json={found}'
    _forked('decode', f'--run={out}', *flags, CACHE)
    record = json.loads(found.read_text())
    assert record['lacking']['lexicon']['words'] == 0
    assert set(record['rates']) == {'ler', 'wer'}
    assert engine in record['decoder']
