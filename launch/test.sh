#!/usr/bin/env bash
# Installs nasjax into .venv, checks the style and runs the tests, a file at a
# time in each of two processes. Those marked slow have a short sibling and run
# with --all, as the first argument, only; those marked reliability, which kill
# workers by dozens, with --reliability. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# Optional requirements: without them the tests of what needs them are skipped.
for extra in tpu:libtpu words:sentencepiece ray:ray slurm:submitit \
  predictors:sklearn export:onnxruntime; do
  if ! .venv/bin/python -c "import importlib.util as u, sys
sys.exit(u.find_spec('${extra#*:}') is None)"; then
    install=(.venv/bin/python -m pip install)
    if command -v uv >/dev/null; then
      install=(uv pip install --python .venv/bin/python)
    fi
    "${install[@]}" --quiet -c requirements.txt -e ".[${extra%:*}]" ||
      echo "${extra#*:} cannot be had here: its tests are skipped." >&2
  fi
done
.venv/bin/ruff check .
if [[ "${1-}" == --all ]]; then
  shift
  set -- -m 'not reliability' "$@"
elif [[ "${1-}" == --reliability ]]; then
  shift
  # One at a time: they time processes.
  exec .venv/bin/python -m pytest -m reliability "$@"
else
  set -- -m 'not slow' "$@"
fi
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
