"""A corpus as training consumes it, and the schema its builders share.

A TFDS builder holds 16 kHz audio and transcripts on disk. `load` turns it into
arrays in memory: the normalised features of a `frontend.Frontend`, one
utterance after another, and the class ids of the transcripts.

What every builder provides. Splits `train`, `validation` and `test` of
`example_features`; `tokens` are in the corpus's own alphabet, `token_samples`
are first and last (exclusive) samples of each, with shape (0, 2) if not known.
`info.metadata` has `alphabet` (list), `train_map` (token to training symbol, or
None to leave it out), `score_map` (training symbol to the class it is scored
as), `fingerprint` (digest of the contents), and perhaps `name`, and `pieces`
(the model that cut sub-words, in base64).
"""

import base64
import contextlib
import dataclasses
import errno
import fcntl
import io
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import shuffle

from nasjax.data import audio as audio_lib
from nasjax.data import features, stored
from nasjax.data import frontend as frontend_lib

_METADATA = ('alphabet', 'train_map', 'score_map', 'fingerprint')


def example_features() -> tfds.features.FeaturesDict:
  """Returns the features of one utterance, all readable without TensorFlow.

  Texts come back as bytes in UTF-8. Audio is stored as bytes: integers of
  variable length would take ten times as long to write and read.
  """
  return tfds.features.FeaturesDict(
    {
      'id': tfds.features.Text(),
      'audio': tfds.features.Tensor(
        shape=(None,), dtype=np.int16, encoding='bytes'
      ),
      'tokens': tfds.features.Sequence(tfds.features.Text()),
      'token_samples': tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
      'text': tfds.features.Text(),
      'speaker': tfds.features.Text(),
    }
  )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps TFDS from writing messages and bars to the terminal."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _lock(folder: pathlib.Path, say=None) -> Iterator[bool | None]:
  """Holds the folder of a corpus against others who would prepare it.

  Args:
    folder: of all versions of the corpus.
    say: called with a line of text before waiting for another holder; None not
      to wait.

  Yields:
    True; False where another holds it, None where the file system knows no
    locks. A killed holder leaves none.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
  fd = os.open(folder / '.lock', flags, 0o666)
  held = True
  try:
    try:
      fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      held = say is not None
      if held:
        say(f'another run prepares the corpus {folder}; waiting for it')
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as e:
      if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        raise
      held = None
    yield held
  finally:
    os.close(fd)  # which unlocks


def _leavings(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns what unfinished preparations, living or not, left in a folder."""
  return [path for path in folder.glob('incomplete.*_*') if path.is_dir()]


def _clear(folder: pathlib.Path) -> None:
  """Removes what killed preparations left of a corpus, its lock being held."""
  for path in _leavings(folder):
    shutil.rmtree(path, ignore_errors=True)


def _clear_others(corpora: pathlib.Path) -> None:
  """Does so for all corpora of a kind, but those that are being prepared."""
  for folder in filter(_leavings, corpora.glob('*')):
    # Where corpora may only be read, nothing is removed.
    with contextlib.suppress(OSError), _lock(folder) as held:
      if held:
        _clear(folder)


@contextlib.contextmanager
def preparing(
  builder: tfds.core.DatasetBuilder, say: Callable[[str], None] = print
) -> Iterator[bool]:
  """Lets one process at a time prepare a corpus; the others wait for it.

  What killed preparations have left, of this corpus and of others of its
  builder, is removed; never what one that lives is writing.

  Args:
    builder: prepared or not.
    say: called with a line of text before waiting.

  Yields:
    whether there is something to prepare. What another has prepared meanwhile
    is known to the builder then.
  """
  place = pathlib.Path(builder.data_dir)
  if place.exists():
    _clear_others(place.parent.parent)
    yield False
    return
  place.parent.mkdir(parents=True, exist_ok=True)
  with _lock(place.parent, say) as held:
    if held:
      _clear(place.parent)
    _clear_others(place.parent.parent)
    made = place.exists()
    if not made:
      try:
        yield True
        return
      except OSError:
        # Without locks another may have been faster.
        if held or not place.exists():
          raise
  builder.info.read_from_directory(place)
  if made:
    yield False


