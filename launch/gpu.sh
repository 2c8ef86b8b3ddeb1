#!/usr/bin/env bash
# Measures nasjax on one GPU within eight minutes, and writes OUT/gpu.json:
#   bash launch/gpu.sh [OUT] [--seconds=480] [--rehearse]
# Uses $PYTHON (python3) as it is, with its JAX for GPUs and, if it is there, its
# PyTorch; what is missing is named. Installs nothing. Further flags go to
# experiments/gpu.py.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:-$repo/results/gpu}
if [[ $# -gt 0 && $1 != -* ]]; then
  out=$1
  shift
fi
python=${PYTHON:-python3}
if ! "$python" -c 'import absl' 2>/dev/null; then
  echo "absl-py not installed: $python -m pip install absl-py" >&2
  exit 1
fi
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH}
exec "$python" "$repo/experiments/gpu.py" --out="$out" "$@"
