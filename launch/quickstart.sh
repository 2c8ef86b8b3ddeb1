#!/usr/bin/env bash
# Installs nasjax into .venv and makes a small benchmark table on synthetic
# speech. Further flags go to experiments/benchmark.py.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec .venv/bin/python experiments/benchmark.py \
  --flagfile=experiments/flags/quickstart.flags "$@"