class _OnDisk(shuffle.Shuffler):
  """Examples of a split on their way to its files, in order of their keys.

  TFDS holds up to a GB of them in memory, and then wants TensorFlow, and keys
  that are numbers (4.9.10). Here they wait in one file; keys, places and sizes
  alone are held.
  """

  def __init__(self, dirpath, *arguments, **options):
    super().__init__(dirpath, *arguments, **options)
    path = pathlib.Path(dirpath) / f'examples.{secrets.token_hex(8)}.tmp'
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = path.open('x+b')
    # Nobody else opens it, and it goes with this object.
    path.unlink()

  def _add_to_mem_buffer(self, hkey, data):
    self._mem_buffer.append((hkey, self._file.tell(), len(data)))
    self._file.write(data)

  def _iter_mem(self):
    for hkey, place, size in sorted(self._mem_buffer):
      self._file.seek(place)
      yield hkey, self._file.read(size)
    self._file.close()

  def __del__(self):
    # Where a corpus cannot be prepared nobody iterates to the end.
    self._file.close()


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
  """Lets TFDS prepare a corpus that is larger than memory."""
  kept = shuffle.Shuffler
  shuffle.Shuffler = _OnDisk
  try:
    yield
  finally:
    shuffle.Shuffler = kept


def prepare(
  builder: tfds.core.DatasetBuilder, say: Callable[[str], None] = print
) -> None:
  """Runs `download_and_prepare`, quietly, unless that has been done.

  Args:
    builder: of the corpus.
    say: called with a line of text where another process is preparing it.

  Raises:
    ValueError: what the builder finds wrong with the corpus, or a split
      without an utterance.
  """
  with preparing(builder, say), quiet(), _on_disk():
    try:
      builder.download_and_prepare()
    except AssertionError as error:  # a split in which there is nothing
      raise ValueError(f'{builder.name}: {error}') from error


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """The utterances of one split, in the builder's order.

  Where `train` is spoken at several speeds, all utterances come at speed 1,
  then all at the next, and so on. Those of other speeds are called
  `sp0.9-<id>`, and so are their speakers, who are other people then: Kaldi has
  it so, for at another speed a voice has another pitch, and another band.

  Attributes:
    ids: of the utterances.
    speakers: of the utterances, '' if not known.
    texts: words, '' if not known.
    features: float32 [frames, features], normalised, one utterance after
      another; 80 features a frame, or what the front end says. An array, or
      `stored.Features`, which reads slices of frames from a file.
    offset_u: int32, row of the first frame of each utterance.
    frames_u: int32, frames of each utterance.
    labels: int32 training ids of each utterance, from 1; 0 is the blank. At a
      higher speed a network may have too few output frames for them: the loss
      leaves such utterances out.
    samples_u: int64, audio samples of each utterance at 16 kHz, at its speed.
    language_u: int32, number of each utterance's language, whose alphabet its
      labels are of (`joined`); None where there is one only.
  """

  ids: tuple[str, ...]
  speakers: tuple[str, ...]
  texts: tuple[str, ...]
  features: np.ndarray
  offset_u: np.ndarray
  frames_u: np.ndarray
  labels: tuple[np.ndarray, ...]
  samples_u: np.ndarray
  language_u: np.ndarray | None = None

  @property
  def audio_seconds(self) -> float:
    return float(self.samples_u.sum() / features.SAMPLE_RATE)

  def x_tf(self, utterance: int) -> np.ndarray:
    """Returns x_tf [frames, features] of one utterance, by position."""
    first = self.offset_u[utterance]
    return self.features[first : first + self.frames_u[utterance]]


