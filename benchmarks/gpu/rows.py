"""The rows that are asked of a GPU: each beside something of the same run. Kept as soon as it is measured."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import torch

from benchmarks.gpu import _setting as setting
from megatron_r1.backend.model.precision import transformer_engine_available

FILE = "gpu_rows.jsonl"


@dataclass(frozen=True, slots=True)
class Asked:
    """unit: "share" of a floor's rate, "times" as fast, or "difference", of which less is better."""

    what: str
    beside: str
    figure: float
    unit: str


ASKED = {
    "bf16_training": Asked("V3-shaped proxy, BF16 training", "the measured matmul peak", 0.40, "share"),
    "fp8_training": Asked("the same in FP8 blockwise", "BF16", 1.3, "times"),
    "decode": Asked("decode of that proxy, 256 rows", "bytes over measured bandwidth", 0.50, "share"),
    "decode_graphs": Asked("the same as CUDA graphs", "bytes over measured bandwidth", 0.50, "share"),
    "decode_fp8": Asked("the same as CUDA graphs, in FP8", "as CUDA graphs in BF16", 1.0, "times"),
    "grpo_step": Asked("GRPO step, Qwen2.5-1.5B shape", "TRL with generate()", 3.0, "times"),
    "fp8_loss": Asked("loss in FP8 blockwise, 200 steps", "BF16", 0.0025, "difference"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """found: None where nothing was measured; `why` says so then."""

    name: str
    what: str
    beside: str
    asked: float
    unit: str
    found: float | None = None
    why: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    torch: str = torch.__version__
    transformer_engine: bool = False
    date: str = ""


def measured(name: str, found: float, **detail: Any) -> Row:
    return _keep(name, found=found, detail=detail)


def missing(name: str, why: str, **detail: Any) -> Row:
    """detail: what was measured all the same, such as our side alone."""
    return _keep(name, why=why, detail=detail)


def _keep(name: str, **found: Any) -> Row:
    asked = ASKED[name]
    row = Row(
        name=name,
        what=asked.what,
        beside=asked.beside,
        asked=asked.figure,
        unit=asked.unit,
        device=setting.device_name(),
        transformer_engine=transformer_engine_available(),
        date=date.today().isoformat(),
        **found,
    )
    setting.append(asdict(row), FILE)
    return row


def table(rows: Iterable[Row]) -> str:
    """Markdown, in the order of ASKED; of several rows of a name the last counts."""
    last = {row.name: row for row in rows}
    lines = ["| what | beside what, in the same run | asked | found |", "|---|---|---|---|"]
    for name, asked in ASKED.items():
        most = "at most" if asked.unit == "difference" else "at least"
        figure, found = _text(asked.figure, asked.unit), _found(last.get(name), asked.unit)
        lines.append(f"| {asked.what} | {asked.beside} | {most} {figure} | {found} |")
    return "\n".join(lines)


def _found(row: Row | None, unit: str) -> str:
    if row is None:
        return "not measured"
    return f"not measured: {row.why}" if row.found is None else _text(row.found, unit)


def _text(figure: float, unit: str) -> str:
    return {"share": f"{figure:.0%}", "times": f"{figure:.2f}x", "difference": f"{figure:.3%}"}[unit]


def since(place: int) -> list[Row]:
    """The rows that were appended behind this size of the file."""
    path = setting.RESULTS / FILE
    if not path.exists():
        return []
    with path.open() as file:
        file.seek(place)
        return [Row(**json.loads(line)) for line in file]


def size() -> int:
    path = setting.RESULTS / FILE
    return path.stat().st_size if path.exists() else 0
