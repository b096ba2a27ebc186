#!/usr/bin/env bash
# reasoning-gym 0.1.25: the right answer of an arc_agi item that was kept as JSON scores less than 1.
#
# Expected: an entry written to a JSONL file and read again is graded as before.
# Seen: the scorer compares tuples, JSON has lists only, and no list equals a tuple: the right grid is wrong.
# megatron_r1 gives entries the same round trip before it trains and grades (gym/problems.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import json

import reasoning_gym

data = reasoning_gym.create_dataset("arc_agi", seed=1, size=2)
for entry in data:
    again = json.loads(json.dumps(entry))
    fresh, kept = (data.score_answer(entry["answer"], one) for one in (entry, again))
    print(f"the right answer scores {fresh}, after JSON {kept}")
    assert fresh == 1.0
    assert kept < 1.0, "changed"
PYTHON
