"""Watchdog: a rank that makes no progress reports where it hangs and ends with HangError's exit code.

Progress is the heartbeat of a step. Without one for `watchdog_s` seconds, a rank writes the stacks of its
threads to logs/rank<N>.stacks and, with NCCL, torch's flight recorder to logs/rank<N>.flight. A rank whose
main thread is in a collective only waits; the rank that is not in one is the culprit
(launch/failure_report.py).

The watchdog is a thread and can't run while another thread holds the interpreter's lock. faulthandler's
timer, which needs no Python, ends the rank in that case.
"""

import faulthandler
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_r1.errors import HangError
from megatron_r1.files.run_directory import rank_flight_record, rank_stacks
from megatron_r1.runtime import heartbeat

POLL_S = 0.5
GRACE_S = 5.0  # from a rank's report to its end, so that the other ranks can write theirs
BACKUP_S = 60.0  # how much later than the watchdog faulthandler's timer fires
_COLLECTIVES = ("torch/distributed/", "torch\\distributed\\")


def start(limit_s: float | None, log_dir: Path) -> None:
    """Start the watchdog of this rank; limit_s=None starts none."""
    if limit_s is None:
        return
    watch = threading.Thread(target=_watch, args=(limit_s, log_dir), name="watchdog", daemon=True)
    watch.start()


def _watch(limit_s: float, log_dir: Path) -> None:
    rank = int(os.environ["RANK"])
    heartbeat.progressed()
    with rank_stacks(log_dir, rank).open("w") as file:
        seen = 0.0
        while True:
            last = heartbeat.last_progress()
            if last != seen:
                seen = last
                faulthandler.dump_traceback_later(limit_s + BACKUP_S, file=file, exit=True)
            if time.monotonic() - last > limit_s:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.dump_traceback(file=file, all_threads=True)
                break
            time.sleep(min(POLL_S, limit_s / 4))
    _keep_flight_record(rank_flight_record(log_dir, rank))
    sys.stderr.write(f"error: {describe(limit_s, log_dir)}\n")
    sys.stderr.flush()
    time.sleep(GRACE_S)
    os._exit(HangError.exit_code)


def describe(limit_s: float, log_dir: Path) -> str:
    """The message: how long this rank has made no progress, and where it is."""
    rank = int(os.environ["RANK"])
    where = heartbeat.read(log_dir, rank) or "before its first step"
    main = sys._current_frames()[threading.main_thread().ident or 0]
    return (
        f"rank {rank} on {socket.gethostname()} made no progress for {limit_s:g} s (watchdog_s); {where}; "
        f"{activity(main)}; all stacks: {rank_stacks(log_dir, rank)}"
    )


def activity(frame: FrameType) -> str:
    """Where a stack is: "it waits in all_reduce for the other ranks, called at ..." or "it hangs in ..."."""
    stack = traceback.extract_stack(frame)
    inside = [entry for entry in stack if any(part in entry.filename for part in _COLLECTIVES)]
    if not inside:
        return f"it hangs in {_place(stack[-1])}"
    ours = [entry for entry in stack if "megatron_r1" in entry.filename]
    # the outermost frame of torch.distributed that is not a decorator is the collective itself
    name = next(entry.name for entry in inside if entry.name != "wrapper")
    return f"it waits in {name} for the other ranks, called at {_place((ours or stack)[-1])}"


def _place(entry: traceback.FrameSummary) -> str:
    return f"{entry.name} ({entry.filename}:{entry.lineno})"


def _keep_flight_record(path: Path) -> None:
    """Write NCCL's flight record for torch's fr_trace; nothing without NCCL."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized() or "nccl" not in distributed.get_backend():
        return
    from torch._C._distributed_c10d import _dump_nccl_trace  # pyright: ignore[reportAttributeAccessIssue]

    record: bytes = _dump_nccl_trace()
    path.write_bytes(record if isinstance(record, bytes) else pickle.dumps(record))
