"""One trained network trained on, as a run of its own: for eight bits, say.

It begins with the weights of its best epoch. Its own rounds of training are
those of its recipe, but for the precision, the epochs and the learning rate,
which stays the same in all of them; there is no curriculum. What is trained is
a run like others: `nasjax.load_network(out)` loads it, killed it goes on.
"""

import dataclasses
import json
import pathlib

import jax

from nasjax import table
from nasjax.benchmark import running, shards
from nasjax.storage import disk
from nasjax.training import initial as initial_lib
from nasjax.training import population, recipes, trainer

# Of the learning rate that the network was trained with at first.
SHARE = 0.1


def recipe_of(network, epochs, lr=None, precision='int8'):
  """Returns the `Recipe` of a fine-tuning.

  Args:
    network: `listening.TrainedNetwork`.
    epochs: how many.
    lr: learning rate; a tenth of the network's own if not given.
    precision: of `Recipe`; 'int8' is quantisation-aware.

  Raises:
    ValueError: a number is out of range.
  """
  own = network.recipe
  return dataclasses.replace(
    own,
    name=f'{own.name[:40]}-{precision}-e{epochs}',
    precision=precision,
    epochs=epochs,
    lr=SHARE * own.lr if lr is None else lr,
    start=epochs,
    curriculum=(),
    **{
      name: getattr(recipes.E40, name)
      for name in ('patience', 'minimum_epochs', 'delta', 'stop_lr', 'restart')
    },
  )


def run(
  network,
  corpus,
  out,
  epochs,
  *,
  lr=None,
  precision='int8',
  metric='PER',
  place=None,
  on_epoch=lambda progress: None,
):
  """Trains a network on, or what of it is missing.

  Args:
    network: `listening.TrainedNetwork`, of a run (not of a search: of a
      supernet's weights a network's own are a part).
    corpus: `data.corpus.Corpus` that it was trained on.
    out: directory of the run that this becomes.
    epochs, lr, precision: as `recipe_of` takes them.
    metric: what the error rate of the corpus' symbols is called.
    place: where the corpus lies prepared, for `run.json`.
    on_epoch: called with a `running.ShardProgress`.

  Returns:
    the lowest error rate on the validation split.

  Raises:
    ValueError: a number is out of range; the network is a search's, or of a
      family that does not round; training of it failed.
  """
  recipe = recipe_of(network, epochs, lr, precision)
  if 'members' not in network.about:
    raise ValueError(
      f'{network.place} is a search: its weights are shared; train what it '
      'found by itself first, and name that run'
    )
  out, macro = pathlib.Path(out), network.macro
  member = tuple(int(d) for d in network.arch), int(network.seed)
  begun = initial_lib.Initial(network.place, network.space, macro, [member])
  begun.take(macro, recipe, corpus.symbols)
  job = shards.Job(
    network.space,
    macro,
    recipe,
    corpus.name,
    f'{corpus.fingerprint}+{begun.mark}',
    metric,
    notes=(f'begun with the weights of {network.label}',),
    initial=begun,
  )
  (shard,) = shards.plan(job, [member], 1)
  running.check_table(job, [shard], out)
  if not table.is_committed(out / 'table', shard.name):
    mesh = population.member_mesh(jax.devices()[:1])
    prepared = trainer.device_corpus(corpus, recipe, mesh)
    running.run_shard(job, shard, prepared, out, on_epoch, say=lambda _: None)
    _note(job, member, out, place)
  rows = table.open(out, verify=False)
  (at,) = (rows.column('shard') == shard.name).nonzero()[0]
  if rows.column('status')[at] != 'ok':
    raise ValueError(
      f'{out}: {network.label} {rows.column("status")[at]} where it was '
      f'trained on with lr={recipe.lr:g}; give a lower learning rate'
    )
  found = rows.query(network.arch, 'val_per', seed=member[1], epoch='best')
  return float(found)


def _note(job, member, out, place):
  """Writes run.json: what this run is, and where its corpus lies."""
  arch, seed = member
  record = shards.describe(job) | {
    'metric': job.metric,
    'prepared_corpus': None if place is None else str(place),
    'notes': list(job.notes),
    'initial': [
      {'arch': arch, 'seed': seed, **job.initial.described(arch, seed)}
    ],
  }
  disk.publish(out / 'run.json', json.dumps(record, indent=1).encode())
