"""Stands where `benchmark.py` does, for engines whose workers die by dozens.

Its flags are those that engines give, --out, and --runs, how many networks of
`claiming_runs` there are; they are trained by the same claims and leases.
"""

import os
import pathlib
import sys

flags = dict(flag.lstrip('-').partition('=')[::2] for flag in sys.argv[1:])
out, runs = pathlib.Path(flags['out']).absolute(), int(flags['runs'])
if 'plan_only' in flags:
  print(f'{runs // 2} shards in {out / "shards.json"}')
elif 'claim' in flags:
  import jax

  jax.config.update(
    'jax_compilation_cache_dir', os.environ['NASJAX_TEST_CACHE']
  )
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  import claiming_runs

  failed = claiming_runs.work(out, runs)
  if failed:
    sys.exit(f'benchmark.py: {failed}')
