"""The limits of a sandboxed program."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """cpu_s, memory_bytes and processes count all processes of a program together.

    cpu_s: the kernel enforces it for each process, the watch for their sum. wall_s: far above cpu_s, for
    programs that sleep; a busy machine must not turn right programs into wrong ones.
    memory_bytes: the kernel limits each process's address space, the watch the sum of resident memory.
    disk_bytes, files: of /tmp, the only writable place; enforced by the kernel (tmpfs).
    output_bytes: standard output and error together.
    """

    cpu_s: float = 4.0
    wall_s: float = 20.0
    memory_bytes: int = 512 * MIB
    processes: int = 32
    disk_bytes: int = 32 * MIB
    files: int = 1024
    file_bytes: int = 16 * MIB
    open_files: int = 64
    output_bytes: int = 1 * MIB
