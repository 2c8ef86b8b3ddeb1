"""The corpora of several languages that flags name: spoken, or manifests."""

import os
import pathlib
from typing import NamedTuple

from absl import flags
from common import command, corpus_flags

FLAGS = flags.FLAGS


class Corpora(NamedTuple):
  """Corpora in memory.

  Attributes:
    sources: `data.corpus.Corpus` of all source languages (`data.joined`).
    targets: by code, that of each target language alone.
    alphabets: symbols by code.
  """

  sources: object
  targets: dict
  alphabets: dict


def codes():
  """Returns the codes of source and of target languages.

  Raises:
    ValueError: naming the flag.
  """
  found = []
  for flag in ('source_languages', 'target_languages'):
    own = [code.strip() for code in FLAGS[flag].value if code.strip()]
    if not own or len(set(own)) < len(own):
      raise ValueError(
        f'--{flag}={",".join(own)}: want codes of languages, each once'
      )
    found.append(own)
  both = sorted({*found[0]} & {*found[1]})
  if both:
    raise ValueError(
      f'--source_languages and --target_languages both have {both[0]!r}; a '
      'target that was heard before is no target'
    )
  return found


def manifests():
  """Returns the path of each manifest that flags name, by code.

  Raises:
    ValueError: it is no file, or its language is not asked for.
  """
  found, known = {}, sum(codes(), [])
  for entry in FLAGS.manifests:
    code, equals, path = entry.partition('=')
    code = code.strip()
    if not equals or not path.strip():
      raise ValueError(f'--manifests={entry}: want CODE=manifest.jsonl')
    if code not in known:
      raise ValueError(
        f'--manifests={entry}: {code!r} is neither among --source_languages '
        'nor among --target_languages'
      )
    if code in found:
      raise ValueError(f'--manifests={entry}: {code!r} has one already')
    found[code] = pathlib.Path(os.path.expanduser(path.strip()))
    if not found[code].is_file():
      raise ValueError(f'--manifests={entry}: {found[code]} is no file')
  return found


def specs():
  """Returns the `languages.Spec` of each language that is to be spoken.

  Raises:
    ValueError: naming the flag.
  """
  from nasjax.data.synthetic import languages

  given = manifests()
  fewest, most = _pair('sentence_words')
  found = {}
  for code in sum(codes(), []):
    if code in given:
      continue
    if code not in languages.LANGUAGES:
      raise ValueError(
        f'language {code!r} can not be spoken: there are '
        f'{", ".join(languages.LANGUAGES)}; or give --manifests={code}=PATH'
      )
    found[code] = languages.Spec(
      code, FLAGS.utterances, FLAGS.speech_seed, (fewest, most)
    )
  return found


def _pair(flag):
  text = ','.join(FLAGS[flag].value)
  try:
    low, high = map(int, FLAGS[flag].value)
  except ValueError:
    raise ValueError(f'--{flag}={text}: want two numbers: low,high') from None
  if not 1 <= low <= high:
    raise ValueError(f'--{flag}={text}: want low,high, from 1 on')
  return low, high


def prepare() -> Corpora:
  """Reads or speaks, prepares and loads all corpora."""
  from common import console

  from nasjax.data import corpus, joined, manifest

  data_dir = command.directory('data_dir')
  options = {
    'targets': FLAGS.targets,
    'text_case': FLAGS.text_case,
    'digits': FLAGS.digits or 'refuse',
    'drop': tuple(FLAGS.drop),
    'seed': FLAGS.split_seed,
    'min_seconds': FLAGS.min_seconds,
    'max_seconds': FLAGS.max_seconds,
    'duration_tolerance': FLAGS.duration_tolerance,
    'allow_shared_speakers': FLAGS.allow_shared_speakers,
  }
  manifest.Options(**options)
  builders = {}

  def prepared(code, path):
    builders[code] = manifest.builder(path, data_dir=data_dir, **options)
    corpus.prepare(builders[code])

  # What is read may have faults, which are told before others are spoken.
  for code, path in manifests().items():
    prepared(code, path)
  for code, spec in specs().items():
    from nasjax.data.synthetic import languages

    with console.counter(f'speaking {code}') as tick:
      path = languages.written(
        data_dir / 'languages', spec, tick, workers=os.cpu_count() or 1
      )
    prepared(code, path)
  sources, targets = codes()
  loaded = {}
  for code in (*sources, *targets):
    for part in corpus_flags.left_out(builders[code]):
      print(
        f'{code}: left out of {part["split"]}: {part["utterances"]} '
        f'utterances, {part["rule"]}',
        flush=True,
      )
    with console.counter(f'computing features of {code}') as tick:
      loaded[code] = corpus.load(
        builders[code], frontend=corpus_flags.frontend(), progress=tick
      )
  return Corpora(
    joined.joined({code: loaded[code] for code in sources}),
    {code: joined.joined({code: loaded[code]}) for code in targets},
    {code: own.symbols for code, own in loaded.items()},
  )
