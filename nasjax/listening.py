"""Trained networks by themselves: what they hear, in one's own script.

  network = nasjax.load_network('results/quickstart', seed=1)
  network.transcribe('audio.wav').text

A run's directory is all that is needed; its corpus may be gone.
"""

import dataclasses
import difflib
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nasjax import table
from nasjax.data import audio as audio_lib
from nasjax.data import features, frontend
from nasjax.decoding import metrics, transcripts
from nasjax.losses import criterion
from nasjax.models import families
from nasjax.oneshot.supernet import Supernet
from nasjax.programs import keeping
from nasjax.spaces import SPACES
from nasjax.storage import checkpoints
from nasjax.table import schema
from nasjax.training import portable, recipes


class Kept(NamedTuple):
  """A network whose weights a run keeps.

  Attributes:
    place: directory of its checkpoints.
    about: what they say of themselves.
    arch: int8, its architecture.
    seed: of its training.
    cell: its name, for people.
    member: what they say of it.
  """

  place: pathlib.Path
  about: dict
  arch: np.ndarray
  seed: int
  cell: str
  member: dict

  @property
  def recipe(self):
    """The name of its recipe."""
    return self.recipe_values['name']

  @property
  def recipe_values(self):
    """Its recipe, as `recipes.describe` has it; a pilot's is its own."""
    return self.member.get('recipe', self.about['recipe'])

  @property
  def label(self):
    return f'{self.cell}, seed {self.seed}, recipe {self.recipe}'


