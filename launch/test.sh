#!/usr/bin/env bash
# Installs nasjax into .venv, checks the style and runs the tests, a file at a
# time in each of two processes. Further arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
.venv/bin/ruff check .
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
