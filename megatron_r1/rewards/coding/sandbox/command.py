"""The command line of a sandbox.

Its layers, from the outside in:

    setpriv   as root only: another user, or RLIMIT_NPROC would not count
    unshare   a user and a mount namespace, so that /tmp and /dev/shm can be a tmpfs with a limit on its
              files: bubblewrap's own has one on its bytes only (131,000 files in 3 s)
    bwrap     no network, no other processes, no capability, nothing of the machine but /usr, read-only
    prlimit   what the kernel counts for each process
    python3   isolated, without site packages, on driver.py
"""

import os
import resource
import shutil
from functools import cache
from pathlib import Path

from megatron_r1.errors import R1Error
from megatron_r1.rewards.coding.sandbox import seccomp
from megatron_r1.rewards.coding.sandbox.limits import Limits

INTERPRETER = "/usr/bin/python3"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # the only variable that the sandbox can read (/proc/1/environ)
TOOLS = ("bwrap", "unshare", "mount", "prlimit", "sh")
REMEDY = "`megatron-r1 doctor bubblewrap` says what is missing and the command that mends it"
FIRST_UID = 2_000_000_000  # an unused user, who can reach no other user's files, processes or signals
ADDRESS_SPACE_BYTES = 2 << 30  # for large stacks that are hardly used: threading.stack_size(2**29)
STACK_BYTES = 256 << 20  # of the main thread, for deep recursion
DRIVER, PROGRAM, REQUEST = "/driver.py", "/program.py", "/request.json"

# One file system for /tmp and /dev/shm, so that its limits hold for both. $1 is the mount options; what
# follows is bwrap and its arguments.
MOUNT_TMP = 'mount -t tmpfs -o "$1" tmpfs /tmp && mkdir -m 1777 /tmp/tmp /tmp/shm && shift && exec "$@"'


def require_tools() -> None:
    """Raise R1Error if a tool of the sandbox is missing, so that no code runs without it."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        missing.append("setpriv")
    if not Path(INTERPRETER).exists():
        missing.append(INTERPRETER)
    if missing:
        raise R1Error(
            f"rewards.code: {', '.join(missing)} not found, so there is no sandbox, and without one no code "
            f"of a model is run; {REMEDY}"
        )
    if not seccomp.supported():
        raise R1Error(
            f"rewards.code: no list of system calls for this machine; it has to be one of "
            f"{', '.join(seccomp.MACHINES)}, or be added to rewards/coding/sandbox/seccomp.py"
        )


def sandboxed(
    limits: Limits,
    *,
    driver_fd: int,
    program_fd: int,
    request_fd: int,
    filter_fd: int,
    status_fd: int,
    slot: int,
) -> list[str]:
    """The whole command, which must inherit the descriptors. slot: the worker's number, for its own user."""
    tmp = f"size={limits.disk_bytes},nr_inodes={limits.files},mode=1777,nosuid,nodev"
    return [
        *_other_user(slot),
        *(_found("unshare"), "--user", "--map-root-user", "--mount", "--propagation", "private"),
        *("sh", "-c", MOUNT_TMP, "sh", tmp),
        *_bubblewrap(),
        *("--json-status-fd", str(status_fd), "--seccomp", str(filter_fd)),
        *("--ro-bind-data", str(driver_fd), DRIVER, "--ro-bind-data", str(program_fd), PROGRAM),
        *("--ro-bind-data", str(request_fd), REQUEST),
        # last: what is mounted after it could not be made
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"),
        *_rlimits(limits),
        *(INTERPRETER, "-I", "-S", "-B", DRIVER),
    ]


@cache
def _found(tool: str) -> str:
    """The absolute path of a tool, as the sandbox's PATH may lack it."""
    path = shutil.which(tool)
    assert path is not None, f"{tool}: require_tools comes first"
    return path


def _other_user(slot: int) -> list[str]:
    if os.geteuid() != 0:
        return []
    user = str(FIRST_UID + slot)
    return [_found("setpriv"), "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]


@cache
def _bubblewrap() -> tuple[str, ...]:
    links = [
        part
        for name in ("bin", "lib", "lib64", "lib32")
        if (found := _system_directory(name)) is not None
        for part in found
    ]
    return (
        *(
            _found("bwrap"),
            "--unshare-all",
            "--unshare-user",
            "--disable-userns",
            "--uid",
            "1000",
            "--gid",
            "1000",
        ),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv"),
        *("--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"),
        # arenas: the C library reserves 64 MiB of addresses for each thread otherwise
        *("--setenv", "OMP_NUM_THREADS", "1", "--setenv", "MALLOC_ARENA_MAX", "2"),
        *("--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev"),
        *("--bind", "/tmp/tmp", "/tmp", "--bind", "/tmp/shm", "/dev/shm"),
    )


def _system_directory(name: str) -> tuple[str, ...] | None:
    """bwrap's options for /bin and the like: links into /usr on most systems, directories on old ones."""
    path = Path("/", name)
    if path.is_symlink():
        return ("--symlink", os.readlink(path), str(path))
    return ("--ro-bind", str(path), str(path)) if path.is_dir() else None


def _rlimits(limits: Limits) -> list[str]:
    cpu_s = max(1, -(-limits.cpu_s // 1))
    return [
        _found("prlimit"),
        f"--cpu={int(cpu_s)}",
        f"--as={limits.memory_bytes + ADDRESS_SPACE_BYTES}",
        f"--stack={_stack_bytes()}:",
        f"--nproc={limits.processes}",
        f"--fsize={limits.file_bytes}",
        f"--nofile={limits.open_files}",
        "--core=0",
        "--memlock=0",
        "--msgqueue=0",
        "--sigpending=256",
    ]


def _stack_bytes() -> int:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    return STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