@dataclasses.dataclass(frozen=True, eq=False)
class Transcript:
  """What a network heard in one recording.

  Attributes:
    text: words where units know of words, else symbols with spaces between.
    labels: int32, ids of the symbols; that of `network.symbols[i]` is i + 1.
    symbols: they themselves.
    logprob: natural log of the probability of the labels within the beam; None
      where decoding is greedy.
    frame_seconds: from one output frame to the next.
    logprobs_tv: log probabilities of blank and symbols in each output frame;
      None where the criterion knows of none.
    align: `Criterion.align`.
    notes: lines on how the recording was heard: that it was resampled, or by
      what it was normalised.
  """

  text: str
  labels: np.ndarray
  symbols: tuple
  logprob: float | None
  frame_seconds: float
  logprobs_tv: np.ndarray | None
  align: Callable | None = dataclasses.field(default=None, repr=False)
  notes: tuple = ()

  @functools.cached_property
  def alignment(self):
    """int32, the label that each output frame belongs to, 0 for the blank.

    That is on the most probable path through `labels`; it takes frames times
    twice the labels in bytes. None where the criterion knows of none.
    """
    if self.logprobs_tv is None:
      return None
    return self.align(self.logprobs_tv, self.labels)

  @property
  def spans(self):
    """(symbol, first second, last second) of each label, by `alignment`."""
    found, t = [], 0
    for label, run in itertools.groupby(self.alignment):
      first, t = t, t + len(list(run))
      if label:
        symbol = self.symbols[len(found)]
        found.append((symbol, *(n * self.frame_seconds for n in (first, t))))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
  """A network with its weights, its alphabet and its front end.

  Attributes:
    module: linen module; module.apply({'params': params}, x_btf, len_b, gates)
      returns what the criterion of `recipe` reads, for CTC logits_btv and the
      frames of each.
    params: its weights, NumPy, those of the best epoch by validation.
    gates: what tells the architecture apart in `module`.
    space, arch, seed, macro, recipe: that it was trained with.
    epoch: of the weights.
    units: `metrics.Units`: the alphabet, and the classes that count.
    classes: names of these.
    frontend: `data.frontend.Fitted`: window, filters, mean and variance.
    place: directory of the checkpoints that it comes from.
    about: what they say of themselves.
    notes: lines on what it is that one may not expect.
  """

  module: Any
  params: dict
  gates: Any
  space: Any
  arch: np.ndarray
  seed: int
  macro: Any
  recipe: Any
  epoch: int
  units: metrics.Units
  classes: tuple
  frontend: frontend.Fitted
  place: pathlib.Path
  about: dict
  notes: tuple = ()

  @property
  def variables(self):
    """What `module.apply` takes first."""
    return {'params': self.params}

  @property
  def symbols(self):
    """The alphabet; the id of a symbol is its index + 1, 0 is the blank."""
    return self.units.symbols

  @property
  def pieces(self):
    """The model of its sub-words, as `data.word_pieces` has it, or None."""
    path = self.place / portable.PIECES
    return path.read_bytes() if path.exists() else None

  @property
  def frame_seconds(self):
    """Seconds from one output frame to the next."""
    hop = self.frontend.hop / self.frontend.sample_rate
    return hop * self.macro.reduction

  @property
  def label(self):
    """What tells it apart in its run, for people."""
    return (
      f'{self.space.names(self.arch)}, seed {self.seed}, recipe '
      f'{self.recipe.name}'
    )

  def __repr__(self):
    return f'<TrainedNetwork {self.label}, {len(self.symbols)} symbols>'

  def transcribe(
    self,
    audio,
    rate=None,
    *,
    channel=None,
    speaker=None,
    decoder=None,
    beam_width=None,
  ):
    """Returns the `Transcript` of a recording.

    Args:
      audio: path of a WAV or FLAC file (or what else libsndfile reads), of any
        rate; or samples of one channel, int16 or floats of full scale 1.
      rate: samples a second; needed with samples, not with a path.
      channel: of a file of several, from 0.
      speaker: who speaks, where the front end normalises by speakers. Who is
        not of the corpus is normalised by the recording itself.
      decoder: 'greedy' or 'beam'; that of the training if not given.
      beam_width: prefixes that a beam keeps.

    Raises:
      AudioError: (a ValueError) the recording cannot be heard.
      ValueError: the decoder is none.
    """
    recipe = self._decoding(decoder, beam_width)
    name, recording = _recording(audio, rate, channel)
    samples_n = audio_lib.at_16_khz(recording)
    if len(samples_n) < features.WINDOW:
      raise audio_lib.AudioError(
        'empty_audio',
        f'{name} lasts {recording.seconds:.4f} s, less than a window of '
        f'{features.WINDOW / features.SAMPLE_RATE:g} s: no frame',
      )
    if self.frontend.frontend.width != self.macro.features:
      raise ValueError(
        f'{self.place}: its corpus was no speech: the network reads '
        f'{self.macro.features} features a frame, not the '
        f'{self.frontend.frontend.width} of a front end'
      )
    (x_tf,) = self.frontend.features([samples_n], [speaker])
    (heard,) = self._hear([x_tf], recipe, _padded(len(x_tf)))
    notes = self._notes(name, speaker)
    rate, wanted = recording.rate, features.SAMPLE_RATE
    if rate != wanted:
      told = f'{name}: {rate} samples a second, resampled to {wanted}'
      notes = told, *notes
    return dataclasses.replace(heard, notes=notes)

  def hear(self, split, batch=8, decoder=None, beam_width=None, frames=None):
    """Returns the `Transcript` of every utterance of a `data.corpus.Split`.

    Args:
      split: its utterances, or any list of features x_tf.
      batch: utterances that are heard together.
      decoder, beam_width: as in `transcribe`.
      frames: to which utterances are padded, for calls that shall share a
        program; those of the longest if not given.
    """
    recipe = self._decoding(decoder, beam_width)
    if hasattr(split, 'x_tf'):
      split = [split.x_tf(u) for u in range(len(split.ids))]
    longest = frames or max(map(len, split), default=0)
    found = []
    for first in range(0, len(split), batch):
      chosen = split[first : first + batch]
      found += self._hear(chosen, recipe, longest, batch)
    return found

  def folded(self, labels):
    """Returns the scoring classes of labels, by name: what errors count in."""
    fold_v = np.asarray(self.units.fold_v)
    found = fold_v[np.asarray(labels, np.int64)]
    return tuple(self.classes[c - 1] for c in found if c)

  def _decoding(self, decoder, beam_width):
    changes = {'decoder': decoder, 'beam_width': beam_width}
    given = {name: v for name, v in changes.items() if v is not None}
    recipe = dataclasses.replace(self.recipe, **given)
    if beam_width is not None and recipe.decoder != 'beam':
      raise ValueError(
        f'beam_width={beam_width} is without effect where decoder='
        f"{recipe.decoder!r}; give decoder='beam'"
      )
    return recipe

  def _notes(self, name, speaker):
    if self.frontend.of_speaker(speaker) is not None:
      return ()
    who = 'nobody is named as its speaker'
    if speaker is not None:
      known = sorted({who for _, who in self.frontend.speakers})
      near = difflib.get_close_matches(speaker, known, 3) or known[:3]
      who = f'speaker {speaker!r} is not of the corpus'
      if near:
        who += f' (which has {", ".join(near)}, {len(known)} in all)'
    return (f'{name}: {who}; normalised by the recording itself',)

  def _hear(self, utterances, recipe, frames, batch=1):
    x_btf = np.zeros((batch, frames, self.macro.features), np.float32)
    len_b = np.zeros(batch, np.int32)
    for b, x_tf in enumerate(utterances):
      len_b[b] = len(x_tf)
      x_btf[b, : len(x_tf)] = x_tf
    hear = _program(self.module, recipe)
    heard = hear(self.variables, self.gates, x_btf, len_b)
    heard = jax.tree.map(np.asarray, heard)
    return [self._transcript(heard, b) for b in range(len(utterances))]

  def _transcript(self, heard, b):
    labels = heard.labels_bl[b, : heard.length_b[b]].astype(np.int32)
    logprobs_tv = None
    if heard.logprobs_btv is not None:
      logprobs_tv = heard.logprobs_btv[b, : heard.frames_b[b]]
    return Transcript(
      transcripts.spelt(labels, self.symbols),
      labels,
      tuple(self.symbols[label - 1] for label in labels),
      None if heard.score_b is None else float(heard.score_b[b]),
      self.frame_seconds,
      logprobs_tv,
      criterion.of(self.recipe).align,
    )


