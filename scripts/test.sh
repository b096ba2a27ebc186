#!/usr/bin/env bash
# All tests, in two pytest processes side by side: ranks wait for each other half of the time, so one process
# leaves the second core idle. What the second one says is shown when both are done.
#
#     scripts/test.sh [OPTIONS OF PYTEST]     such as -x or -k WORD; for single files, pytest itself
#
# PYTEST_ADDOPTS counts for both. Where it, or the options, name a --junitxml file, the second's is FILE.ranks.xml.
set -uom pipefail  # m: each in a process group of its own, to be ended as a whole
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# a script in the background, or under nohup, would hand on signals that are ignored
PYTEST=(env --default-signal=INT,TERM,HUP "${PYTHON:-.venv/bin/python}" -m pytest)
WITH_RANKS=(tests/distributed tests/backend tests/gpu tests/launch tests/plan)

report=()
if [[ "${PYTEST_ADDOPTS:-} $*" =~ --junit-?xml[=\ ]([^ ]+) ]]; then report=("--junitxml=${BASH_REMATCH[1]}.ranks.xml"); fi
shown=$(mktemp)
exec 3>"$shown" 4<"$shown"
rm "$shown"  # open, but without a name: nothing is left behind, however this ends

"${PYTEST[@]}" "${WITH_RANKS[@]/#/--ignore=}" "$@" &
first=$!
"${PYTEST[@]}" "${WITH_RANKS[@]}" "$@" "${report[@]}" >&3 2>&1 &
second=$!

stop() {
    trap '' INT TERM HUP
    kill -INT -- "-$first" "-$second" 2>/dev/null
    wait
    cat <&4
    exit 130
}
trap stop INT TERM HUP

wait "$first"
of_first=$?
wait "$second"
of_second=$?
printf '\n%s:\n' "${WITH_RANKS[*]}"
cat <&4
# 5: no test was chosen, which counts only where neither has one
[ "$of_first" != 5 ] || of_first=$of_second
[ "$of_second" != 5 ] || of_second=$of_first
exit $((of_first > of_second ? of_first : of_second))
