#!/usr/bin/env bash
# reasoning-gym 0.1.25: items of list_functions and codeio depend on what was read before.
#
# Expected: item i of a seed is the same whatever came before it; the families seed a generator by seed + i.
# Seen: parts are drawn from the global random module, so that the same index gives other numbers when items
# are read in another order: ranks that share a data set out, or a resumed run, see other questions.
# megatron_r1 makes each item with a random state of its own (gym/problems.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check reasoning-gym==0.1.25
"$folder/venv/bin/python" - <<'PYTHON'
import reasoning_gym


def items(family: str, *, backwards: bool) -> list[str]:
    data = reasoning_gym.create_dataset(family, seed=7, size=64)
    order = reversed(range(64)) if backwards else range(64)
    found = {i: data[i]["question"] + data[i]["answer"] for i in order}
    return [found[i] for i in range(64)]


for family, same in [("basic_arithmetic", True), ("list_functions", False), ("codeio", False)]:
    pairs = zip(items(family, backwards=False), items(family, backwards=True), strict=True)
    differing = [i for i, (one, other) in enumerate(pairs) if one != other]
    print(f"{family}: items that differ when read backwards: {differing}")
    assert (not differing) == same, "changed"
PYTHON
