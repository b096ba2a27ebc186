#!/usr/bin/env bash
# The environment in .venv: a Python that works, the pinned packages, then this package, editable.
# .venv/.stamp holds a hash of all that went into it: if nothing changed, this ends at once.
#
#   scripts/setup.sh                      or: PYTHON=/path/to/python3.12 scripts/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=.venv
STAMP=$VENV/.stamp

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# A candidate counts only if it runs (a pyenv shim may exist and fail) and is one that the pins have
# wheels for; ensurepip is what Debian leaves out of python3 until python3-venv is there.
works() {
    [ "$("$1" -c 'import ensurepip, sys, venv; print((3, 12) <= sys.version_info < (3, 14))' 2>/dev/null)" = True ]
}

candidates() {
    if [ -n "${PYTHON:-}" ]; then printf '%s\n' "$PYTHON"; fi
    local version home=${HOME:-/nonexistent}
    for version in 3.12 3.13; do
        printf '%s\n' "python$version"
        compgen -G "$home/.pyenv/versions/$version*/bin/python" | sort -rV
        compgen -G "/opt/python*$version*/bin/python$version"
        compgen -G "$home/.local/share/uv/python/cpython-$version*/bin/python$version" | sort -rV
        compgen -G "$home/*conda*/bin/python$version"
        compgen -G "$home/*conda*/envs/*/bin/python$version"
        compgen -G "$home/miniforge3/bin/python$version"
        compgen -G "/opt/*/bin/python$version"
        printf '%s\n' "/usr/local/bin/python$version" "/usr/bin/python$version"
    done
    printf '%s\n' python3 python
}

find_python() {
    local candidate
    while read -r candidate; do
        if works "$candidate"; then
            command -v "$candidate"
            return
        fi
    done < <(candidates)
    return 1
}

# Empty when the interpreter in .venv doesn't run, or when the folder was moved (its scripts then
# name a place that is gone).
fingerprint() {
    works "$VENV/bin/python" && grep -qsF "$PWD/$VENV" "$VENV/bin/activate" || return 0
    "$VENV/bin/python" - requirements.txt pyproject.toml scripts/setup.sh <<'PYTHON'
import hashlib, pathlib, sys
parts = [sys.version.encode(), *(pathlib.Path(name).read_bytes() for name in sys.argv[1:])]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

make_venv() {
    local python
    python=$(find_python) || die "no working Python 3.12 or 3.13 found; get one with \`apt install python3.12" \
        "python3.12-venv\`, \`pyenv install 3.12\` or \`uv python install 3.12\`, or name one: make setup PYTHON=PATH"
    say "$("$python" --version) at $python"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
}

# uv takes seconds where pip takes minutes. pip serves where uv can't be had; the pins are complete,
# so a site-wide constraints file could only contradict them (uv knows of none).
install() {
    if [ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install -qq --disable-pip-version-check uv; then
        "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" "$@"
    else
        say "no uv: pip it is, which takes some minutes"
        PIP_CONSTRAINT=/dev/null "$VENV/bin/python" -m pip install -q --disable-pip-version-check "$@"
    fi
}

before=$(fingerprint)
if [ -n "$before" ] && [ "$before" = "$(cat "$STAMP" 2>/dev/null)" ]; then
    exit 0
fi
if [ -z "$before" ]; then make_venv; fi
rm -f "$STAMP"
say "installing the pinned packages into $VENV (about 5 GB: torch and its CUDA libraries)"
install -r requirements.txt
# setuptools is among the pins (torch needs it), so that the build has all it needs.
install --no-deps --no-build-isolation --editable .
fingerprint > "$STAMP"
say "ready: $VENV/bin/megatron-r1 --help"
