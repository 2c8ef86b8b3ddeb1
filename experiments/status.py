"""Shows how far a run is, while it goes on.

  python experiments/status.py --out=results/quickstart

Reads the run's directory and nothing else, so it works on any machine that sees
it. On a terminal the screen is drawn anew every --interval seconds until the
run is done; otherwise, or with --once, once. --json prints all of it (or writes
it, with --json=PATH), --html=PATH is a page for a browser, --prometheus_port=N
serves http://HOST:N/metrics until it is stopped.
"""

import contextlib
import json
import pathlib
import sys
import time

from absl import flags
from common import command

FLAGS = flags.FLAGS

flags.DEFINE_string('out', 'results/benchmark', 'Directory of the run.')
flags.DEFINE_bool(
  'once',
  None,
  'Look once, and stop; if not given, where the output is no terminal and no '
  'port is served.',
)
flags.DEFINE_float(
  'interval', 2.0, 'Seconds between two looks.', lower_bound=0.1
)
flags.DEFINE_integer(
  'errors', 5, 'At most so many of the last errors.', lower_bound=0
)
flags.DEFINE_string(
  'json',
  None,
  'Print what there is as JSON, once; with a path, write it there.',
)
flags.DEFINE_string('html', None, 'Write a page for a browser there.')
flags.DEFINE_integer(
  'prometheus_port',
  None,
  'Serve the text format of Prometheus at this port; 0 takes a free one.',
  lower_bound=0,
  upper_bound=65535,
)
_PRINT = '-'


def looks(watch):
  """Yields what a Watch sees, again and again, until the run is done.

  While a port is served, until somebody stops it.
  """
  while True:
    status = watch.look(FLAGS.errors)
    yield status
    serving = FLAGS.prometheus_port is not None
    if FLAGS.once or (status['state'] == 'done' and not serving):
      return
    time.sleep(FLAGS.interval)


def write(status):
  """Writes the files that the flags ask for."""
  from summaries import status_views

  from nasjax.storage import disk

  if FLAGS.json and FLAGS.json != _PRINT:
    command.publish_json(FLAGS.json, status)
  if FLAGS.html:
    going = not FLAGS.once and status['state'] != 'done'
    refresh = max(1, round(FLAGS.interval)) if going else None
    page = status_views.page(status, refresh)
    disk.publish(pathlib.Path(FLAGS.html), page.encode())


def run():
  """Looks, shows and writes."""
  out = pathlib.Path(FLAGS.out)
  for name in ('json', 'html'):
    path = FLAGS[name].value
    if path == '':
      raise ValueError(f'--{name} is empty; name a file')
    if path and path != _PRINT and not pathlib.Path(path).parent.is_dir():
      raise ValueError(f'--{name}={path}: there is no such directory')
  from common import watching
  from rich.console import Console
  from rich.live import Live
  from summaries import status_views

  console = Console(markup=False, emoji=False, highlight=False)
  if not console.is_terminal:
    console = Console(markup=False, emoji=False, highlight=False, width=110)
  port = FLAGS.prometheus_port
  if FLAGS.once and port is not None:
    raise ValueError('--once does not go with --prometheus_port')
  if FLAGS.once is None:
    FLAGS.once = not console.is_terminal and port is None
  watch = watching.Watch(out)
  if FLAGS.json == _PRINT:
    print(json.dumps(watch.look(FLAGS.errors), indent=1))
    return
  with contextlib.ExitStack() as stack:
    if port is not None:
      # A look of its own: what it serves is as of the request.
      other = watching.Watch(out)
      from summaries import status_port

      served = status_port.served(other, port, FLAGS.errors)
      at = stack.enter_context(served)
      print(f'serving port {at}: /metrics', flush=True)
    if FLAGS.once or not console.is_terminal:
      for status in looks(watch):
        write(status)
        if FLAGS.once:
          console.print(status_views.screen(status))
      return
    live = stack.enter_context(Live(console=console, auto_refresh=False))
    for status in looks(watch):
      write(status)
      live.update(status_views.screen(status), refresh=True)


def _with_bare_json(argv):
  """Returns the arguments with `--json` alone as `--json=-`."""
  ends = [*argv[1:], '--']
  return [
    f'{word}={_PRINT}'
    if word in ('--json', '-json') and after.startswith('-')
    else word
    for word, after in zip(argv, ends)
  ]


if __name__ == '__main__':
  sys.argv = _with_bare_json(sys.argv)
  command.run(run)
