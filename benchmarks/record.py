"""Results on disk: one JSON file a day, one table for people."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

RESULTS = Path(__file__).parent / "results"


def record(benchmark: str, rows: list[dict[str, Any]], *, part: str = "") -> None:
    """Put this benchmark's rows into today's file, and print them. part: the name of its second table."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date.today().isoformat()}-cpu.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    command = f"python -m benchmarks.{benchmark}"
    found[", ".join(filter(None, (benchmark, part)))] = {
        "command": command,
        "machine": machine(),
        "rows": rows,
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(as_table(rows))


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown; a column for every key of the first row."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
