#!/usr/bin/env bash
# Some scorers of reasoning-gym 0.1.25 pay a full reward for a wrong answer.
#
# Expected: score_answer is 1.0 for right answers only (the package trains models by reinforcement).
# Seen: game_of_life_halting pays 1.0 for any text where the answer is False, coin_flip for "0" whatever the
# probability is, puzzle24 for any expression that is 24, of the given numbers or not.
# megatron_r1 tries wrong answers on a family before it trains on it (gym/trial.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import reasoning_gym

for family, wrong in [("game_of_life_halting", "banana"), ("coin_flip", "0"), ("puzzle24", "6*4*1*1")]:
    data = reasoning_gym.create_dataset(family, seed=1, size=1)
    entry = data[0]
    score = data.score_answer(wrong, entry)
    print(f"{family}: the answer is {entry['answer']}; {wrong!r} scores {score}")
    assert str(entry["answer"]) != wrong
    assert score == 1.0, "changed: the scorer refuses it now"
PYTHON
