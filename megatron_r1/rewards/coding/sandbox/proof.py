"""Checks that the sandbox holds on this machine, by a probe inside it, before any program of a model runs."""

import json
from functools import cache

from megatron_r1.errors import R1Error
from megatron_r1.rewards.coding.sandbox.command import REMEDY, require_tools
from megatron_r1.rewards.coding.sandbox.limits import Limits
from megatron_r1.rewards.coding.sandbox.run import Fate, run_program

# every claim must be true; the false ones are the message of `fault`
PROBE = """
import ctypes, json, os, resource, socket, subprocess

def refused(action):
    try:
        action()
    except OSError:
        return True
    return False

print(json.dumps({
    "it runs as a user without rights": os.getuid() != 0,
    "it sees /usr and nothing else of the machine": set(os.listdir("/")) <= {
        "bin", "dev", "driver.py", "lib", "lib32", "lib64", "proc", "program.py",
        "request.json", "tmp", "usr"},
    "it sees no process but its own": all(int(p) < 100 for p in os.listdir("/proc") if p.isdigit()),
    "it has no network": len(open("/proc/net/dev").read().splitlines()) == 3
        and all(refused(lambda: socket.socket(family)) for family in (2, 10, 16, 40)),
    "it inherits no environment": set(os.environ) <= {
        "PATH", "HOME", "LANG", "LC_CTYPE", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX",
        "PWD"},
    "it can write to /tmp": not refused(lambda: open("/tmp/a", "w").close()),
    "it can write nowhere else": refused(lambda: open("/usr/a", "w")) and refused(lambda: open("/a", "w")),
    "its files are limited in number": all(
        0 < os.statvfs(folder).f_files <= 1 << 20 for folder in ("/tmp", "/dev/shm")),
    "its memory is limited": resource.getrlimit(resource.RLIMIT_AS)[0] > 0,
    "it can start a process": subprocess.run(["/usr/bin/true"]).returncode == 0,
    "system calls are filtered": refused(lambda: os.memfd_create("x")),
}))
"""


@cache
def fault() -> str | None:
    """The protection that fails, for a message; None if all hold. Raises R1Error if a tool is missing."""
    ran = run_program(PROBE, {"function": None}, "", limits=Limits(cpu_s=10.0, wall_s=60.0))
    if ran.fate is not Fate.DONE:
        return f"a probe ended with {ran.fate}: {ran.stderr.strip()[-300:] or 'no message'}"
    failed = [claim for claim, holds in json.loads(ran.stdout).items() if not holds]
    return f"not true in it: {'; '.join(failed)}" if failed else None


def require_sandbox() -> None:
    """Raise R1Error unless the sandbox can be built and holds."""
    require_tools()
    found = fault()
    if found is not None:
        raise R1Error(
            f"rewards.code: the sandbox does not hold on this machine ({found}), and without one no code "
            f"of a model is run; {REMEDY}"
        )
