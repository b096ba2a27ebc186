"""`megatron-r1 run --profile`: profile of one step of each stage, as a trace and as a table.

Rank 0 profiles a stage's second step (the first warms up), from the end of the first to its own end. The
table has the seconds of every phase by kind of operation, and a lower bound (`floor`): the time of its matrix
products at the rate of this device's best large product. On a GPU operations count with their kernels' time.
The profiler inflates the cost of dispatch, so compare shares rather than seconds.
"""

import logging
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

log = logging.getLogger(__name__)

PHASE = "phase: "
OTHER = "other"
PROFILED = 2  # the step to profile, counted from the start of the stage
# the kind of an operator: the first one of which its name contains a part
KINDS = {
    "matrix products": ("mm", "linear"),
    "attention": ("scaled_dot_product", "flash", "attention"),
    "optimizer": ("adam", "foreach_norm"),
    "softmax and norms": ("softmax", "norm", "rsqrt", "mean"),
    "copies and indexing": ("copy", "cat", "index", "scatter", "gather", "fill", "zero", "sort", "topk"),
    "elementwise": ("mul", "add", "silu", "sigmoid", "sub", "div", "neg", "sum", "exp", "pow", "where"),
}
COMMUNICATION = "communication"


def phase(name: str) -> record_function:
    """A context whose operations count as this phase; without a profiler it costs a microsecond."""
    return record_function(PHASE + name)


def kind_of(operator: str) -> str | None:
    """The kind of a profiled event; None if it belongs to no kind."""
    if operator.startswith(("gloo:", "nccl:", "c10d::")):
        return COMMUNICATION
    if not operator.startswith("aten::"):
        return None
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), None)


def best_product(where: torch.device) -> float:
    """FLOP/s of the fastest of ten large matrix products, as an upper bound of any step's rate."""
    size, dtype = (8192, torch.bfloat16) if where.type == "cuda" else (1024, torch.float32)
    a, b = torch.randn(2, size, size, device=where, dtype=dtype)
    return 2 * size**3 / min(_seconds_of_product(a, b) for _ in range(10))


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor) -> float:
    _wait(a.device)
    began = time.perf_counter()
    torch.matmul(a, b)
    _wait(a.device)
    return time.perf_counter() - began


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


class StepProfile:
    """Called at the end of every step; writes a trace and a table of the profiled one into the directory."""

    def __init__(self, directory: Path, where: torch.device) -> None:
        self._directory, self._where = directory, where
        self._seen = 0
        self._profile: Any = None

    def step(self, step: int) -> None:
        """Note the end of a step; step 0 is the evaluation before the first."""
        self._seen += step > 0
        if self._seen == PROFILED - 1:
            self._start()
        elif self._seen == PROFILED:
            self._finish(step)

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._where.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities, with_flops=True, acc_events=True)
        self._profile.__enter__()
        self._began = time.perf_counter()

    def _finish(self, step: int) -> None:
        _wait(self._where)
        seconds = time.perf_counter() - self._began
        self._profile.__exit__(None, None, None)
        self._directory.mkdir(parents=True, exist_ok=True)
        trace = self._directory / f"step_{step:05d}.trace.json.gz"
        self._profile.export_chrome_trace(str(trace))
        phases = by_phase(self._profile.events(), seconds, on_gpu=self._where.type == "cuda")
        text = table(phases, best=best_product(self._where))
        path = self._directory / f"step_{step:05d}.md"
        title = f"# Step {step} of {self._directory.parent.name}, rank 0: {seconds:.3g} s\n\n"
        path.write_text(title + text, encoding="utf-8")
        self._profile = None
        log.warning("%s%strace: %s (open it in ui.perfetto.dev); table: %s", title, text, trace, path)


@dataclass(slots=True)
class Phase:
    """Wall-clock seconds, the operations' own seconds by kind, and the matrix products' FLOPs."""

    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    flops: float = 0.0


def by_phase(events: Iterable[Any], seconds: float, *, on_gpu: bool = False) -> dict[str, Phase]:
    """Assign every operation to the innermost phase during which it began, or to `other`.

    Operations of autograd's threads, which open no phases, count too.
    """
    events = list(events)
    spans = sorted(
        (e.time_range.start, e.time_range.end, e.name.removeprefix(PHASE))
        for e in events
        if e.name.startswith(PHASE) and e.device_type == DeviceType.CPU
    )
    starts = [start for start, _, _ in spans]
    found: dict[str, Phase] = {OTHER: Phase(seconds)}
    for i, (start, end, name) in enumerate(spans):
        found.setdefault(name, Phase()).seconds += (end - start) / 1e6
        found[_innermost(spans, i, start)].seconds -= (end - start) / 1e6
    for event in events:
        kind = kind_of(event.name)
        if kind is None or event.device_type != DeviceType.CPU:
            continue
        at = found[_innermost(spans, bisect_right(starts, event.time_range.start), event.time_range.start)]
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        at.kinds[kind] += own / 1e6
        at.flops += event.flops or 0
    return found


def _innermost(spans: Sequence[tuple[float, float, str]], before: int, at: float) -> str:
    """The innermost phase open at time `at`, among the first `before` spans."""
    return next((name for start, end, name in reversed(spans[:before]) if start <= at < end), OTHER)


def table(phases: dict[str, Phase], *, best: float) -> str:
    """A Markdown table: one row for each phase, with its seconds by kind of operation."""
    kinds = [*KINDS, COMMUNICATION]
    names = ["phase", "s", *kinds, "rest", "GFLOP", "floor, s"]
    rows = [names, ["---", *["---:"] * (len(names) - 1)]]
    for name, one in sorted(phases.items(), key=lambda item: -item[1].seconds):
        rest = one.seconds - sum(one.kinds.values())
        parts = [one.seconds, *(one.kinds[kind] for kind in kinds), rest]
        rows.append([name, *map(_number, parts), _number(one.flops / 1e9), _number(one.flops / best)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    floor = (
        f"Floor: the matrix products, without attention's own, at {best / 1e9:,.0f} GFLOP/s, this device's "
        "best. Rest: Python, dispatch, waiting.\n"
    )
    return "\n".join(lines) + "\n\n" + floor


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
