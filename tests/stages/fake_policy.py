"""A policy whose model is a table: every token has one log-prob, and an update moves all of them.

It samples what a test tells it to, packs and weighs a batch as the real policy does, calls the stage's own
loss, and notes what it was asked to do.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_r1.data.packing import pack
from megatron_r1.types import (
    Begun,
    LossFunction,
    OnEnd,
    OptimizerOptions,
    PackedBatch,
    Refits,
    Sampled,
    Sampling,
    StepStats,
    TrainSequence,
)

LOGPROB = -1.0  # of every token before the first update
ENTROPY = 0.5
GRAD_NORM = 2.0


@dataclass
class FakeReplicas:
    """Replicas that are threads of the test: `together` runs them."""

    index: int = 0
    count: int = 1
    leads: bool = True
    barrier_of_all: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    board: dict[int, Any] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def gather(self, items: Sequence[Any]) -> list[Any]:
        self.board[self.index] = list(items)
        self.barrier_of_all.wait()
        found = [item for index in range(self.count) for item in self.board[index]]
        self.barrier_of_all.wait()
        return found

    def exchange(self, outgoing: Sequence[Sequence[Any]]) -> list[Any]:
        assert len(outgoing) == self.count
        rows = self.gather([outgoing])
        return [item for row in rows for item in row[self.index]]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        parts = self.gather([dict(values)])
        assert all(part.keys() == values.keys() for part in parts), "the keys must agree"
        return {name: sum(part[name] for part in parts) for name in values}

    def share(self, make: Callable[[], Any]) -> Any:
        return make()

    def any_rank(self, flag: bool) -> bool:
        return any(self.gather([flag]))

    def barrier(self) -> None:
        self.barrier_of_all.wait()


class FakePolicy:
    """types.Policy over a table.

    says: token ids of the outputs, in the order in which they are asked for.
    rollout_gap, reference_gap, training_gap: how much higher the log-probs of the sampler, of the refreshed
    reference and of the training pass are than those of `logprobs`.
    step_size: what an update adds to every log-prob.
    """

    def __init__(
        self,
        says: Iterable[list[int]] = (),
        *,
        replicas: FakeReplicas | None = None,
        rollout_gap: float = 0.0,
        reference_gap: float = 0.0,
        training_gap: float = 0.0,
        step_size: float = 0.0,
    ) -> None:
        self.says: Iterator[list[int]] = iter(says)
        self.replicas = replicas or FakeReplicas()
        self.rollout_gap, self.step_size = rollout_gap, step_size
        self.reference_gap, self.training_gap = reference_gap, training_gap
        self.logprob = self.reference = LOGPROB
        self.version = 0
        self.refits = Refits()
        self.calls: list[str] = []
        self.samplings: list[Sampling] = []
        self.asked: list[list[int]] = []  # every prompt of every generate
        self.keys: list[int] = []
        self.trained: list[list[TrainSequence]] = []  # the sequences of each update
        self.rates: list[float] = []
        self.texts: dict[int, list[int]] = {}  # by key, where outputs are carried over
        self.pace = 2
        self.told: Sequence[int] = ()  # the outputs that on_end is told of, in this order; none: all

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[int],
        begun: Sequence[Begun] | None = None,
        on_end: OnEnd | None = None,
    ) -> list[Sampled]:
        self.calls.append("generate")
        self.samplings.append(sampling)
        self.asked += prompts
        self.keys += keys
        if begun is not None:
            return [self._further(key, one, sampling) for key, one in zip(keys, begun, strict=True)]
        outputs = [next(self.says)[: sampling.max_new_tokens] for _ in prompts]
        if on_end is not None:
            for i in self.told or range(len(outputs)):
                on_end(i, outputs[i])
        return [Sampled(ids, [self.logprob + self.rollout_gap] * len(ids)) for ids in outputs]

    def _further(self, key: int, begun: Begun, sampling: Sampling) -> Sampled:
        """The whole text where it is due, else `pace` more tokens of it."""
        if key not in self.texts:
            self.texts[key] = next(self.says)[: sampling.max_new_tokens]
        had = len(begun.output.token_ids)
        ids = self.texts[key] if begun.due else self.texts[key][: min(had + self.pace, begun.limit or had)]
        new = [self.logprob + self.rollout_gap] * (len(ids) - had)
        return Sampled(ids, [*begun.output.logprobs, *new])

    def logprobs(
        self, sequences: Sequence[TrainSequence], *, reference: bool = False, temperature: float = 1.0
    ) -> list[Tensor]:
        self.calls.append("reference logprobs" if reference else "logprobs")
        value = self.reference if reference else self.logprob
        return [torch.full((len(s.token_ids),), value).index_fill(0, torch.tensor([0]), 0) for s in sequences]

    def refresh_reference(self) -> None:
        self.calls.append("refresh reference")
        self.reference = self.logprob + self.reference_gap

    def start_training(self, options: OptimizerOptions) -> None:
        self.calls.append("start training")

    def train_step(
        self,
        sequences: Sequence[TrainSequence],
        loss: LossFunction,
        *,
        lr: float,
        temperature: float = 1.0,
        entropy: bool = False,
        mtp: bool = False,
    ) -> StepStats:
        assert sequences, "one at least"
        self.calls.append("train")
        self.trained.append(list(sequences))
        self.rates.append(lr)
        batches = pack(sequences, max_tokens=4096).batches
        sums = self._sums(batches, loss, entropy=entropy)
        total = self.replicas.sum({**sums, "tokens": float(sum(len(b.tokens) for b in batches))})
        self.logprob += self.step_size
        self.version += 1
        names = [name.removesuffix("/count") for name in sums if name.endswith("/count")]
        return StepStats(
            loss=total["loss"],
            grad_norm=GRAD_NORM,
            metrics={name: total[f"{name}/sum"] / (total[f"{name}/count"] or 1.0) for name in names},
            num_tokens=int(total["tokens"]),
        )

    def _sums(self, batches: Sequence[PackedBatch], loss: LossFunction, *, entropy: bool) -> dict[str, float]:
        sums = {"loss": 0.0}
        for batch in batches:
            logprobs = torch.full(batch.tokens.shape, self.logprob + self.training_gap)
            per_token, metrics = loss(
                logprobs, torch.full_like(logprobs, ENTROPY) if entropy else None, batch
            )
            sums["loss"] += float((per_token * batch.weights).sum())
            for name, pair in metrics.items():
                for part, value in zip(("sum", "count"), pair.tolist(), strict=True):
                    sums[f"{name}/{part}"] = sums.get(f"{name}/{part}", 0.0) + value
        return sums

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        raise AssertionError("stages save through their journal")

    def load(self, directory: Path, *, weights_only: bool = False) -> dict[str, Any]:
        raise AssertionError("the chain loads, not the stages")


def together[T](count: int, run: Callable[[FakeReplicas], T]) -> list[T]:
    """`run` on every replica at once; their results in order."""
    barrier, board = threading.Barrier(count, timeout=10), {}
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def replica(index: int) -> None:
        try:
            results[index] = run(FakeReplicas(index, count, barrier_of_all=barrier, board=board))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=replica, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        first = next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        raise first
    return [results[index] for index in range(count)]
