"""The preference_pairs stage: two responses a prompt, compared by a judge (DeepSeek-R1, section 2.3.4).

The judge is asked four times with the order of the two shuffled; a pair is kept where the mean difference is
above 1; lengths are balanced over all that is kept. What it leaves (curation/shards.py) serves reward_model
as `{source: stage, stage: NAME}`.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from megatron_r1.config.spelling import MOST_ITEMS, MaxNewTokens, Temperature
from megatron_r1.curation.pairs import ASKS, MARGIN, TOLERANCE, Judged, unbalanced
from megatron_r1.curation.shards import Workshop, num_whole, shares
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.errors import Interrupted
from megatron_r1.files.run_directory import CANDIDATES
from megatron_r1.rewards.preference import summary_of
from megatron_r1.stages.base import Demand, StageConfig, earlier_stages, too_long
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Sources
from megatron_r1.stages.evaluation.ungraded import PATIENCE, UngradedWatch
from megatron_r1.stages.judge import JudgeOptions, judge_of
from megatron_r1.stages.sampling import can_be_quoted, draw_key, sample
from megatron_r1.types import Completion, Sampling

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig

UNCOMPARED = {  # why nobody could compare the responses of a pair
    "cut": "cut at max_new_tokens",
    "no_summary": "without a summary after the reasoning",
    "unspellable": "that the judge's tokenizer can't spell",
    "no_verdict": "without a verdict of the judge",
}
REMEDY = "see max_new_tokens, what the model was taught to write, and the judge with its prompts' references"


class PreferencePairs(StageConfig):
    """Make pairs for a helpful reward model."""

    kind: Literal["preference_pairs"]
    data: Sources
    """The sources of the general prompts; their weights are their shares."""
    prompts: int = Field(ge=1, le=MOST_ITEMS)
    """Prompts in all; each gives one pair at most. R1 kept 66,000."""
    prompts_a_shard: int = Field(default=256, ge=1)
    """Prompts sampled and judged together, over all replicas; an interruption costs one shard."""
    temperature: Temperature = 1.0
    """Of sampling."""
    max_new_tokens: MaxNewTokens = 8192
    """The longest response."""
    judge: JudgeOptions = JudgeOptions()
    """Who compares the responses' summaries."""
    asks: int = Field(default=ASKS, ge=2, multiple_of=2)
    """How often a pair is judged, half of them in the other order. R1: 4."""
    margin: float = Field(default=MARGIN, ge=0)
    """Only a larger mean difference counts. R1: 1."""
    length_tolerance: float = Field(default=TOLERANCE, gt=0)
    """How far the mean lengths of chosen and rejected responses may differ, relative to them."""

    @property
    def num_shards(self) -> int:
        return -(-self.prompts // self.prompts_a_shard)

    def done_before(self, directory: Path) -> int:
        return min(num_whole(directory / CANDIDATES), self.num_shards)

    def inputs(self) -> list[str]:
        """The judge decides the result as well."""
        return list(dict.fromkeys([*super().inputs(), *self._judges()]))

    def _judges(self) -> list[str]:
        return [] if self.judge.model is None else [self.judge.model]

    def problems(self, run: "RunConfig") -> list[str]:
        found = too_long("max_new_tokens", self.max_new_tokens, run)
        if self.init is None:
            found.append("init: random weights have nothing to compare; name a stage or hf:PATH")
        earlier = earlier_stages(self, run)
        if self.judge.model is not None and self.judge.model not in earlier:
            found.append(
                f"judge.model: {self.judge.model!r} is no earlier stage; there are "
                f"{', '.join(earlier) or 'none'}"
            )
        return found

    def batch_table(self, run: "RunConfig") -> list[tuple[str, str]]:
        total = 2 * self.prompts
        return [
            ("responses", f"{self.prompts} prompts x 2 = {total}"),
            ("judgements", f"{self.prompts} pairs x {self.asks} = {self.prompts * self.asks}"),
            ("shards", f"{self.prompts} / {self.prompts_a_shard} prompts = {self.num_shards}"),
        ]

    def demand(self, run: "RunConfig") -> Demand:
        """A step is a shard; the judge's own sampling comes on top."""
        return Demand(
            steps=self.num_shards,
            outputs=2 * min(self.prompts_a_shard, self.prompts),
            output_tokens=self.max_new_tokens,
            other_models=tuple(self._judges()),
        )

    def run(self, context: StageContext) -> dict[str, float]:
        return _Making(self, context).run()


STAGE = PreferencePairs


class _Making:
    def __init__(self, stage: PreferencePairs, context: StageContext) -> None:
        self.stage, self.context = stage, context
        self.replicas = context.policy.replicas
        self.files = Workshop(context.name, context.directory, self.replicas)
        self.prompts = build_mixture(stage.data, seed=context.seed)
        self.judge = judge_of(stage.judge, context)
        self.uncompared = UngradedWatch(context.name, PATIENCE, step_word="shard", remedy=REMEDY)

    def run(self) -> dict[str, float]:
        stage, journal = self.stage, self.context.journal
        journal.expect(stage.num_shards)
        weights, seed = self.context.weights, self.context.seed
        settings = {"weights": weights, "seed": seed, "section": stage.model_dump(mode="json")}
        self.files.begin(settings, resumed=self.context.start_step > 0)
        for number in range(self.context.start_step, stage.num_shards):
            journal.step(number + 1, self._shard(number))
            if journal.stop_here():
                raise Interrupted(
                    f"stage {self.context.name}: {number + 1} of {stage.num_shards} shards are written; "
                    "run the same command to continue"
                )
        return self.files.choose(self._publish)[1]

    def _shard(self, number: int) -> dict[str, float]:
        stage, name, began = self.stage, self.context.name, time.perf_counter()
        first = number * stage.prompts_a_shard
        count = min(stage.prompts_a_shard, stage.prompts - first)
        indices = replica_range(first, count, index=self.replicas.index, num_replicas=self.replicas.count)
        rows = [(index, k) for index in indices for k in range(2)]
        completions = sample(
            self.context,
            [self.prompts.prompt(index) for index, _ in rows],
            Sampling(stage.max_new_tokens, stage.temperature, seed=self.context.seed),
            keys=[draw_key(name, index, k) for index, k in rows],
        )
        pairs = list(zip(completions[0::2], completions[1::2], strict=True))
        reasons = [self._reason(a, b) for a, b in pairs]
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        verdicts = self.judge.compare(
            [(pairs[i][0].prompt, summary_of(pairs[i][0].text) or "", summary_of(pairs[i][1].text) or "")
             for i in asked],
            keys=[draw_key(name, "order", indices[i]) for i in asked],
            asks=stage.asks,
        )  # fmt: skip
        by_pair = dict(zip(asked, verdicts, strict=True))
        mine = [(indices[i], self._line(pair, reasons[i], by_pair.get(i))) for i, pair in enumerate(pairs)]
        lines = [line for _, line in sorted(self.replicas.gather(mine), key=lambda row: row[0])]
        reasons = Counter(line["dropped"] for line in lines if line.get("dropped") in UNCOMPARED)
        self.uncompared.look(
            number + 1,
            num_samples=len(lines),
            num_ungraded=reasons.total(),
            reason=", ".join(f"{count} {UNCOMPARED[why]}" for why, count in reasons.most_common()),
        )
        self.files.write(number, lines)
        return {**shares(_counts(lines)), "time/step_s": time.perf_counter() - began}

    def _reason(self, first: Completion, second: Completion) -> str | None:
        """Why two responses can't be compared."""
        if not (first.finished and second.finished):
            return "cut"
        if summary_of(first.text) is None or summary_of(second.text) is None:
            return "no_summary"
        if not (can_be_quoted(self.context, first) and can_be_quoted(self.context, second)):
            return "unspellable"
        return "same" if first.text == second.text else None

    def _line(
        self, pair: tuple[Completion, Completion], reason: str | None, verdict: Judged | None
    ) -> dict[str, Any]:
        """What reward_model reads, or why the pair is left out."""
        if reason is None:
            assert verdict is not None
            if verdict.margin is None:
                reason = "no_verdict"
            elif abs(verdict.margin) <= self.stage.margin:
                reason = "margin"
        if reason is not None:
            return {"dropped": reason}
        assert verdict is not None
        better, worse = pair if verdict.first_is_better else pair[::-1]
        prompt = better.prompt
        return {
            "id": prompt.id,
            "messages": [asdict(message) for message in prompt.messages],
            "reference": "",
            "task": prompt.task,
            "language": prompt.language,
            "metadata": {
                "chosen": better.text,
                "rejected": worse.text,
                "margin": abs(verdict.margin or 0.0),
                "tokens": [len(better.token_ids), len(worse.token_ids)],
                "weights": self.context.weights,
                "judge": self.stage.judge.model or self.context.name,
            },
        }

    # ---- the choice over all shards

    def _publish(self) -> dict[str, Any]:
        shards = range(self.stage.num_shards)
        lines = [line for number in shards for line in self.files.candidates(number)]
        good = [line for line in lines if "dropped" not in line]
        tokens = [line["metadata"]["tokens"] for line in good]
        left_out = unbalanced(
            [a - b for a, b in tokens], [a + b for a, b in tokens], tolerance=self.stage.length_tolerance
        )
        kept = [line for i, line in enumerate(good) if i not in left_out]
        self.files.publish(kept)
        dropped = [line for line in lines if "dropped" in line]
        return {
            **_counts([*kept, *dropped, *({"dropped": "length"} for _ in left_out)]),
            "mean_tokens_chosen": _mean([line["metadata"]["tokens"][0] for line in kept]),
            "mean_tokens_rejected": _mean([line["metadata"]["tokens"][1] for line in kept]),
            "weights": self.context.weights,
            "judge": self.stage.judge.model_dump(mode="json"),
        }


def _counts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the pairs: kept, and dropped by reason."""
    reasons = Counter(line["dropped"] for line in lines if "dropped" in line)
    return {
        "sampled": len(lines),
        "kept": len(lines) - reasons.total(),
        "dropped": dict(reasons.most_common()),
    }


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
