"""Common Voice: tables (train.tsv, validated.tsv ..) and clips/*.mp3."""

import pathlib
from collections.abc import Sequence

from nasjax.data.layouts.reading import Reading

_SPLITS = ('train', 'dev', 'test')
_COLUMNS = ('client_id', 'path', 'sentence')
# A clip that was converted is taken before the one it was converted from.
_BETTER = ('.flac', '.wav')


def read(
  source: pathlib.Path, reading: Reading, subsets: Sequence[str] = ()
) -> None:
  """Reads one language of Common Voice.

  Args:
    source: the directory that holds `clips` and the tables, or the one above.
    reading: takes what is there.
    subsets: names of tables to read, such as validated; if none, those of
      train, dev and test that are there, or validated.

  Raises:
    ValueError: no table is there, or no such one, or several languages are.
  """
  root = source
  if not (source / 'clips').is_dir():
    inner = sorted(path.parent for path in source.glob('*/clips'))
    if len(inner) != 1:
      names = ', '.join(path.name for path in inner) or 'none'
      raise ValueError(
        f'{source} holds no clips/; name the directory of one language '
        f'(there: {names})'
      )
    root = inner[0]
  there = sorted(root.glob('*.tsv'))
  usual = [path for path in there if path.stem in _SPLITS]
  usual = usual or [path for path in there if path.stem == 'validated']
  if not usual and not subsets:
    raise ValueError(
      f'{root} holds neither train.tsv, dev.tsv, test.tsv nor validated.tsv'
    )
  parts = reading.subsets(there if subsets else usual, subsets, 'tables')
  for path, split in parts.items():
    _table(path, split, root / 'clips', reading)


def _table(path, split, clips, reading):
  """Reads one table: its first line names the columns."""
  lines = reading.lines(path)
  number, first = next(lines, (0, ''))
  header = first.split('\t')
  absent = [name for name in _COLUMNS if name not in header]
  if absent:
    message = f'no column {", ".join(absent)} in {path.name}'
    reading.problem(path, number, 'missing_field', message)
    return
  for number, line in lines:
    values = line.split('\t')
    # Programs that write tables leave empty values at the end out.
    row = dict(zip(header, values))
    if len(values) > len(header) or not row.keys() >= set(_COLUMNS):
      message = f'{len(values)} values, {len(header)} columns'
      reading.problem(path, number, 'bad_field', message)
      continue
    if not row['path'].strip():
      reading.problem(path, number, 'missing_field', 'no path')
      continue
    clip = _clip(clips, row['path'].strip())
    text = _unquoted(row['sentence'])
    reading.utterance(number, clip.stem, clip, text, row['client_id'], split)


def _clip(clips, name):
  """Returns the file of a clip; the first tables named them without .mp3."""
  path = clips / name
  for suffix in _BETTER:
    if path.with_suffix(suffix).is_file():
      return path.with_suffix(suffix)
  return path if path.suffix else path.with_suffix('.mp3')


def _unquoted(text):
  """Takes off the quotation marks that CSV puts around marks in a sentence."""
  inner = text[1:-1]
  quoted = len(text) > 1 and text[0] == text[-1] == '"'
  if quoted and '"' not in inner.replace('""', ''):
    return inner.replace('""', '"')
  return text
