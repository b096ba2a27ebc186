#!/usr/bin/env bash
# math-verify 0.9.0 compares values and drops what stands behind them.
#
# Expected: 12 kg and 12 g are two answers, and so are 25 degrees Celsius and Fahrenheit.
# Seen: both pairs are equal; what a unit's macro holds is parsed away before the comparison, so that a model
# is paid for the right number in the wrong unit. The base of a number, 101_2 against 101_3, goes the same way.
# megatron_r1 reads units itself (rewards/math/units.py) and compares what it can't read as text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check math-verify==0.9.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

pairs = [
    (r"$12 \mathrm{~kg}$", r"$12 \mathrm{~g}$"),
    (r"$25^\circ\mathrm{C}$", r"$25^\circ\mathrm{F}$"),
    (r"$101_2$", r"$101_3$"),
]
for gold, answer in pairs:
    equal = verify(parse(gold), parse(answer))
    print(f"{gold}  {answer}  equal: {equal}")
    assert equal, "changed: what stands behind the value counts now"
assert not verify(parse("$12$"), parse("$13$"))
PYTHON
