"""The files of micro_preferences.yaml: general prompts, and pairs and points about them, of our own making.

What is preferred is one thing that a tiny model can see: no "wait" in the answer.
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SUM = "print(sum(map(int, input().split())))"


def write_files(folder: Path, *, count: int = 80, seed: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    questions = [f"compute {a} + {b} - {c}" for a in range(1, 10) for b in range(1, 10) for c in range(1, 4)]
    asked = rng.sample(questions, count)
    answers = [rng.randrange(1, 20) for _ in asked]
    pairs = [(q, _response(n, ""), _response(n, "wait ")) for q, n in zip(asked, answers, strict=True)]
    _write(folder / "general.jsonl", ({"task": "general", **_asked(q)} for q in asked))
    _write(
        folder / "pairs.jsonl",
        ({**_asked(q), "metadata": {"chosen": good, "rejected": bad}} for q, good, bad in pairs),
    )
    _write(
        folder / "points.jsonl",
        (
            {**_asked(q), "metadata": {"response": (bad, good)[i % 2], "label": i % 2}}
            for i, (q, good, bad) in enumerate(pairs)
        ),
    )
    tests = [{"stdin": "3 4\n", "stdout": "7\n"}]
    _write(
        folder / "code.jsonl",
        (
            {**_asked(q), "task": "code", "reference": SUM, "metadata": {"tests": tests}}
            for q in asked[: count // 4]
        ),
    )


def _response(number: int, extra: str) -> str:
    return f"<think> {number} plus 1 is {number + 1} ; </think><answer> {extra}{number} </answer>"


def _asked(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "reference": ""}


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
