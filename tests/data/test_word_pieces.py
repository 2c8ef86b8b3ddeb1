"""Tests of nasjax/data/word_pieces.py, and of manifests that are cut so."""

import sys

import manifests
import pytest

from nasjax.data import corpus, manifest, word_pieces
from nasjax.decoding import metrics, transcripts

pytest.importorskip('sentencepiece', reason="pip install '.[words]'")
TEXTS = [
  'HE COULD WAIT NO LONGER',
  "HE DON'T WAIT LONGER NO",
  'FOR A FULL HOUR HE HAD PACED UP AND DOWN',
  'STUFF IT INTO YOU HIS BELLY COUNSELLED HIM',
]


@pytest.mark.parametrize('kind', word_pieces.KINDS)
def test_pieces(kind):
  model = word_pieces.train(TEXTS, 30, kind)
  assert word_pieces.train(TEXTS, 30, kind) == model
  assert word_pieces.digest(model) != word_pieces.digest(
    word_pieces.train(TEXTS[:3], 24, kind)
  )
  symbols = word_pieces.symbols(model)
  assert len(symbols) == 30 and symbols == tuple(sorted(set(symbols)))
  cut = word_pieces.cut(model, [*TEXTS, 'HE \u00c4'])
  for text, pieces in zip(TEXTS, cut):
    assert set(pieces) <= set(symbols)
    assert word_pieces.joined(pieces) == text
    # The scores and the text of a decoder understand them alike.
    labels = [1 + symbols.index(piece) for piece in pieces]
    assert transcripts.spelt(labels, symbols) == text
  assert '\u00c4' in cut[-1] and '\u00c4' not in symbols
  assert metrics.decides(metrics.Units(symbols)) == 'LER'


@pytest.mark.parametrize('kind', word_pieces.KINDS)
def test_the_most_and_the_least(kind):
  with pytest.raises(word_pieces.VocabularyError, match='4 .* most') as error:
    word_pieces.train(TEXTS, 780, kind)
  most = int(str(error.value).split('at most ')[1].split()[0])
  assert len(word_pieces.symbols(word_pieces.train(TEXTS, most, kind))) == most
  with pytest.raises(word_pieces.VocabularyError, match='at most'):
    word_pieces.train(TEXTS, most + 1, kind)
  with pytest.raises(word_pieces.VocabularyError, match='at least') as error:
    word_pieces.train(TEXTS, 3, kind)
  least = int(str(error.value).split('at least ')[1].split()[0])
  word_pieces.train(TEXTS, least, kind)


