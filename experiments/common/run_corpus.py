"""The prepared corpus of a run that is over, found by the run's directory."""

import pathlib

from common import command


def noted(run, name, what):
  """Returns a value of a run's run.json; `what` says which, for people.

  Raises:
    ValueError: there is none.
  """
  path = pathlib.Path(run) / 'run.json'
  if not path.is_file():
    raise ValueError(
      f'--run={run} has no run.json; name the --out of a benchmark.py'
    )
  return command.noted(path, name, f'{what}; give the command of the run again')


def builder(run):
  """Returns the prepared TFDS builder that a run was trained on.

  Args:
    run: its directory.

  Raises:
    ValueError: the run does not tell, or the corpus is there no more.
  """
  place = noted(run, 'prepared_corpus', 'its corpus')
  if not pathlib.Path(place).is_dir():
    raise ValueError(
      f'--run={run} was trained on {place}, which is gone; give the command of '
      'the run again: it prepares the corpus, and trains nothing anew'
    )
  import tensorflow_datasets as tfds

  from nasjax.data import corpus

  with corpus.quiet():
    return tfds.builder_from_directory(place)


def check(network, builder):
  """Refuses a corpus that is not the one that a network was trained on.

  Raises:
    ValueError: it has other contents.
  """
  own = builder.info.metadata['fingerprint']
  found = network.frontend.frontend.fingerprint(own)
  wanted = network.about['corpus_fingerprint']
  # Behind it stands how features were kept, in how many pieces they came, and
  # with which weights the training began.
  if wanted.split('+')[: found.count('+') + 1] != found.split('+'):
    raise ValueError(
      f'{builder.data_dir} has corpus {found}, the network was trained on '
      f'{wanted}; give the command of the run again'
    )