def drawn(name: str, features: list, labels: list) -> Split:
  """Returns a `Split` of features that no audio stands behind.

  Args:
    name: utterances are called <name>-0, <name>-1, ...
    features: for each utterance, float [frames, features].
    labels: for each, int32 training ids.
  """
  frames_u = np.array([len(x_tf) for x_tf in features], np.int32)
  nothing = ('',) * len(features)
  return Split(
    ids=tuple(f'{name}-{u}' for u in range(len(features))),
    speakers=nothing,
    texts=nothing,
    features=np.concatenate(features).astype(np.float32),
    offset_u=(np.cumsum(frames_u) - frames_u).astype(np.int32),
    frames_u=frames_u,
    labels=tuple(labels),
    # As many as have these frames of features.
    samples_u=frames_u.astype(np.int64) * 160 + 240,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
  """A corpus in memory.

  Attributes:
    name: for people.
    fingerprint: digest of the contents (samples, transcripts and splits); then,
      where it is not `frontend.NB_ASR`, of the front end.
    symbols: training alphabet, sorted; the id of a symbol is its index + 1.
    fold_v: int32 [1 + symbols], scoring class of each id, from 1; 0 for 0.
    classes: scoring classes, sorted; the number of a class is its index + 1.
    train: for the weights.
    validation: for choosing among epochs and cells.
    test: for reporting.
    mean_f: float32 [measured], of the features of `train` before
      normalisation; None where each speaker has a mean.
    variance_f: float32 [measured], of the same; None likewise.
    frontend: that the features come from.
    speakers: as in `frontend.Fitted`.
    pieces: the model of sub-words, as `word_pieces` has it; None of others.
    alphabets: of several languages (`joined`) the symbols of each, by its code,
      in the order of their numbers; None where there is one only.
  """

  name: str
  fingerprint: str
  symbols: tuple[str, ...]
  fold_v: np.ndarray
  classes: tuple[str, ...]
  train: Split
  validation: Split
  test: Split
  mean_f: np.ndarray | None
  variance_f: np.ndarray | None
  frontend: frontend_lib.Frontend = frontend_lib.NB_ASR
  speakers: Mapping = dataclasses.field(default_factory=dict)
  pieces: bytes | None = None
  alphabets: Mapping[str, tuple[str, ...]] | None = None

  @property
  def fitted(self) -> frontend_lib.Fitted:
    """What makes features of further speech."""
    return frontend_lib.Fitted(
      self.frontend, self.mean_f, self.variance_f, self.speakers
    )


def _metadata(builder: tfds.core.DatasetBuilder) -> Mapping:
  """Returns the metadata of a prepared corpus, complete."""
  if not builder.data_path.exists():
    raise ValueError(
      f'{builder.data_dir} is not prepared: call prepare(builder) first'
    )
  metadata = builder.info.metadata or {}
  missing = [name for name in _METADATA if name not in metadata]
  if missing:
    raise ValueError(f'{builder.data_dir} has no metadata {missing}')
  return metadata


def _alphabets(metadata: Mapping):
  """Returns symbols, fold_v and classes; see `Corpus`."""
  symbols = sorted({s for s in metadata['train_map'].values() if s is not None})
  score_map = metadata['score_map']
  missing = [symbol for symbol in symbols if symbol not in score_map]
  if missing:
    raise ValueError(f'score_map says nothing of {missing}')
  classes = sorted({score_map[symbol] for symbol in symbols})
  fold_v = [0] + [1 + classes.index(score_map[symbol]) for symbol in symbols]
  return tuple(symbols), np.array(fold_v, np.int32), tuple(classes)


def _pieces(metadata: Mapping) -> bytes | None:
  """Returns the model of sub-words that metadata hold in letters."""
  text = metadata.get('pieces')
  return None if text is None else base64.b64decode(text)


def _label_ids(
  tokens: Sequence[str], train_map: Mapping, ids: Mapping[str, int], name: str
) -> np.ndarray:
  """Returns int32 training ids of a transcript."""
  unknown = sorted(set(tokens).difference(train_map))
  if unknown:
    raise ValueError(f'utterance {name!r} has unknown tokens {unknown}')
  mapped = [train_map[token] for token in tokens]
  return np.array([ids[s] for s in mapped if s is not None], np.int32)


def _check_length(name: str, samples: int, speeds: Sequence[float]) -> None:
  """Refuses an utterance that has no frame at one of the speeds."""
  fastest = max(speeds)
  heard = audio_lib.length_at_speed(samples, fastest)
  if heard < features.WINDOW:
    speed = '' if fastest == 1.0 else f' at speed {fastest:g}'
    raise ValueError(
      f'utterance {name!r} has {heard} samples{speed}: no frame; leave it out'
    )


def _at_speed(row: tuple, speed: float) -> tuple:
  """Returns an utterance's row of `_read` as it is at a speed."""
  key, speaker, text, labels, samples = row
  prefix = frontend_lib.prefix(speed)
  return (
    prefix + key,
    speaker and prefix + speaker,  # nobody stays nobody
    text,
    labels,
    audio_lib.length_at_speed(samples, speed),
  )


def _read(
  source,
  train_map: Mapping,
  ids: Mapping,
  speeds: Sequence[float],
  tick,
) -> dict:
  """Returns all of a split but its features, by the names of `Split`."""
  rows = []
  for example in source:
    key = example['id'].decode()
    tokens = [token.decode() for token in example['tokens']]
    labels = _label_ids(tokens, train_map, ids, key)
    samples = len(example['audio'])
    _check_length(key, samples, speeds)
    texts = example['speaker'].decode(), example['text'].decode()
    rows.append((key, *texts, labels, samples))
    tick()
  rows = [_at_speed(row, speed) for speed in speeds for row in rows]
  keys, speakers, texts, labels, samples = zip(*rows)
  if len(speeds) > 1 and len(set(keys)) < len(keys):
    raise ValueError(
      f'the names {frontend_lib.prefix(speeds[1])}.. of speeds are taken: the '
      'corpus has been perturbed already; take a front end of one speed'
    )
  return {
    'ids': keys,
    'speakers': speakers,
    'texts': texts,
    'labels': labels,
    'samples_u': np.array(samples, np.int64),
  }


def _split(told: Mapping, features_nf=None, width: int = 0) -> Split:
  """Returns a `Split` of what `_read` told.

  Args:
    told: by name.
    features_nf: of all utterances; an array to be filled in if not given.
    width: of that array.
  """
  frames_u = features.num_frames(told['samples_u'])
  if features_nf is None:
    # The pages of this array come into being as they are filled.
    features_nf = np.empty((frames_u.sum(), width), np.float32)
  return Split(
    features=features_nf,
    offset_u=(np.cumsum(frames_u) - frames_u).astype(np.int32),
    frames_u=frames_u.astype(np.int32),
    **told,
  )


def _played(source, speeds: Sequence[float]) -> Iterator[np.ndarray]:
  """Yields int16 samples: all utterances at one speed, then at the next."""
  for speed in speeds:
    for example in source:
      yield audio_lib.change_speed(example['audio'], speed)


def _finish(
  splits: Mapping[str, Split], frontend: frontend_lib.Frontend, block: int
):
  """Makes what was measured the features of a front end, in place.

  Returns:
    mean_f, variance_f and speakers; see `Corpus`.
  """
  measured = frontend.measured
  mean_f = variance_f = None
  speakers = {}
  if frontend.normalise == 'corpus':
    mean_f, variance_f = features.statistics(
      splits['train'].features[:, :measured]
    )
  for name, split in splits.items():
    utterances = [split.x_tf(u) for u in range(len(split.ids))]
    if frontend.normalise == 'corpus':
      measured_nf = split.features[:, :measured]
      frontend_lib.normalise(measured_nf, mean_f, variance_f, block)
    else:
      own = [x_tf[:, :measured] for x_tf in utterances]
      found = frontend_lib.normalise_speakers(own, split.speakers)
      # Nobody comes again at another speed; those of speed 1 stand first.
      speeds = len(frontend.speeds) if name == 'train' else 1
      known = set(split.speakers[: len(split.speakers) // speeds]) - {''}
      speakers |= {(name, speaker): found[speaker] for speaker in known}
    if frontend.deltas:
      frontend_lib.fill_deltas(utterances, measured)
  return mean_f, variance_f, speakers


def load(
  builder: tfds.core.DatasetBuilder,
  *,
  frontend: frontend_lib.Frontend = frontend_lib.NB_ASR,
  batch_seconds: float = frontend_lib.BLOCK_SECONDS,
  progress: Callable[[int, int], None] | None = None,
  encoding: str | None = None,
  place: pathlib.Path | None = None,
) -> Corpus:
  """Reads a prepared corpus and computes its features on the device.

  Args:
    builder: prepared, with the schema at the head of this file.
    frontend: what the features are.
    batch_seconds: speech on the device at a time; all of it at one shape.
    progress: called with the utterances done (each is read twice, and once more
      for each further speed) and their total, as they are done.
    encoding: of `stored.ENCODINGS`, to keep the features in files, for corpora
      larger than memory: those of training are read when they are asked for,
      those of the other splits now. Rounding changes results, so the
      fingerprint names it. Computed once: what is there is read again.
    place: directory of these files.

  Returns:
    The corpus, in memory: 32 kB a second of speech (48 kB with 40 energies and
    deltas, at each speed), and little more while it is being read. With an
    `encoding` so much of validation and test only.

  Raises:
    ValueError: the builder is not prepared, or lacks metadata or a split; an
      utterance has no frame at one of the speeds, or a token that `train_map`
      does not know; ids like those that speeds give; the front end needs more
      than one look at an utterance, and there is an `encoding`.
  """
  metadata = _metadata(builder)
  symbols, fold_v, classes = _alphabets(metadata)
  ids = {symbol: number for number, symbol in enumerate(symbols, start=1)}
  names = ('train', 'validation', 'test')
  absent = [name for name in names if name not in builder.info.splits]
  if absent:
    raise ValueError(f'{builder.data_dir} has no split {absent}')
  speeds = {name: (1.0,) for name in names}
  speeds['train'] = frontend.training_speeds
  total = sum(
    (1 + len(speeds[name])) * builder.info.splits[name].num_examples
    for name in names
  )
  done = 0

  def tick():
    nonlocal done
    done += 1
    if progress is not None:
      progress(done, total)

  block = frontend_lib.block(batch_seconds)
  fingerprint = frontend.fingerprint(metadata['fingerprint'])
  sources = {name: builder.as_data_source(split=name) for name in names}

  def read(name):
    return _read(sources[name], metadata['train_map'], ids, speeds[name], tick)

  def energies(name):
    recordings = _played(sources[name], speeds[name])
    return frontend_lib.log_mel_blocks(
      recordings, block, tick, frontend.mels, frontend.window
    )

  if encoding is not None:
    whole = frontend.deltas or frontend.pitch
    if whole or frontend.normalise != 'corpus':
      raise ValueError(
        f'front end {frontend.name} wants whole speakers and utterances; '
        'features in files are for those that normalise over the corpus, '
        'without deltas and pitch'
      )
    total += builder.info.splits['train'].num_examples * len(speeds['train'])
    path = stored.directory(place, fingerprint, encoding)
    stored.made(path, lambda own: _store(own, encoding, read, energies))
    splits, mean_f, variance_f = _stored(path, encoding, frontend.width)
    speakers, fingerprint = {}, f'{fingerprint}+{encoding}'
  else:
    splits = {}
    for name in names:
      split = _split(read(name), width=frontend.width)
      recordings = _played(sources[name], speeds[name])
      frontend_lib.measure(split.features, recordings, frontend, block, tick)
      splits[name] = split
    mean_f, variance_f, speakers = _finish(splits, frontend, block)
  return Corpus(
    name=metadata.get('name', builder.name),
    fingerprint=fingerprint,
    symbols=symbols,
    fold_v=fold_v,
    classes=classes,
    mean_f=mean_f,
    variance_f=variance_f,
    frontend=frontend,
    speakers=speakers,
    pieces=_pieces(metadata),
    **splits,
  )


def _store(path: pathlib.Path, encoding: str, read, energies) -> None:
  """Writes the features of all splits into a directory.

  Energies are computed twice, which is faster than to keep them: once for mean
  and variance of training, once for the features.

  Args:
    path: the directory.
    encoding: of `stored.ENCODINGS`.
    read: of a split's name, what `_read` returns.
    energies: of a split's name, its log-mel energies, block by block.
  """
  moments = stored.Moments()
  for block_nf in energies('train'):
    moments.add(block_nf)
  mean_f, variance_f = moments.result()
  np.savez(path / 'statistics.npz', mean_f=mean_f, variance_f=variance_f)
  for name in ('train', 'validation', 'test'):
    stored.write_utterances(path / f'{name}.parquet', read(name))
    with contextlib.closing(
      stored.Writer(path / f'{name}.bin', encoding)
    ) as writer:
      for block_nf in energies(name):
        writer.add(features.normalise(block_nf, mean_f, variance_f))


def _stored(path: pathlib.Path, encoding: str, width: int):
  """Returns splits, mean_f and variance_f of a directory of `_store`."""
  splits = {}
  for name in ('train', 'validation', 'test'):
    told = stored.read_utterances(path / f'{name}.parquet')
    found = stored.Features(path / f'{name}.bin', width, encoding)
    # Validation and test are small, and looked at after every epoch.
    splits[name] = _split(told, found if name == 'train' else found[:])
  statistics = np.load(path / 'statistics.npz')
  return splits, statistics['mean_f'], statistics['variance_f']


class Utterance(NamedTuple):
  """An utterance of a prepared corpus; see `Split`.

  Attributes:
    id, speaker, text: '' for what is not known of the last two.
    labels: int32, training ids.
    samples_n: int16, at 16 kHz.
  """

  id: str
  speaker: str
  text: str
  labels: np.ndarray
  samples_n: np.ndarray


def utterances(
  builder: tfds.core.DatasetBuilder, split: str
) -> Iterator[Utterance]:
  """Yields the utterances of a split one by one: memory stays as it is.

  Raises:
    ValueError: the builder is not prepared, lacks metadata, or has no such
      split; or an utterance has a token that `train_map` does not know.
  """
  metadata = _metadata(builder)
  symbols, _, _ = _alphabets(metadata)
  ids = {symbol: number for number, symbol in enumerate(symbols, start=1)}
  if split not in builder.info.splits:
    raise ValueError(f'no split {split!r}: {sorted(builder.info.splits)}')
  for example in builder.as_data_source(split=split):
    key = example['id'].decode()
    tokens = [token.decode() for token in example['tokens']]
    labels = _label_ids(tokens, metadata['train_map'], ids, key)
    texts = example['speaker'].decode(), example['text'].decode()
    yield Utterance(key, *texts, labels, example['audio'])


def audio(
  builder: tfds.core.DatasetBuilder, split: str, utterance_id: str
) -> np.ndarray:
  """Returns the int16 samples, at 16 kHz, of one utterance.

  Raises:
    ValueError: the builder is not prepared, or has no such split or utterance.
  """
  _metadata(builder)
  if split not in builder.info.splits:
    raise ValueError(f'no split {split!r}: {sorted(builder.info.splits)}')
  for example in builder.as_data_source(split=split):
    if example['id'].decode() == utterance_id:
      return example['audio']
  raise ValueError(
    f'no utterance {utterance_id!r} in {split} of {builder.name}'
  )
