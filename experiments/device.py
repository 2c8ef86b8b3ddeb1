"""From a corpus to a network on a device, found under a limit: the whole way.

  python experiments/device.py --flagfile=experiments/flags/device.flags \\
    --corpus_path=FSDD/manifest.jsonl

Random architectures are timed here, and a predictor is fitted to them; an
elastic network is trained by the sandwich rule; evolution looks for the best
of its networks that the predictor lets through; the best of them, networks
that people would take and some at random are trained from scratch; what
validation chooses is put to eight bits, exported, heard by ONNX Runtime, and
watched for drift. OUT/report.html has all of it, with the table manual against
found. Killed at any moment, the same command goes on.
"""

from absl import flags
from common import command, corpus_flags, device_flags, training_flags

FLAGS = flags.FLAGS

flags.DEFINE_string(
  'max_latency_ms',
  None,
  'Networks must not take longer: milliseconds of a pass of --frames, or a '
  'share of what the manual network takes, as 70%.',
)
flags.DEFINE_string(
  'max_params',
  None,
  'Instead: networks must not have more parameters; a number, or a share of '
  'those of the manual network, as 50%.',
)
flags.DEFINE_list(
  'manual',
  [],
  'Networks that people would take: smallest, middle, largest, a baseline of '
  'the family by name, or digits with spaces. The first is the one to beat, '
  'and shares are of it. If not given, the first baseline, or middle, and '
  'largest.',
)
flags.DEFINE_enum(
  'runtime',
  'onnx',
  ['onnx', 'jax'],
  'What runs networks that are timed: ONNX Runtime, as on the device, or '
  'programs of JAX.',
)
flags.DEFINE_integer('threads', 1, 'Of --runtime=onnx.', lower_bound=1)
flags.DEFINE_enum(
  'clock',
  'wall',
  ['wall', 'cpu'],
  'What tells how long a pass takes: a clock on the wall; or the time that its '
  'one thread had of a CPU, where the machine does other work beside.',
)
flags.DEFINE_integer(
  'frames', 200, 'Frames of 10 ms of the timed utterance.', lower_bound=8
)
flags.DEFINE_integer('runs', 50, 'Timed passes a network.', lower_bound=50)
flags.DEFINE_integer(
  'profiled', 100, 'Random architectures of the profile.', lower_bound=10
)
flags.DEFINE_string(
  'predictor',
  'best',
  'Of nasjax/predictors/latency.py; best for that of operations, macs, '
  'boosting and forest which errs least on networks held out.',
)
flags.DEFINE_string(
  'row', 'C', 'How the elastic network is trained: a row of todm.py.'
)
flags.DEFINE_integer(
  'supernet_epochs',
  None,
  'Of the elastic network; --epochs if not given.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'generations', 100, 'Generations of evolution.', lower_bound=1
)
flags.DEFINE_integer(
  'population', 40, 'Networks of its first generation.', lower_bound=1
)
flags.DEFINE_integer(
  'mutants', 4, 'Mutants of each further one.', lower_bound=0
)
flags.DEFINE_integer(
  'crossings', 4, 'Crossings of each further one.', lower_bound=0
)
flags.DEFINE_float(
  'mutation_rate', 0.2, "Probability that a mutant's digit is drawn anew."
)
flags.DEFINE_integer(
  'bins', 16, 'Bins of cost whose best networks are parents.', lower_bound=1
)
flags.DEFINE_integer(
  'top', 5, 'Networks found that are trained from scratch.', lower_bound=1
)
flags.DEFINE_integer(
  'random', 3, 'Networks drawn under the limit, likewise.', lower_bound=0
)
flags.DEFINE_bool(
  'export', True, 'Write ONNX files, of eight bits, too, and hear with them.'
)
flags.DEFINE_integer(
  'calibration', 64, 'Training utterances that give ranges.', lower_bound=1
)
flags.DEFINE_integer(
  'fine_tune_epochs',
  3,
  'Epochs of training what was found on for eight bits; 0 for none.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'recordings', 3, 'Recordings of test that are transcribed.', lower_bound=1
)
flags.DEFINE_integer(
  'watched', 200, 'Passes of the log that drift is looked for in.',
  lower_bound=100,
)  # fmt: skip
flags.DEFINE_string('out', 'results/device', 'Where all results go.')
flags.DEFINE_string('json', None, 'Where what is printed goes, too.')
for _module in corpus_flags, device_flags, training_flags:
  flags.adopt_module_key_flags(_module)

# Nothing that is there would be another.
_FREE = 'out', 'json', 'data_dir', 'cpu_devices', 'compilation_cache'


def run():
  """The steps, one after the other, and the page."""
  from studies import device_asked

  wanted = device_asked.limit()
  training_flags.recipe(), training_flags.seeds()
  space = training_flags.space()
  manual = device_asked.manual(space)
  device_asked.check(space)
  corpus_flags.check()
  out = command.directory('out')
  with command.exclusive(out):
    record = command.Record(out, free=_FREE)
    from studies import device_study
    from summaries import device_summary

    found = device_study.Study(wanted, manual, out).run(record)
    device_summary.write(found, out, FLAGS.json)


if __name__ == '__main__':
  command.run(run)
