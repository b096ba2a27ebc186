"""Failure report: which rank caused the end of a run, and why.

When one rank dies the others fail too, with a lost connection or a timeout. The culprit is the first rank to
die whose log does not end in such an error. If every log does, some rank hung, and the last heartbeats show
which one fell behind.
"""

import re
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_r1.errors import Interrupted
from megatron_r1.files.run_directory import rank_log
from megatron_r1.runtime import heartbeat

TAIL_LINES = 25
_TAIL_BYTES = 16384
_LAST_WORDS_LINES = 8
_COLLATERAL = re.compile(
    r"gloo.*(closed by peer|reset by peer|broken pipe|connection refused|timed out)"
    r"|ncclRemoteError|NCCL communicator was aborted|remote process exited"
    r"|collective operation timeout|recvValue failed|sendBytes failed|failed to recv, got"
    r"|made no progress for .* it waits in \w+ for the other ranks",  # runtime/watchdog.py
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Death:
    """A rank that ended: returncode as in subprocess (negative for a signal), log_end of this launch only."""

    rank: int
    returncode: int
    log_end: str
    ours: bool = False  # the launcher ended it after another rank died

    @property
    def exit_code(self) -> int:
        """The code as a shell reports it: 128 + n for signal n."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    @property
    def failed(self) -> bool:
        return self.returncode not in (0, Interrupted.exit_code)

    @property
    def collateral(self) -> bool:
        """Whether it failed only because another rank did."""
        last_words = "\n".join(self.log_end.splitlines()[-_LAST_WORDS_LINES:])
        return self.returncode != 0 and _COLLATERAL.search(last_words) is not None


def culprit(deaths: Sequence[Death]) -> Death | None:
    """The death that explains the others; None if every rank ended with 0. deaths: in order of time."""
    bad = [death for death in deaths if death.returncode != 0 and not death.ours]
    failed = [death for death in bad if death.failed and not death.collateral]
    interrupted = [death for death in bad if not death.failed]
    return next(iter(failed or interrupted or bad), None)


def read_end(log_path: Path, *, start: int) -> str:
    """The last lines that this launch wrote: those after byte `start`."""
    if not log_path.exists():
        return f"({log_path} was removed while the run was going)"
    with log_path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def describe(
    blamed: Death,
    *,
    deaths: Sequence[Death],
    log_dir: Path,
    oom_kills: int,
    host: str | None = None,
    ranks: int | None = None,
) -> str:
    """The report, several lines: the end of the culprit's log first, the remedy last.

    oom_kills: processes that the kernel killed for want of memory during the run.
    host: where the culprit ran; None: this machine. ranks: the run's number; None: as many as deaths.
    """
    rank = f"rank {blamed.rank} of {ranks or len(deaths)} on {host or socket.gethostname()}"
    where = heartbeat.read(log_dir, blamed.rank) or "before its first step"
    lines = [
        f"--- the end of {rank_log(log_dir, blamed.rank)}",
        blamed.log_end or "(nothing written)",
        "---",
        f"error: {rank} {_ending(blamed)}; {where}",
    ]
    if blamed.returncode == -signal.SIGKILL:
        lines.append(_explain_kill(oom_kills))
    if blamed.collateral:
        lines += _explain_hang(deaths, log_dir)
    return "\n".join(lines)


def _ending(death: Death) -> str:
    if death.returncode >= 0:
        return f"ended with exit code {death.returncode}"
    return f"was killed by {signal.Signals(-death.returncode).name}"


def _explain_kill(oom_kills: int) -> str:
    if oom_kills:
        return (
            f"The kernel ran out of memory and killed {oom_kills} process(es) meanwhile: lower the batch, "
            "the sequence length or the number of ranks on this machine"
        )
    return (
        "SIGKILL comes from outside: `kill -9`, or a memory limit of the job or container; see `dmesg` and, "
        "if it was memory, lower the batch, the sequence length or the number of ranks on this machine"
    )


def _explain_hang(deaths: Sequence[Death], log_dir: Path) -> list[str]:
    unanswering = ", ".join(str(death.rank) for death in deaths if death.ours)
    suspects = f"; rank {unanswering} was still running, its log tells where" if unanswering else ""
    now = time.time()
    beats = sorted(
        (beat.time, death.rank, beat) for death in deaths if (beat := heartbeat.read(log_dir, death.rank))
    )
    return [
        f"It waited for a rank that did not answer, and none died before: one hangs{suspects}. Last seen:",
        # a clock that was set back would give a negative age
        *(f"  rank {rank}: {beat}, {max(0.0, now - seen):.0f} s ago" for seen, rank, beat in beats),
    ]
