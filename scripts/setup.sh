#!/usr/bin/env bash
# The environment in .venv: a Python that works, the pinned packages, then this package, editable.
# .venv/.stamp holds a hash of all that went into it: if nothing changed, this ends at once.
#
#   scripts/setup.sh            or with an interpreter named: PYTHON=/path/to/python3.12 scripts/setup.sh
#   scripts/setup.sh --which    only print the interpreter that would be used
#   scripts/setup.sh --nemo     the environment of rollout.engine nemo, .venv-nemo, from requirements-nemo.txt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=.venv PINS=requirements.txt
if [ "${1:-}" = --nemo ]; then VENV=.venv-nemo PINS=requirements-nemo.txt; fi
STAMP=$VENV/.stamp

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# A candidate counts only if it runs (a pyenv shim may exist and fail) and the pins have wheels for it.
# ensurepip is what Debian leaves out of python3 until python3-venv is there.
works() {
    [ "$("$1" -c 'import ensurepip, sys, venv; print((3, 12) <= sys.version_info < (3, 14))' 2>/dev/null)" = True ]
}

candidates() {
    local version home=${HOME:-/nonexistent}
    for version in 3.12 3.13; do
        echo "python$version"
        compgen -G "$home/.pyenv/versions/$version*/bin/python" | sort -rV
        compgen -G "$home/.local/share/uv/python/cpython-$version*/bin/python$version" | sort -rV
        compgen -G "$home/*conda3/bin/python$version"
        compgen -G "$home/*conda3/envs/*/bin/python$version"
        compgen -G "$home/*forge3/bin/python$version"
        compgen -G "/opt/*/bin/python$version"
        echo "/usr/local/bin/python$version"
        echo "/usr/bin/python$version"
    done
    echo python3
    echo python
}

find_python() {
    local candidate found
    if [ -n "${PYTHON:-}" ]; then
        works "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.12 or 3.13; name another or leave it out"
        command -v "$PYTHON"
        return
    fi
    mapfile -t found < <(candidates || true)  # `||`: a pattern that matches nothing is no error
    for candidate in "${found[@]}"; do
        if works "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "no working Python 3.12 or 3.13 here; get one (apt install python3.12-venv, pyenv install 3.12," \
        "uv python install 3.12 or conda create -n py312 python=3.12) or name one: make setup PYTHON=/path/to/python"
}

# Empty if .venv's interpreter doesn't run, or if the folder was moved: its scripts then name a place
# that is gone.
fingerprint() {
    if ! works "$VENV/bin/python" || ! grep -qsF "$PWD/$VENV" "$VENV/bin/activate"; then return; fi
    "$VENV/bin/python" - "$PINS" pyproject.toml scripts/setup.sh <<'PYTHON'
import hashlib, pathlib, sys
parts = [sys.version.encode(), *(pathlib.Path(name).read_bytes() for name in sys.argv[1:])]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

make_venv() {
    local python
    python=$(find_python)
    say "$("$python" --version), $python"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
}

get_uv() {
    [ -x "$VENV/bin/uv" ] && return
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check uv
}

# uv takes seconds where pip takes minutes. pip serves where uv can't be had or can't reach the registry
# that pip is configured for. The pins are complete, so a site-wide constraints file, which only pip
# reads, could only contradict them. uv leaves byte code uncompiled, which every rank would pay for at its
# start: 17 s instead of 7 to import Megatron.
install() {
    if get_uv && "$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" "$@"; then return; fi
    say "uv could not do it; trying pip, which takes some minutes"
    PIP_CONSTRAINT=/dev/null "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

if [ "${1:-}" = --which ]; then
    find_python
    exit
fi
current=$(fingerprint)
if [ -n "$current" ] && [ "$current" = "$(cat "$STAMP" 2>/dev/null)" ]; then exit; fi
if [ -z "$current" ]; then make_venv; fi
rm -f "$STAMP"
say "installing the pinned packages into $VENV (5 GB: torch brings its CUDA libraries)"
install -r "$PINS"
# setuptools, the build's only need, is among the pins, so nothing is fetched for an isolated build.
install --no-deps --no-build-isolation --editable .
fingerprint >"$STAMP"
say "ready: $VENV/bin/megatron-r1 --help"