def test_no_such_model(monkeypatch):
  with pytest.raises(ValueError, match="'words'.*unigram, bpe"):
    word_pieces.train(TEXTS, 40, 'words')
  with pytest.raises(ValueError, match='no transcript'):
    word_pieces.train([' '], 40)
  with pytest.raises(ValueError, match='4 bytes are no model'):
    word_pieces.symbols(b'none')
  monkeypatch.setitem(sys.modules, 'sentencepiece', None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[words\]'"):
    word_pieces.train(TEXTS, 40)


def _prepared(path, data_dir, **options):
  builder = manifest.builder(path, data_dir=data_dir, **options)
  corpus.prepare(builder)
  return builder


def _rows(tmp_path):
  rows = manifests.good_rows(tmp_path)
  for i, row in enumerate(rows):
    row['text'] = f'Go on, {["you", "they", "he"][i % 3]} don\u2019t'
  return rows


def _tokens(builder, split):
  return [
    tuple(token.decode() for token in example['tokens'])
    for example in builder.as_data_source(split=split)
  ]


def test_a_manifest_in_sub_words(tmp_path):
  path = manifests.write(tmp_path, _rows(tmp_path))
  options = {'targets': 'word_pieces', 'pieces': 12}
  builder = _prepared(path, tmp_path / 'tfds', **options)
  metadata = builder.info.metadata
  model = corpus._pieces(metadata)
  assert tuple(metadata['alphabet']) == word_pieces.symbols(model)
  assert len(metadata['alphabet']) == 12
  for split in ('train', 'validation', 'test'):
    for tokens in _tokens(builder, split):
      assert word_pieces.joined(tokens).startswith('GO ON ')
      assert word_pieces.joined(tokens).endswith(" DON'T")
  # Others cut otherwise, and are another corpus.
  other = _prepared(path, tmp_path / 'tfds', **options, piece_model='bpe')
  assert other.data_dir != builder.data_dir
  assert other.info.metadata['fingerprint'] != metadata['fingerprint']
  lower = _prepared(path, tmp_path / 'tfds', **options, text_case='lower')
  assert word_pieces.joined(_tokens(lower, 'test')[0]).islower()


def test_a_manifest_in_words(tmp_path):
  rows = _rows(tmp_path)
  rows[-1]['text'] = 'go on, strangers'
  path = manifests.write(tmp_path, rows)
  builder = _prepared(path, tmp_path / 'tfds', targets='words')
  metadata = builder.info.metadata
  mark = word_pieces.MARK
  words = ("DON'T", 'GO', 'HE', 'ON', 'THEY', 'YOU')
  assert tuple(metadata['alphabet']) == (
    word_pieces.UNKNOWN,
    *(mark + word for word in words),
  )
  assert _tokens(builder, 'test')[-1] == (
    mark + 'GO', mark + 'ON', word_pieces.UNKNOWN
  )  # fmt: skip
  assert metadata['notes'] == [
    '1 of 7 words of test are none of training, and an error each'
  ]
  symbols = tuple(metadata['alphabet'])
  units = metrics.Units(symbols)
  assert metrics.decides(units, 'words') == 'WER'
  assert metrics.METRICS['wer']([[3, 5]], [[3, 5, 1]], units).rate == 1 / 3


def test_all_that_is_wrong_with_texts(tmp_path):
  rows = _rows(tmp_path)
  rows[0]['text'] = 'go 2 on'
  rows[1]['text'] = '...'
  rows[11]['text'] = 'go \u00e4'
  path = manifests.write(tmp_path, rows)
  given = {'targets': 'word_pieces', 'pieces': 12}
  problems = manifest.check(path, **given)
  assert [(p.line, p.rule) for p in problems] == [
    (1, 'digits'), (2, 'empty_transcript'), (12, 'unknown_phone')
  ]  # fmt: skip
  assert '--digits=spell' in str(problems[0])
  assert manifests.found(manifest.check(path, **given, digits='spell')) == [
    (2, 'empty_transcript'), (12, 'unknown_phone')
  ]  # fmt: skip
  dropped = ('digits', 'empty_transcript', 'unknown_phone')
  assert not manifest.check(path, **given, drop=dropped)
  problems = manifest.check(path, targets='word_pieces', drop=dropped)
  assert [p.rule for p in problems] == ['small_vocabulary']
  assert 'at most' in str(problems[0]) and '--pieces' in str(problems[0])


def test_too_short_for_its_words(tmp_path):
  rows = _rows(tmp_path)
  rows[3]['text'] = ' '.join(['you you'] * 14)  # a second has 25 steps
  path = manifests.write(tmp_path, rows)
  (problem,) = manifest.check(path, targets='words')
  assert (problem.line, problem.rule) == (4, 'ctc_infeasible')
  assert '28 targets need 55 time steps' in str(problem)
  assert not manifest.check(path, targets='words', drop=['ctc_infeasible'])


def test_options_that_contradict(tmp_path):
  for given, words in [
    ({'targets': 'letters'}, 'phones, characters, word_pieces, words'),
    ({'piece_model': 'word'}, 'unigram, bpe'),
    ({'pieces': 0}, 'at least 1'),
    ({'targets': 'words', 'alphabet_path': 'x'}, 'come from the training'),
    ({'targets': 'words', 'text_case': 'title'}, 'upper, lower, keep'),
  ]:
    with pytest.raises(ValueError, match=words):
      manifest.Options(**given)


def test_old_names_of_prepared_corpora():
  """They hold a digest of options: what there was before keeps its name."""
  assert manifest.Options().told() == (
    "(Options(targets='phones', alphabet_path=None, seed=0, "
    'allow_shared_speakers=False, drop=(), duration_tolerance=0.06, '
    'min_seconds=0.0, max_seconds=None), None)'
  )
  assert "('digits', 'spell')" in manifest.Options(digits='spell').told()
