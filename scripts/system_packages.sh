#!/usr/bin/env bash
# The Debian packages that some tests need: installed if they are missing and this machine allows it.
# Never fails: without them those tests are skipped, and the line printed here says which.
set -uo pipefail

missing=() skipped=()
if ! command -v chromium >/dev/null; then missing+=(chromium) skipped+=("of the report in a browser"); fi
if ! command -v bwrap >/dev/null; then missing+=(bubblewrap) skipped+=("of the sandbox for code"); fi
if [ ! -x /usr/sbin/slurmctld ] && ! command -v slurmctld >/dev/null; then missing+=(slurm-wlm) skipped+=("on a real SLURM"); fi
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT

install() {
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null && install >"$log" 2>&1; then
    echo "system packages: installed ${missing[*]}" >&2
else
    tail -n 3 "$log" >&2
    tests=$(printf ', %s' "${skipped[@]}")
    echo "system packages: ${missing[*]} missing and not installable here; skipped are the tests ${tests#, }" >&2
fi
exit 0
