#!/usr/bin/env bash
# math-verify 0.9.0 multiplies across the spaces inside a number.
#
# Expected: 1\,000 is a thousand (a thin space groups digits, ISO 80000-1), and 2 1/2 is two and a half.
# Seen: 1\,000 is 1 * 0 and equals 0; in dollars 2 1/2 equals 3/2, the sum of 1 and 1/2.
# megatron_r1 reads grouped digits and mixed numbers itself (rewards/answers/numerals.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check math-verify==0.9.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

for gold, answer, right in [(r"$1\,000$", "$0$", "$1000$"), ("$2 1/2$", r"$\frac{3}{2}$", r"$\frac{5}{2}$")]:
    wrong_passes, right_passes = verify(parse(gold), parse(answer)), verify(parse(gold), parse(right))
    print(f"{gold} is {parse(gold)[0]}; equals {answer}: {wrong_passes}; equals {right}: {right_passes}")
    assert (wrong_passes, right_passes) == (True, False), "changed: spaces inside a number are read now"
PYTHON
