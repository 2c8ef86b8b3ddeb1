"""Makes a manifest of a corpus as it lies: LibriSpeech, Common Voice, Kaldi.

  python experiments/make_manifest.py --layout=librispeech \\
    --source=LibriSpeech --lexicon=cmudict.dict --out=libri/manifest.jsonl

Every transcript and every recording is read once; all that is wrong is told
together, and then nothing is written. Splits are those of the corpus, or by
speaker where it has none. With --lexicon words become phones; without, the
manifest is for --targets=characters. GUIDE.md tells more.
"""

import json
import pathlib

from absl import flags
from common import (
  command,
  corpus_flags,  # noqa: F401  (flags on splits and on what is left out)
)

FLAGS = flags.FLAGS

flags.DEFINE_enum(
  'layout',
  None,
  ['librispeech', 'common_voice', 'kaldi'],
  'How the corpus lies: SUBSET/SPEAKER/CHAPTER/*.flac with *.trans.txt; '
  'train.tsv, dev.tsv, test.tsv (or validated.tsv) with clips/; data folders '
  'of wav.scp, text and perhaps segments and utt2spk.',
)
flags.DEFINE_string('source', None, 'The directory of the corpus.')
flags.DEFINE_string(
  'out', None, 'The manifest to write: a .jsonl, or a directory for it.'
)
flags.DEFINE_list(
  'subsets',
  [],
  'Parts to take (train-clean-100,dev-clean,test-clean; validated); all that '
  'the corpus has, of Common Voice train, dev and test, if not given.',
)
flags.DEFINE_list(
  'lexicon',
  [],
  'Pronunciations, as CMUdict or lexicon.txt of Kaldi has them; of several '
  'files the first that has a word tells it.',
)
flags.DEFINE_enum(
  'unknown_words',
  'refuse',
  ['refuse', 'spell', 'leave_out'],
  'Words that the lexicon lacks: an error, spelled letter by letter, or their '
  'utterances left out.',
)
flags.DEFINE_string(
  'missing', None, 'Where the words go that the lexicon lacks, one a line.'
)
flags.DEFINE_bool('stress', False, 'Keep the stress of phones: AH0, AH1, AH2.')
flags.DEFINE_bool(
  'plain_text', False, 'Texts in lower case, without punctuation.'
)
flags.DEFINE_string('json', None, 'Where what is printed goes.')
for _name in ('split_seed', 'allow_shared_speakers', 'drop'):
  flags.declare_key_flag(_name)


def _given(name):
  if not FLAGS[name].value:
    raise ValueError(f'--{name} is not given')
  return FLAGS[name].value


def _out():
  path = pathlib.Path(_given('out'))
  path = path if path.suffix in ('.jsonl', '.json') else path / 'manifest.jsonl'
  if path.is_dir() or any(p.is_file() for p in path.parents):
    raise ValueError(f'--out={FLAGS.out}: there can be no file {path}')
  return path


def _lexicon(reading):
  """Returns the `Lexicon` that the flags name, None if they do not."""
  from nasjax.data import lexicon

  if not FLAGS.lexicon:
    for name in ('unknown_words', 'missing', 'stress'):
      if FLAGS[name].present:
        raise ValueError(f'--{name} is for words and phones; give --lexicon')
    return None
  found = lexicon.Lexicon(FLAGS.stress)
  for path in FLAGS.lexicon:
    found.read(pathlib.Path(path), reading)
  return found


def _told(made, path):
  """Returns the lines that say what was made."""
  lines = []
  for split, utterances in made.examined.splits.items():
    hours = sum(made.examined.seconds[u.line] for u in utterances) / 3600
    speakers = len({u.speaker for u in utterances} - {''})
    lines.append(
      f'{split}: {len(utterances):,} utterances, {hours:.3g} hours, '
      f'{speakers} speakers'
    )
  symbols = made.examined.symbols
  shown = ' '.join(map(repr, symbols[:60])) + ' ...' * (len(symbols) > 60)
  lines.append(f'{len(symbols)} symbols: {shown}')
  for part in made.examined.left_out:
    lines.append(
      f'left out of {part["split"]}: {part["utterances"]} utterances, '
      f'{part["minutes"]:.2f} minutes, {part["rule"]}'
    )
  more = '' if FLAGS.lexicon else ' --targets=characters'
  more += ' --allow_shared_speakers' * FLAGS.allow_shared_speakers
  command_line = (
    f'python experiments/benchmark.py --corpus=manifest --corpus_path={path}'
    f'{more} --random_cells=32 --macro=compact --out=results/mine --dry_run'
  )
  return [*lines, *made.notes, f'{path} is written; next: {command_line}']


def _write(path, text):
  from nasjax.storage import disk

  path.parent.mkdir(parents=True, exist_ok=True)
  disk.publish(path, text.encode())


def run():
  """Reads, judges, and writes all of it or nothing."""
  layout, source = _given('layout'), pathlib.Path(_given('source'))
  path = _out()
  if not source.is_dir():
    raise ValueError(f'--source={source} is no directory')
  from nasjax.data import checks, lexicon, manifest
  from nasjax.data.layouts import LAYOUTS, lines, reading

  found = reading.Reading()
  LAYOUTS[layout](source, found, FLAGS.subsets)
  words = _lexicon(found)
  made = lines.make(
    found,
    source,
    path.parent,
    lexicon=words,
    unknown_words=FLAGS.unknown_words,
    plain_text=FLAGS.plain_text,
    drop=tuple(FLAGS.drop),
    seed=FLAGS.split_seed,
    allow_shared_speakers=FLAGS.allow_shared_speakers,
  )
  problems, missing = made.examined.problems, []
  if words is not None:
    missing = words.missing.most_common()
    if FLAGS.missing:
      _write(pathlib.Path(FLAGS.missing), ''.join(f'{w}\n' for w, _ in missing))
  if missing:
    made.notes.append(
      f'{len(missing)} words that the lexicon lacks: {lexicon.shown(missing)}'
    )
  told = [] if problems else _told(made, path)
  if FLAGS.json:
    record = {
      'manifest': None if problems else str(path),
      'told': told or made.notes,
      'problems': [p._asdict() for p in problems],
      'left_out': made.examined.left_out,
      'missing_words': dict(missing),
      'symbols': list(made.examined.symbols),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    _write(pathlib.Path(FLAGS.json), text)
  if problems:
    rules = sorted({p.rule for p in problems} & checks.DROPPABLE)
    parts = [checks.summary(problems), *made.notes[-1:] * bool(missing)]
    if rules:
      parts.append(f'--drop={",".join(rules)} leaves such utterances out')
    raise manifest.ManifestError('\n'.join(parts), problems)
  rows = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in made.rows)
  _write(path, rows)
  print('\n'.join(told))


if __name__ == '__main__':
  command.run(run)
