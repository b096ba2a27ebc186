#!/usr/bin/env bash
# math-verify 0.9.0 reads a word in mathematics as the product of its letters, and forgets their case.
#
# Expected: the words even and neve, no and on, and the variables x and X are different.
# Seen: each pair is equal: even is E*E*n*v. A clock time is a ratio: 12:30 equals 2/5.
# megatron_r1 compares words that are no function or constant as text (rewards/answers/mathematics.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check math-verify==0.9.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

for gold, answer in [("$even$", "$neve$"), ("$no$", "$on$"), ("$x^2$", "$X^2$"), ("$12:30$", r"$\frac{2}{5}$")]:
    equal = verify(parse(gold), parse(answer))
    print(f"{gold} {parse(gold)[0]}  {answer} {parse(answer)[0]}  equal: {equal}")
    assert equal, "changed: words are no products any more"
assert not verify(parse("$x$"), parse("$y$"))
PYTHON
