#!/usr/bin/env bash
# Makes .venv with all requirements and nasjax itself; sourced by the others.
# uv is used where it is installed; otherwise venv and pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "nasjax needs Python 3.11 or later; $python is $("$python" --version 2>&1)." >&2
  echo "Set PYTHON to a newer interpreter." >&2
  exit 1
fi
# Installed once for each state of the requirements.
stamp=.venv/requirements.sha256
sum=$("$python" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' \
  requirements.txt pyproject.toml)
if [[ ! -x .venv/bin/python || "$(cat "$stamp" 2>/dev/null)" != "$sum" ]]; then
  if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing --python "$python" .venv
    uv pip install --quiet --python .venv/bin/python -r requirements.txt
    uv pip install --quiet --python .venv/bin/python --no-deps -e .
  else
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet -r requirements.txt
    .venv/bin/python -m pip install --quiet --no-deps -e .
  fi
  echo "$sum" >"$stamp"
fi
