#!/usr/bin/env bash
# reasoning-gym 0.1.25: some reference answers of intermediate_integration are integrals.
#
# Expected: the answer to "Calculate the antiderivative" is an antiderivative, one that a model can learn from.
# Seen: an item is made by sympy's integrate, and where that gives up its "answer" is Integral(x**3*cos(2*x), x)
# with a factor: nine of the first sixty of seed 1. The scorer pays 1.0 for repeating it, so that handing the
# question back is a right answer.
# megatron_r1 differentiates an answer with a verifier of its own, and keeps no reference (gym/integrals.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import reasoning_gym

data = reasoning_gym.create_dataset("intermediate_integration", seed=1, size=60)
unsolved = [entry for entry in data if "Integral(" in entry["answer"]]
for entry in unsolved[:3]:
    score = data.score_answer(entry["answer"], entry)
    print(f"{entry['question'].splitlines()[0]} answer: {entry['answer']}, which scores {score}")
    assert score == 1.0
print(f"{len(unsolved)} of {len(data)}")
assert len(unsolved) > 3, "changed"
PYTHON
