"""One stage of gpu.py, in a process of its own; `gpu_plan.py` starts it.

  python experiments/card/gpu_stages.py STAGE JSON

JSON: an object of `out`, the directory of the result; `seconds`, what the
stage has; `rehearse`, whether shapes are tiny; and what else a stage takes.
What is found is kept in OUT/STAGE.json, as often as there is something new, so
that a stage that is stopped leaves what it had.
"""

import importlib
import json
import pathlib
import sys
import time
from typing import NamedTuple

# The module of each stage; the function there has its name.
STAGES = {
  'correct': 'card.gpu_correct',
  'resume': 'card.gpu_resume',
  'resume_part': 'card.gpu_resume',
  'repeat': 'card.gpu_repeat',
  'repeat_part': 'card.gpu_repeat',
  'race': 'card.gpu_race',
  'speed': 'card.gpu_speed',
  'members': 'card.gpu_speed',
  'torch': 'card.gpu_torch',
  'torch_compiled': 'card.gpu_torch',
  'table': 'card.gpu_table',
}


class Stage(NamedTuple):
  """What a stage is told.

  Attributes:
    name: of `STAGES`.
    out: directory of the result.
    ends: Unix time at which it will be stopped.
    rehearse: whether shapes are tiny.
    options: what else the JSON object had.
  """

  name: str
  out: pathlib.Path
  ends: float
  rehearse: bool
  options: dict

  @property
  def left(self):
    """Seconds that the stage still has."""
    return self.ends - time.time()

  def publish(self, found):
    """Keeps what was found so far, a dict or a list of plain values."""
    path = self.out / f'{self.name}.json'
    new = path.with_name(f'.{path.name}')
    new.write_text(json.dumps(found, indent=1) + '\n')
    new.replace(path)


def main():
  name, told = sys.argv[1], json.loads(sys.argv[2])
  out, ends = pathlib.Path(told.pop('out')), time.time() + told.pop('seconds')
  stage = Stage(name, out, ends, told.pop('rehearse'), told)
  getattr(importlib.import_module(STAGES[name]), name)(stage)


if __name__ == '__main__':
  # Modules are found from the launchers on, as they find them.
  sys.path[0] = str(pathlib.Path(__file__).parents[1])
  main()
