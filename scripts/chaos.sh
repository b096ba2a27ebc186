#!/usr/bin/env bash
# kill -9 of a random rank at a random moment, many times, each followed by a resume: the final weights, metrics and
# samples must be those of a run that nobody touched.
#
#   scripts/chaos.sh [KILLS] [SEED] [CONFIG]   by default 30 kills with a new seed, of tests/end_to_end/micro.yaml;
#                                            micro_all.yaml has every kind of stage; minutes on two cores
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
seed=${2:-$RANDOM}
echo "chaos: seed $seed" >&2
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES='' PYTHONWARNINGS=ignore
.venv/bin/python -m tests.end_to_end.chaos "$folder" "${1:-30}" "$seed" "${3:-micro.yaml}"
