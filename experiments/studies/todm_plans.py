"""Says what a study of elastic networks would cost, and trains nothing."""


from absl import flags
from common import command, jobs, training_flags
from studies import todm_sizes

FLAGS = flags.FLAGS


def _plan(chosen, space, macro, recipe, judged):
  from studies import todm_projection

  costs = todm_sizes.Costs(space, macro)
  children = FLAGS.mutants + FLAGS.crossings
  return todm_projection.Plan(
    space,
    macro,
    recipe,
    todm_sizes.named(FLAGS.sizes, costs),
    training_flags.seeds(),
    chosen,
    FLAGS.population + (FLAGS.generations - 1) * children,
    judged,
  )


def _checked(chosen, space, macro, recipe):
  """Returns what makes a way's training; None is the largest alone.

  Raises:
    ValueError: one of those chosen does not go with the recipe.
  """
  from nasjax.oneshot import sandwich

  def make(way):
    options = sandwich.Options(students=0) if way is None else way.options
    seed = training_flags.seeds()[0]
    return sandwich.Training(space, macro, recipe, options, seed)

  for way in chosen:
    make(way)
  return make


def plan_for(chosen, with_alone, path):
  """Prints what the study would cost on a chip that is not there, by formula.

  Raises:
    ValueError: there is no such chip, or no formula for the space; --dry_run is
      missing, or a way does not go with the recipe.
  """
  from studies import todm_projection

  from nasjax.models import families
  from nasjax.models.todm import family
  from nasjax.programs import chips

  if not FLAGS.dry_run:
    raise ValueError(
      f'--plan_for={FLAGS.plan_for} is for planning; give --dry_run, too'
    )
  if not 0 < FLAGS.plan_share <= 1:
    raise ValueError(
      f'--plan_share={FLAGS.plan_share}: want a share above 0, at most 1'
    )
  chip = chips.chip(FLAGS.plan_for)
  recipe, space = training_flags.recipe(), training_flags.space()
  if families.elastic(space) is not family.ELASTIC:
    raise ValueError(
      f'--plan_for={FLAGS.plan_for} knows by formula what encoders of TODM '
      f'cost, not those of --space={space.name}; leave it out: --dry_run times '
      'them on a corpus'
    )
  macro = training_flags.macro()
  if FLAGS.pieces:
    macro = macro.with_outputs(FLAGS.pieces + 1)
  speech = todm_projection.Speech(
    FLAGS.plan_hours, FLAGS.plan_utterances, FLAGS.plan_labels, recipe.epochs
  )
  plan = _plan(chosen, space, macro, recipe, FLAGS.plan_judged)
  make = _checked(chosen, space, macro, recipe)
  rows = todm_projection.by_formula(plan, speech, chip, FLAGS.plan_share, make)
  how = (
    f'by formula: {speech.hours:g} hours, {speech.epochs} epochs, '
    f'{macro.outputs:,} outputs, at {FLAGS.plan_share:.0%} of the published '
    f'{chip.bf16_flops_per_second / 1e12:,.0f} TFLOP/s of one {chip.name}; '
    'GB at least, in float32, of a batch of '
    f'{recipe.batch} utterances of mean length'
  )
  _show_plan(rows, with_alone, how, path)


def plan(chosen, with_alone, path):
  """Prints what the study would cost here, by a few steps of each way."""
  recipe = training_flags.recipe()
  work = jobs.prepare(recipe, 1)
  from studies import todm_projection

  prepared, job = work.prepareds[0], work.job
  judged = len(work.corpus.validation.ids)
  own = _plan(chosen, job.space, job.macro, recipe, judged)

  make = _checked(chosen, job.space, job.macro, recipe)
  rows = todm_projection.timed(own, prepared, make)
  device = prepared.mesh.devices.flat[0].device_kind
  how = (
    f'timed here, three steps each, least of five, on {prepared.mesh.size} x '
    f'{device}; A1 by multiply-accumulates of the largest; GB of the compiled '
    'program'
  )
  _show_plan(rows, with_alone, how, path)


def _show_plan(rows, with_alone, how, path):
  from common import console
  from rich.table import Table

  rows = [r for r in rows if with_alone or not r.what.startswith('A1')]
  view = Table(title='what it would cost')
  for name in ('way', 'trainings', 'training', 'search', 'GB', 'together'):
    view.add_column(name, justify='left' if name == 'way' else 'right')
  for row in rows:
    view.add_row(
      row.what,
      str(row.trainings),
      console.short(row.seconds),
      console.short(row.search),
      f'{row.bytes / 1e9:,.2f}',
      console.short(row.total),
    )
  console.CONSOLE.print(view)
  total = sum(row.total for row in rows)
  console.CONSOLE.print(how)
  console.CONSOLE.print(
    f'projected time: {console.short(total)} of one device '
    f'({total / 3600:,.1f} hours)'
  )
  if path:
    found = {
      'how': how, 'seconds': total,
      'rows': [row._asdict() | {'total': row.total} for row in rows],
    }  # fmt: skip
    command.publish_json(path, found)
