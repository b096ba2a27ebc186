#!/usr/bin/env bash
# The tests and the benchmarks that need CUDA, in under ten minutes; one line instead, and exit code 1, where there
# is none. What fails doesn't stop the rest, but the exit code is 1.
#
#     scripts/gpu.sh [PYTHON]      PYTHON: .venv/bin/python, or another one that has the packages
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${1:-.venv/bin/python}
LIMIT_S=570 TESTS_S=140

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu: torch sees no CUDA device here, so nothing was run; \`make test\` is what a CPU can do" >&2
    exit 1
fi
status=0
timeout "$TESTS_S" "$PYTHON" -m pytest tests/gpu || {
    status=1
    echo "gpu: tests/gpu failed, or took more than $TESTS_S s" >&2
}
"$PYTHON" -m benchmarks.gpu --seconds $((LIMIT_S - SECONDS)) || status=1
exit "$status"
