#!/usr/bin/env bash
# reasoning-gym 0.1.25: word_ladder with one seed has other reference answers in another process.
#
# Expected: a seed fixes an item, question and answer, as for the other families.
# Seen: the questions are the same, the answers are not: the search walks a set of strings, whose order depends
# on PYTHONHASHSEED, which Python draws anew for each process. Ranks, and a resumed run, would write different
# references under the same id, and a fingerprint of the data never agrees.
# megatron_r1 refuses word_ladder, and tries all families in processes of other hash seeds (gym/trial.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import ast
import os
import subprocess
import sys

CODE = """
import reasoning_gym
data = reasoning_gym.create_dataset({family!r}, seed=7, size=20)
print([[entry["question"] for entry in data], [entry["answer"] for entry in data]])
"""


def items(family: str, hash_seed: int) -> list[list[str]]:
    command = [sys.executable, "-c", CODE.format(family=family)]
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return ast.literal_eval(subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout)


for family, same in [("basic_arithmetic", True), ("word_ladder", False)]:
    (questions, answers), (others, other_answers) = items(family, 1), items(family, 2)
    print(f"{family}: the same questions {questions == others}, the same answers {answers == other_answers}")
    assert questions == others
    assert (answers == other_answers) == same, "changed"
PYTHON
