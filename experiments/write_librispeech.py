"""Writes synthetic speech in LibriSpeech's layout, for trials and tests.

  python experiments/write_librispeech.py --folder=data/spoken \\
    --synth_utterances=600
  python experiments/benchmark.py --corpus=librispeech \\
    --corpus_path=data/spoken --partial_librispeech ..

Many voices, the sentences of a grammar, words in upper case; FLAC and
transcripts lie as in the corpus itself, and are read by the same code.
"""

from absl import flags
from common import command, corpus_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'folder', None, 'The directory in which LibriSpeech/ is made.'
)
for _name in corpus_flags.SYNTHETIC:
  flags.declare_key_flag(_name)


def run():
  """Checks the flags, speaks, and says what was written."""
  if not FLAGS.folder:
    raise ValueError('--folder is empty; name a directory')
  spec = corpus_flags.spec()
  from common import console

  from nasjax.data.synthetic import librispeech

  with console.counter('preparing speech') as tick:
    place = librispeech.write(FLAGS.folder, spec, progress=tick)
  minutes = sum(
    float(line.split('|')[3])
    for line in (place / 'SPEAKERS.TXT').read_text().splitlines()[1:]
  )
  print(
    f'{spec.num_utterances} utterances, {minutes:.1f} minutes, in {place}: '
    f'{", ".join(librispeech.SUBSETS.values())}'
  )


if __name__ == '__main__':
  command.run(run)
