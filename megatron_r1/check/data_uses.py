"""Which stage reads which data, and how: as prompts to grade, documents or preferences; which side of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel

from megatron_r1.config.tree import KeyPath
from megatron_r1.data.split import Split
from megatron_r1.errors import R1Error
from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.base import ELSEWHERE
from megatron_r1.rewards.combine import columns_of
from megatron_r1.rewards.preference import PreferenceConfig
from megatron_r1.stages.base import StageConfig
from megatron_r1.stages.evaluate import Evaluate
from megatron_r1.stages.evaluation.accuracy import FORM_ONLY, Evaluation, FewShot
from megatron_r1.stages.grpo.phases import FinalPhase, chosen
from megatron_r1.stages.grpo.trainer import Grpo
from megatron_r1.stages.pretrain import Pretrain
from megatron_r1.stages.rejection_sampling.stage import RejectionSampling
from megatron_r1.stages.reward_model import HeldOutPreferences, RewardModel
from megatron_r1.stages.sft import HeldOutChats, Sft
from megatron_r1.types import Completion, Score

Form = Literal["prompts", "documents", "pairs", "points"]
HELD_OUT = ("Evaluation", "HeldOutChats", "HeldOutPreferences", "Watch", "Decontaminate")


@dataclass(frozen=True, slots=True)
class Grader:
    """rewards: sections by name. every: each of them has to grade what it judges; else one is enough.

    others: patterns of tasks that something else decides on (a reward model, a judge).
    """

    rewards: Mapping[str, Any]
    every: bool
    others: Sequence[str] = ()

    def reasons(self, completions: Sequence[Completion]) -> list[str]:
        """Of each completion why it can't be graded; "" where it can."""
        scorers, others = {}, [*self.others]
        for name, config in self.rewards.items():
            if name in FORM_ONLY and not self.every:
                continue
            try:
                scorers[name] = config.scorer()
            except R1Error:  # what this machine lacks for it is among the warnings
                others += ["*"] if config.tasks is None else config.tasks
        columns = columns_of(completions, scorers)
        return [
            ""
            if any(fnmatchcase(c.prompt.task, pattern) for pattern in others)
            else self._reason(c, {name: column[i] for name, column in columns.items()})
            for i, c in enumerate(completions)
        ]

    def _reason(self, completion: Completion, parts: Mapping[str, Score]) -> str:
        asked = {name: score for name, score in parts.items() if score != ELSEWHERE}
        bad = [f"{name}: {score.note}" for name, score in asked.items() if score.value is None]
        if not asked:
            return f"no reward judges the task {completion.prompt.task!r}"
        return bad[0] if bad and (self.every or len(bad) == len(asked)) else ""


@dataclass(frozen=True, slots=True)
class Use:
    """A source of a stage. key: where it is named. longest: the most tokens of a document, if that counts."""

    key: KeyPath
    source: Any
    form: Form
    split: Split
    grader: Grader | None = None
    longest: int | None = None


def uses(stage: StageConfig, key: KeyPath) -> Iterator[Use]:
    """All data of a stage, however deep in its section."""
    yield from _below(stage, key, stage)


def _below(value: object, key: KeyPath, stage: StageConfig) -> Iterator[Use]:
    if isinstance(value, BaseModel):
        data = getattr(value, "data", None)
        if isinstance(data, dict):
            for name, source in data.items():
                yield _use(value, (*key, "data", name), source, stage)
        for name, inner in value:
            if name != "data":
                yield from _below(inner, (*key, name), stage)


def _use(owner: BaseModel, key: KeyPath, source: Any, stage: StageConfig) -> Use:
    split: Split = "held_out" if type(owner).__name__ in HELD_OUT else "train"
    if isinstance(owner, RewardModel | HeldOutPreferences):
        assert isinstance(stage, RewardModel)
        return Use(key, source, stage.preferences, split)
    if isinstance(owner, Sft | Pretrain | FewShot | HeldOutChats):
        longest = None
        if isinstance(stage, Sft) and not isinstance(owner, FewShot) and stage.max_chat_tokens is None:
            longest = stage.tokens_per_pack
        return Use(key, source, "documents", split, longest=longest)
    return Use(key, source, "prompts", split, grader=_grader(owner, stage))


def _grader(owner: BaseModel, stage: StageConfig) -> Grader | None:
    if isinstance(owner, Evaluation):
        models = isinstance(stage, Evaluate) and bool(stage.models)
        return Grader({"accuracy": Accuracy(), **owner.chosen_rewards()}, every=False, others=["*"] * models)
    if isinstance(owner, RejectionSampling):
        others = [] if owner.judge is None else owner.judged
        return Grader(owner.chosen_graders(), every=False, others=others)
    if isinstance(owner, Grpo | FinalPhase):
        assert isinstance(stage, Grpo)
        rewards = chosen(stage.rewards) | (chosen(owner.rewards) if isinstance(owner, FinalPhase) else {})
        models = [config for config in rewards.values() if isinstance(config, PreferenceConfig)]
        others = [pattern for config in models for pattern in config.tasks or ["*"]]
        rules = {name: config for name, config in rewards.items() if not isinstance(config, PreferenceConfig)}
        return Grader(rules, every=True, others=others)
    return None
