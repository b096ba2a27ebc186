"""The tokenizer, the template and a journal that remembers, for stages over a fake policy."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from megatron_r1.data.chat_template import get_template
from megatron_r1.data.tokenizers.tokenizer import (
    Tokenizer,
    TokenizerConfig,
    TokenizerTraining,
    load_tokenizer,
)
from megatron_r1.errors import Interrupted
from megatron_r1.stages.context import StageContext
from megatron_r1.tracking.metrics import describe
from megatron_r1.types import Policy, Scored

TEMPLATE = get_template("minimal")


class FakeJournal:
    """Keeps what a stage reports. stop_after: the step at which the user asks it to end."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.sampled: list[tuple[int, list[Scored]]] = []
        self.checkpoints: list[tuple[int, dict[str, Any]]] = []
        self.expected: int | None = None
        self._stop_after = stop_after

    def expect(self, steps: int) -> None:
        self.expected = steps

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        unknown = [name for name in metrics if describe(name) is None]
        assert not unknown, f"tracking/metrics.py has no {unknown}"
        self.steps.append((step, dict(metrics)))

    def samples(self, step: int, scored: Sequence[Scored]) -> None:
        self.sampled.append((step, list(scored)))

    def checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        self.checkpoints.append((step, dict(state)))
        if self.stop_here():
            raise Interrupted(f"saved at step {step}")

    def stop_here(self) -> bool:
        return bool(self.steps) and self.steps[-1][0] == self._stop_after


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    config = TokenizerConfig(
        kind="sentencepiece", train=TokenizerTraining(source="arithmetic", vocab_size=64, model_type="word")
    )
    return load_tokenizer(
        config,
        required_pieces=TEMPLATE.required_pieces,
        directory=tmp_path_factory.mktemp("tokenizer"),
    )


@pytest.fixture
def ids(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """An output's token ids, EOS included."""
    return lambda text: TEMPLATE.response_ids(text, tokenizer)


@pytest.fixture
def context(tokenizer: Tokenizer) -> Callable[..., StageContext]:
    def make(policy: Policy, journal: FakeJournal | None = None, **fields: Any) -> StageContext:
        return StageContext(
            name="zero", seed=5, policy=policy, tokenizer=tokenizer, template=TEMPLATE,
            journal=journal or FakeJournal(), **fields,
        )  # fmt: skip

    return make


@pytest.fixture
def questions(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A source of sums whose answers are 1, 2, 3, ...; tasks names each question's verifier."""

    def write(tasks: Sequence[str], *, held_out: str = "none") -> dict[str, Any]:
        path = tmp_path / f"questions_{held_out}.jsonl"
        lines = [
            {
                "messages": [{"role": "user", "content": f"compute {i} + 1"}],
                "reference": f"{i + 1}",
                "task": task,
            }
            for i, task in enumerate(tasks)
        ]
        # replicas are threads here, and each may write it while another reads
        new = path.with_suffix(f".{threading.get_ident()}")
        new.write_text("".join(json.dumps(line) + "\n" for line in lines))
        new.replace(path)
        return {"sums": {"source": "jsonl", "path": str(path), "shuffle": False, "held_out": held_out}}

    return write
