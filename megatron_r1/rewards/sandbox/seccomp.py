"""A seccomp filter for memory that no rlimit counts and no process shows as its own, and for kernel corners.

memfd files, System V segments and message queues stay allocated without being mapped anywhere, so neither
RLIMIT_AS nor a look at the processes sees them. The rest is what no contest program needs and what most
kernel exploits begin with. Refused calls fail with EPERM.

The filter is classic BPF, struct sock_filter {u16 code; u8 jt, jf; u32 k} (linux/filter.h): wrong
architecture -> kill, x32 calls and the listed numbers -> EPERM, the rest -> allowed.
"""

import errno
import platform
import struct

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
X32_BIT = 0x40000000

# machine -> (AUDIT_ARCH_*, numbers by name); from the kernel's asm/unistd.h
MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "add_key": 248, "request_key": 249,
        "keyctl": 250, "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311,
        "memfd_create": 319, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "memfd_secret": 447,
    }),
    "aarch64": (0xC00000B7, {
        "ptrace": 117, "msgget": 186, "semget": 190, "shmget": 194, "add_key": 217, "request_key": 218,
        "keyctl": 219, "perf_event_open": 241, "process_vm_readv": 270, "process_vm_writev": 271,
        "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425, "memfd_secret": 447,
    }),
}  # fmt: skip


def supported() -> bool:
    return platform.machine() in MACHINES


def program() -> bytes:
    """The filter for this machine, as bubblewrap reads it from a file descriptor."""
    architecture, refused = MACHINES[platform.machine()]
    numbers = sorted(refused.values())
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, len(numbers) + 1, 0, X32_BIT),
        # from each match to the last line; from the last miss to the one before it
        *((JUMP_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
