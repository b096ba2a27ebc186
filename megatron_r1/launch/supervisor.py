"""Supervisor: runs a command as several ranks on this machine, which start and end together.

The first signal is passed on to the ranks, which may then take their time over a checkpoint; the second one
kills them. When a rank fails, the others get SIGTERM and, after a grace period, SIGKILL.
"""

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_r1.errors import Interrupted
from megatron_r1.launch import failure_report
from megatron_r1.launch.failure_report import Death
from megatron_r1.launch.rank_processes import Team
from megatron_r1.runtime import heartbeat, signals

POLL_S = 0.05
SETTLE_S = 2.0  # wait after a failure for ranks that die of the same cause, to find the culprit among them
INTERRUPT_GRACE_S = 60.0  # from the end of the first interrupted rank until the rest are killed

log = logging.getLogger(__name__)


def run_ranks(
    command: Sequence[str],
    *,
    ranks: int,
    log_dir: Path,
    env: Mapping[str, str],
    grace_s: float = 10.0,
    handles_signals: bool = False,
) -> int:
    """Run `command` once for each rank and wait for all; returns 0 or the exit code of the culprit.

    env: the whole environment of the ranks; RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are added.
    log_dir: rank<N>.log is appended to; rank 0's is copied to the standard output as well.
    grace_s: from the SIGTERM after a failure to the SIGKILL.
    handles_signals: the command calls signals.install. Signals are blocked until it does, and the survivors
    of a failure log their stacks.
    Returns 128 + n if signal n ended the culprit, or if the user's second signal n ended the run.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    heartbeat.forget(log_dir)
    oom_kills_before = _oom_kills()
    with signals.collected() as received, Team(log_dir) as team:
        team.start(command, ranks=ranks, env=env, blocked=signals.RANK_SIGNALS if handles_signals else ())
        deaths = _supervise(team, received, grace_s=grace_s, stacks=handles_signals)
    if len(received) > 1:
        return 128 + received[-1]
    blamed = failure_report.culprit(deaths)
    if blamed is None:
        return 0
    answered_signal = bool(received) and -blamed.returncode in received
    if blamed.failed and not answered_signal:
        oom_kills = _oom_kills() - oom_kills_before
        log.error(failure_report.describe(blamed, deaths=deaths, log_dir=log_dir, oom_kills=oom_kills))
    return blamed.exit_code


def _supervise(team: Team, received: list[int], *, grace_s: float, stacks: bool) -> list[Death]:
    """Wait for every rank, forward signals, end the others when one fails; returns the deaths in order."""
    deaths: list[Death] = []
    take_down_at = kill_at = float("inf")
    forwarded = False
    while team.running:
        death = team.next_death(timeout_s=POLL_S)
        now = time.monotonic()
        if death is not None:
            deaths.append(death)
            if death.failed and not death.ours:
                take_down_at = min(take_down_at, now + SETTLE_S)
            elif death.returncode == Interrupted.exit_code:
                kill_at = min(kill_at, now + INTERRUPT_GRACE_S)
        if received and not forwarded:
            forwarded = True
            team.signal(received[0])
            name = signal.Signals(received[0]).name
            log.warning("%s: the ranks write a checkpoint and end; again to kill them", name)
        if now >= take_down_at:
            take_down_at = float("inf")
            kill_at = min(kill_at, now + grace_s)
            team.take_down(stacks=stacks)
        if now >= kill_at or len(received) > 1:
            team.kill()
    return deaths


def _oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since boot, those in containers included."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, value = line.split()
        if name == "oom_kill":
            return int(value)
    return 0
