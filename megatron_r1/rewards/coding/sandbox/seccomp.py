"""Seccomp filter of the sandbox: only local stream sockets, no unaccounted memory, no rare kernel features.

Always refused: memory that stays allocated without being mapped (memfd files, System V and POSIX queues,
inotify watches, asynchronous I/O rings), which neither RLIMIT_AS nor /proc accounts for; other processes'
memory and descriptors; namespaces and mounts; keys, tracing, BPF and administration of the machine. No
contest program needs them, and most kernel exploits begin with one.

Refused by argument: sockets other than AF_UNIX streams, so that watch.py can count all of them in
/proc/net/unix; larger buffers of sockets and pipes; new namespaces in clone.

Refused calls fail with EPERM. clone3, whose flags a filter can't see, and calls newer than this list fail
with ENOSYS, upon which every C library uses the older call. The filter is classic BPF, struct sock_filter
{u16 code; u8 jt, jf; u32 k} (linux/filter.h): another architecture -> kill, x32 calls -> EPERM.
"""

import errno
import platform
import socket
import struct

LOAD, AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
REFUSE, ABSENT = ERROR | errno.EPERM, ERROR | errno.ENOSYS
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has eight bytes
X32_BIT = 0x40000000
NEWER = 453  # the first call number that is newer than this list; the same on all architectures

# machine -> (AUDIT_ARCH_*, numbers by name); from the kernel's asm/unistd.h
MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        # memory that belongs to no process
        "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "io_setup": 206, "mq_open": 240,
        "inotify_init": 253, "inotify_add_watch": 254, "vmsplice": 278, "inotify_init1": 294,
        "fanotify_init": 300, "fanotify_mark": 301, "memfd_create": 319, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "memfd_secret": 447,
        # other processes, their memory and descriptors
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
        "userfaultfd": 323, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
        "process_mrelease": 448,
        # namespaces, mounts and files by handle
        "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "unshare": 272,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442,
        # keys, tracing, filters, odd modes of execution
        "uselib": 134, "personality": 135, "modify_ldt": 154, "iopl": 172, "ioperm": 173,
        "add_key": 248, "request_key": 249, "keyctl": 250, "perf_event_open": 298, "seccomp": 317,
        "bpf": 321,
        # the machine and where its memory lies
        "ustat": 136, "sysfs": 139, "vhangup": 153, "adjtimex": 159, "acct": 163, "settimeofday": 164,
        "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171,
        "create_module": 174, "init_module": 175, "delete_module": 176, "get_kernel_syms": 177,
        "query_module": 178, "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212,
        "clock_settime": 227, "mbind": 237, "set_mempolicy": 238, "kexec_load": 246,
        "migrate_pages": 256, "move_pages": 279, "clock_adjtime": 305, "finit_module": 313,
        "kexec_file_load": 320, "quotactl_fd": 443, "set_mempolicy_home_node": 450, "syslog": 103,
    }),
    "aarch64": (0xC00000B7, {
        "shmget": 194, "shmat": 196, "semget": 190, "msgget": 186, "io_setup": 0, "mq_open": 180,
        "inotify_init1": 26, "inotify_add_watch": 27, "vmsplice": 75, "fanotify_init": 262,
        "fanotify_mark": 263, "memfd_create": 279, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "memfd_secret": 447,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
        "userfaultfd": 282, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440,
        "process_mrelease": 448,
        "pivot_root": 41, "chroot": 51, "mount": 40, "umount2": 39, "unshare": 97,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "open_tree": 428,
        "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442,
        "personality": 92, "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241,
        "seccomp": 277, "bpf": 280,
        "vhangup": 58, "adjtimex": 171, "acct": 89, "settimeofday": 170, "swapon": 224, "swapoff": 225,
        "reboot": 142, "sethostname": 161, "setdomainname": 162, "init_module": 105,
        "delete_module": 106, "quotactl": 60, "nfsservctl": 42, "lookup_dcookie": 18,
        "clock_settime": 112, "mbind": 235, "set_mempolicy": 237, "kexec_load": 104,
        "migrate_pages": 238, "move_pages": 239, "clock_adjtime": 266, "finit_module": 273,
        "kexec_file_load": 294, "quotactl_fd": 443, "set_mempolicy_home_node": 450, "syslog": 116,
    }),
}  # fmt: skip

