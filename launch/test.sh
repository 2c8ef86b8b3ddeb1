#!/usr/bin/env bash
# Installs nasjax into .venv, checks the style and runs the tests, a file at a
# time in each of two processes. Those marked slow have a short sibling and run
# with --all, as the first argument, only. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# The compiler for TPUs, an optional requirement: without it tests are skipped.
if ! .venv/bin/python -c 'import libtpu' 2>/dev/null; then
  install=(.venv/bin/python -m pip install)
  if command -v uv >/dev/null; then
    install=(uv pip install --python .venv/bin/python)
  fi
  "${install[@]}" --quiet -e '.[tpu]' ||
    echo 'libtpu cannot be had here: tests of the TPU compiler are skipped.' >&2
fi
.venv/bin/ruff check .
if [[ "${1-}" == --all ]]; then
  shift
else
  set -- -m 'not slow' "$@"
fi
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