@keeping.kept(64)
def _program(module, recipe):
  """Returns the program that hears a batch, shared by networks of a module."""
  held = criterion.of(recipe)

  @jax.jit
  def run(variables, gates, x_btf, len_b):
    outputs = module.apply(variables, x_btf, len_b, gates)
    if held.hear is not None:
      return held.hear(outputs, recipe)
    return criterion.Heard(*held.decode(outputs, recipe), None, None, None)

  return run


def _padded(frames):
  """Returns a number of frames that recordings of like length share.

  Each is a program of its own; padding changes no transcript.
  """
  step = max(128, 2 ** (max(frames - 1, 1).bit_length() - 2))
  return -(-frames // step) * step


def _recording(audio, rate, channel):
  """Returns the name of a recording, for people, and the recording."""
  if isinstance(audio, str | os.PathLike):
    if rate is not None:
      raise ValueError(f'rate={rate}: {audio} says its rate itself; leave it')
    path = pathlib.Path(audio).expanduser()
    try:
      return str(path), audio_lib.read(path, channel=channel)
    except audio_lib.AudioError as e:
      if e.fault.rule != 'stereo':
        raise
      raise audio_lib.AudioError(
        'stereo', f'{e}; name one with channel=0 or another'
      ) from None
  if channel is not None:
    raise ValueError(f'channel={channel} is for files; give its samples alone')
  return 'samples', audio_lib.given(audio, rate)


# Which networks a run keeps.


def networks(run):
  """Returns a `Kept` for each network whose weights a run keeps.

  Args:
    run: its directory: what --out named.

  Raises:
    ValueError: it is no run, or was trained by an older nasjax.
  """
  return _networks(run)[0]


def _networks(run):
  """Returns the `Kept`s, and the error of each shard that has none."""
  run = _directory(run)
  found, missing = [], []
  for place in _places(run / 'checkpoints'):
    try:
      about = portable.read(place).about
    except portable.MissingError as e:
      missing.append(e)
      continue
    space = _space(about, place)
    for member in about['members']:
      arch = np.array(member['arch'], np.int8)
      cell = space.names(arch)
      found.append(Kept(place, about, arch, member['seed'], cell, member))
  if found:
    return found, missing
  if missing:
    raise missing[0]
  raise ValueError(
    f'{run} keeps no network: there is nothing in its checkpoints/; name the '
    'directory that --out named, or train there'
    + (', or name one of its searches' if _places(run / 'searches') else '')
    + (
      ', or take a network of its supernets by nasjax.best'
      if _places(run / 'supernets')
      else ''
    )
  )


def _directory(run):
  run = pathlib.Path(run).expanduser()
  if not run.is_dir():
    what = 'is a file' if run.exists() else 'is not there'
    raise ValueError(f'run {run} {what}; name the directory that --out named')
  return run


def _places(directory):
  if not directory.is_dir():
    return []
  return sorted(path for path in directory.iterdir() if path.is_dir())


def _space(about, place):
  if about['space'] not in SPACES:
    raise ValueError(
      f'{place} is of space {about["space"]!r}, unknown here; there are '
      f'{", ".join(SPACES)}; {schema.UNKNOWN_SPACE}'
    )
  return SPACES[about['space']]


def load_network(run, cell=None, seed=None, *, recipe=None, search=None):
  """Returns a network that was trained, as a `TrainedNetwork`.

  Args:
    run: directory of the run: what --out named.
    cell: its architecture, in any form that its space reads, as text or by its
      name; another cell that is the same function will do. That of the lowest
      validation error in the run's table if not given; of a search what it
      derived.
    seed: of its training; may be left out where there is one.
    recipe: name of its recipe, likewise.
    search: a one-shot search of the run, by the beginning of its name or by its
      method: the network has the weights that its supernet shares, and `seed`
      is that of the search.

  Raises:
    ValueError: there is no such network, or there are several; it names what
      there is.
  """
  if search is not None:
    return _of_search(_directory(run), search, cell, seed, recipe)
  found, missing = _networks(run)
  chosen = _chosen(run, found, missing, cell, seed, recipe)
  kept = portable.read(chosen.place)
  _, state, about = checkpoints.last(chosen.place)
  p = about['members'].index(chosen.member)
  epoch, diverged = (
    int(state[name][p]) for name in ('best_epoch', 'diverged_epoch')
  )
  if not epoch:
    why = 'no epoch of it is over that may give the best weights'
    if diverged:
      why = f'it diverged in epoch {diverged}'
    raise ValueError(f'{run}: {chosen.label} has no weights: {why}')
  notes = []
  if cell is None and missing:
    notes.append(f'of all but{_more(missing)}')
  if diverged:
    notes.append(f'{chosen.label} diverged in epoch {diverged}')
  space = _space(about, chosen.place)
  own = recipes.Recipe(**chosen.recipe_values)
  done = int(np.isfinite(state['seconds']).sum())
  if done < own.epochs and not own.patience:
    notes.append(f'{chosen.label} is in epoch {done + 1} of {own.epochs}')
  precision = own.precision
  if precision == 'int8':
    precision = 'float32'
    notes.append(
      f'{chosen.label} was trained for eight bits and hears in float32; '
      'experiments/export.py writes the file that has them'
    )
  params = jax.tree.map(lambda leaf_p: leaf_p[p], state['best'])
  macro = families.macro(space, about['macro'])
  module = families.single(space, chosen.arch, macro)
  return TrainedNetwork(
    dataclasses.replace(module, precision=precision),
    families.unpack(space, chosen.arch, params),
    families.gates(space, chosen.arch),
    *(space, chosen.arch, chosen.seed, macro, own, epoch),
    *(kept.units, kept.classes, kept.fitted, chosen.place, about),
    tuple(notes),
  )


def _chosen(run, found, missing, cell, seed, recipe):
  """Returns the one `Kept` that is asked for."""
  of_cell = found if cell is None else _of_cell(run, found, missing, cell)
  what = run if cell is None else f'{run}: {of_cell[0].cell}'
  rest = of_cell
  for name, value in (('seed', seed), ('recipe', recipe)):
    if value is None:
      continue
    known = sorted({getattr(kept, name) for kept in rest})
    rest = [kept for kept in rest if getattr(kept, name) == value]
    if not rest:
      raise ValueError(
        f'{what} has no {name} {value!r}; it has {_listed(known)}'
        f'{_more(missing, ";")}'
      )
  if len(rest) == 1:
    return rest[0]
  if cell is None:
    return _best(run, rest)
  exact = {kept.arch.tobytes() for kept in rest}
  for name in ('seed', 'recipe'):
    known = sorted({getattr(kept, name) for kept in rest})
    if len(known) > 1:
      raise ValueError(
        f'{what} was trained with {name}s {_listed(known)}; name one, as '
        f'{name}={known[0]!r}'
      )
  if len(exact) > 1:
    cells = [k.cell for k in rest]
    raise ValueError(
      f'{what} was trained as {_listed(cells, between="; ")}, which are one '
      'function; give one of them'
    )
  raise ValueError(
    f'{what} was trained in several shards of other networks or corpora: '
    f'{_listed([k.place.name for k in rest])}; copy the one that is meant into '
    'checkpoints/ of a directory of its own'
  )


def _more(missing, before=''):
  """Says what there is beside the shards that tell what they are, if any."""
  if not missing:
    return ''
  return (
    f'{before} {len(missing)} more shards, which tell nothing: {missing[0]}'
  )


def _listed(values, most=8, between=', '):
  told = between.join(map(str, values[:most]))
  if len(values) <= most:
    return told
  return f'{told}{between}.. ({len(values)} in all)'


def _of_cell(run, found, missing, cell):
  """Returns the `Kept`s of a cell, those of just this encoding if there are."""
  given = cell
  if isinstance(cell, str):
    named = [kept for kept in found if kept.cell == cell]
    if named:
      return named
    try:
      cell = json.loads(cell)
    except ValueError:
      known = {kept.cell for kept in found}
      near = difflib.get_close_matches(cell, known, 3, 0)
      raise ValueError(
        f'{run} has no cell {given!r}; there are '
        f'{_listed(near, between="; ")}; '
        f'{len(found)} networks in all, which listening.networks(run) lists, '
        'and transcribe.py --list'
      ) from None
  spaces = {name: SPACES[name] for name in {k.about['space'] for k in found}}
  same, archs, fault = [], {}, None
  for name, space in spaces.items():
    own = [kept for kept in found if kept.about['space'] == name]
    try:
      arch = archs[name] = space.parse(cell)
    except ValueError as e:
      fault = e
      continue
    exact = [kept for kept in own if np.array_equal(kept.arch, arch)]
    key = space.semantic_key(arch)
    same += exact or [k for k in own if space.semantic_key(k.arch) == key]
  if same:
    return same
  if not archs:
    raise ValueError(f'{run}, cell: {fault}')
  name, arch = next(iter(archs.items()))
  own = [kept for kept in found if kept.about['space'] == name]
  near = sorted(own, key=lambda kept: int((kept.arch != arch).sum()))
  near = list(dict.fromkeys(kept.cell for kept in near))
  raise ValueError(
    f'{run} has no network of cell {given}; nearest are '
    f'{_listed(near[:3], between="; ")} ({len(near)} cells in all, which '
    'listening.networks(run) lists, and '
    f'transcribe.py --list){_more(missing, ";")}'
  )


def _best(run, found):
  """Returns that of the lowest validation error in the run's table."""
  corpora = sorted({kept.about['corpus'] for kept in found})
  if len({kept.about['corpus_fingerprint'] for kept in found}) > 1:
    raise ValueError(
      f'{run} has networks of several corpora ({_listed(corpora)}), whose '
      'errors are not comparable; name a cell'
    )
  error, why = {}, 'it has no row of them'
  try:
    for row in table.open(run, verify=False).to_arrow().to_pylist():
      if row['best_epoch']:
        name = row['shard'], tuple(row['arch']), row['seed'], row['recipe']
        error[name] = np.nanmin(row['val_per'])
  except table.TableError as e:
    why = e

  def of(kept):
    arch = tuple(kept.arch.tolist())
    name = kept.place.name, arch, kept.seed, kept.recipe
    return error.get(name, np.inf)

  best = min(found, key=of)
  if not np.isfinite(of(best)):
    raise ValueError(
      f'{run} keeps {len(found)} networks, and no table says which is best '
      f'({why}); name a cell, as {found[0].cell!r}'
    )
  return best


# What one-shot searches share.


def _of_search(run, search, cell, seed, recipe):
  """Returns the network of an architecture with a search's shared weights."""
  if recipe is not None:
    raise ValueError(
      f'recipe={recipe!r}: the shared weights of a search have one; leave it'
    )
  place, kept = _search(run, search, seed)
  about = kept.about
  space = _space(about, place)
  macro = families.macro(space, about['macro'])
  supernet = Supernet(space, macro, tuple(about['ops']), tuple(about['skips']))
  if cell is None:
    path = run / 'searches' / f'{place.name}.json'
    if not path.exists():
      raise ValueError(
        f'search {place.name} of {run} is not over, and has derived nothing; '
        'name a cell'
      )
    try:
      cell = json.loads(path.read_text())['arch']
    except (ValueError, KeyError, TypeError):
      raise ValueError(
        f'{path} is damaged; remove it and give the command of the study again'
      ) from None
  if isinstance(cell, str):
    try:
      cell = json.loads(cell)
    except ValueError:
      example = space.nested(np.zeros(len(space.sizes), np.int8))
      raise ValueError(
        f'cell {cell!r} is no JSON; give lists, as {example}'
      ) from None
  arch = space.parse(cell)
  epoch, state, _ = checkpoints.last(place)
  own = recipes.Recipe(**about['recipe'])
  note = f'{space.names(arch)} with the shared weights of search {place.name}'
  return TrainedNetwork(
    supernet.network(own, 'path'),
    state['search']['params'],
    supernet.gates_of(supernet.choices(arch)),
    *(space, arch, about['seed'], macro, own, epoch),
    *(kept.units, kept.classes, kept.fitted, place, about),
    (note,),
  )


def _search(run, search, seed):
  """Returns place and `Portable` of the one search that is asked for."""
  places = {path.name: path for path in _places(run / 'searches')}
  if not places:
    raise ValueError(f'{run} has no one-shot search in searches/')
  named = [name for name in places if name.startswith(search)]
  known = {}
  for name in named or places:
    try:
      known[name] = portable.read(places[name])
    except portable.MissingError:
      if len(named) == 1:
        raise
  told = {
    name: f'{name} ({kept.about["method"]["name"]}, seed {kept.about["seed"]})'
    for name, kept in known.items()
  }
  rest = [
    name
    for name, kept in known.items()
    if (named or kept.about['method']['name'] == search)
    and seed in (None, kept.about['seed'])
  ]
  if len(rest) == 1:
    return places[rest[0]], known[rest[0]]
  if rest:
    raise ValueError(
      f'{run} has several searches {search!r}: '
      f'{_listed([told[name] for name in rest])}; name one, or its seed'
    )
  seeds = '' if seed is None else f' of seed {seed}'
  raise ValueError(
    f'{run} has no search {search!r}{seeds}; there are '
    f'{_listed(list(told.values())) or "only those of an older nasjax"}'
  )