# the calls whose arguments decide
RULED: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "setsockopt": 54, "clone": 56,
        "fcntl": 72, "prctl": 157, "clone3": 435,
    },
    "aarch64": {
        "socket": 198, "socketpair": 199, "setsockopt": 208, "clone": 220,
        "fcntl": 25, "prctl": 167, "clone3": 435,
    },
}  # fmt: skip

Line = tuple[int, int, int, int]

SOCKET_TYPE = 0xF  # the rest of the argument are flags
SAFE_OPTIONS = (socket.SO_REUSEADDR, socket.SO_PASSCRED, socket.SO_PEERCRED, 20, 21)  # the last: time-outs
LEASE, NOTIFY, PIPE_SIZE = 1024, 1026, 1031  # fcntl's commands (linux/fcntl.h)
DUMPABLE, SECCOMP = 4, 22  # prctl's (linux/prctl.h); who is not dumpable hides its descriptors
NAMESPACES = 0x7E020000  # CLONE_NEW*: mount, cgroup, uts, ipc, user, pid, net


def supported() -> bool:
    return platform.machine() in MACHINES


def program() -> bytes:
    """The filter for this machine, as bubblewrap reads it from a file descriptor."""
    machine = platform.machine()
    architecture, refused = MACHINES[machine]
    lines: list[Line] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        *_unless((JUMP_AT_LEAST, 0, 0, X32_BIT), [(RETURN, 0, 0, REFUSE)]),
        *_unless((JUMP_AT_LEAST, 0, 0, NEWER), [(RETURN, 0, 0, ABSENT)]),
    ]
    rules = _rules()
    for name, number in RULED[machine].items():
        lines += _unless((JUMP_EQUAL, 0, 0, number), [*rules[name], (RETURN, 0, 0, ALLOW)])
    for number in sorted(refused.values()):
        lines += _unless((JUMP_EQUAL, 0, 0, number), [(RETURN, 0, 0, REFUSE)])
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _rules() -> dict[str, list[Line]]:
    """The refused arguments of each call in RULED; other arguments are allowed."""
    stream = [*_only(0, socket.AF_UNIX), *_only(1, socket.SOCK_STREAM, mask=SOCKET_TYPE)]
    return {
        "socket": stream,
        "socketpair": stream,
        "setsockopt": [*_only(1, socket.SOL_SOCKET), *_only(2, *SAFE_OPTIONS)],
        "fcntl": _never(1, LEASE, NOTIFY, PIPE_SIZE),
        "prctl": _never(0, DUMPABLE, SECCOMP),
        "clone": [_load(0), *_unless((JUMP_BITS, 0, 0, NAMESPACES), [(RETURN, 0, 0, REFUSE)])],
        "clone3": [(RETURN, 0, 0, ABSENT)],
    }


def _load(argument: int) -> Line:
    """Load the low half of an argument, which comes first on both architectures."""
    return LOAD, 0, 0, ARGUMENTS + 8 * argument


def _only(argument: int, *values: int, mask: int | None = None) -> list[Line]:
    """Refuse other values of an int argument; like the kernel, ignore its high half."""
    masked = [] if mask is None else [(AND, 0, 0, mask)]
    checks = [(JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load(argument), *masked, *checks, (RETURN, 0, 0, REFUSE)]


def _never(argument: int, *values: int) -> list[Line]:
    checks = [_unless((JUMP_EQUAL, 0, 0, value), [(RETURN, 0, 0, REFUSE)]) for value in values]
    return [_load(argument), *(line for check in checks for line in check)]


def _unless(test: Line, then: list[Line]) -> list[Line]:
    """Run `then` if the test holds; otherwise skip it."""
    code, _, _, constant = test
    return [(code, 0, len(then), constant), *then]
