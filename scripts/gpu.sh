#!/usr/bin/env bash
# The tests and the benchmarks that need CUDA; one line instead, and exit code 1, where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=.venv/bin/python

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu: torch sees no CUDA device here, so nothing was run; \`make test\` is what a CPU can do" >&2
    exit 1
fi
"$PYTHON" -m pytest tests/gpu
for benchmark in benchmarks/gpu/[a-z]*.py; do
    echo "gpu: $benchmark" >&2
    "$PYTHON" -m "benchmarks.gpu.$(basename "$benchmark" .py)"
done
