#!/usr/bin/env bash
# reasoning-gym 0.1.25: the answer nan has the full reward in complex_arithmetic.
#
# Expected: an answer that is no number scores 0.
# Seen: 1.0, since complex('nan') parses, every comparison with it is false, and min(1.0, nan) is 1.0 in Python
# (min keeps its first argument where the second is not less).
# megatron_r1 reads complex numbers with a verifier of its own (gym/verifiers.py), and none of them pays nan.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import reasoning_gym

data = reasoning_gym.create_dataset("complex_arithmetic", seed=1, size=3)
for entry in data:
    score = data.score_answer("nan", entry)
    print(f"the answer is {entry['answer']}; nan scores {score}")
    assert score == 1.0, "changed"
    assert data.score_answer("1000+1000i", entry) < 1.0
PYTHON
