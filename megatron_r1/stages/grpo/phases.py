"""What is asked and what is paid for, by the step: grpo's data and rewards, and those of its last updates.

R1's last RL adds general prompts and the preference rewards in the last 400 of 1,700 updates only: longer,
and the policy learns what the reward model overrates (DeepSeek-R1, section 2.3.4).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from megatron_r1 import registry
from megatron_r1.data.mixture import Mixture, build_mixture
from megatron_r1.data.source import SourceConfig
from megatron_r1.rewards.base import Reward, RewardConfig
from megatron_r1.rewards.combine import columns_of, weigh
from megatron_r1.rewards.preference import PreferenceConfig
from megatron_r1.section import Section
from megatron_r1.stages.base import earlier_stages
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import MoreSources
from megatron_r1.stages.evaluation.domains import domains_of
from megatron_r1.stages.grpo.overlapped_rewards import JudgedBeside
from megatron_r1.stages.text_scorer import PARTS
from megatron_r1.types import Completion, Prompt, Replicas, Score, Scored

if TYPE_CHECKING:
    from megatron_r1.run.config import RunConfig
    from megatron_r1.stages.grpo.trainer import Grpo

Rewards = registry.by_name(registry.rewards(), "Rewards")


class FinalPhase(Section):
    """What the last updates add."""

    updates: int = Field(ge=1)
    """How many updates, counted from the end. R1: 400 of 1,700."""
    data: MoreSources = Field(default_factory=dict)
    """More sources of questions; their weights are shares of all, with those of `data`."""
    rewards: Rewards = Rewards()  # type: ignore[valid-type]
    """More rewards; one that `rewards` has too is replaced."""


def chosen(rewards: Section) -> dict[str, RewardConfig]:
    """The rewards of a section that are set, by name."""
    return {name: config for name, config in rewards if config is not None}


def reward_models(stage: "Grpo") -> dict[str, PreferenceConfig]:
    """The rewards of all phases that need a model, by their key in the section."""
    found = {f"rewards.{name}": config for name, config in chosen(stage.rewards).items()}
    if stage.final is not None:
        found |= {f"final.rewards.{name}": config for name, config in chosen(stage.final.rewards).items()}
    return {key: config for key, config in found.items() if isinstance(config, PreferenceConfig)}


def first_final_step(stage: "Grpo") -> int:
    """From this step on (counted from 0) the final phase holds; where there is none, the number of steps."""
    each = stage.updates * stage.inner_epochs
    return stage.steps if stage.final is None else stage.steps - stage.final.updates // each


def phase_problems(stage: "Grpo", run: "RunConfig") -> list[str]:
    """What check says of the phases."""
    found, each = [], stage.updates * stage.inner_epochs
    if stage.final is not None and not each <= stage.final.updates < stage.steps * each:
        found.append(
            f"final.updates: {stage.final.updates} is not between the {each} updates of a step and the "
            f"{stage.steps * each} of the stage; choose a multiple of {each} between them"
        )
    if stage.final is not None and not stage.final.data and not chosen(stage.final.rewards):
        found.append("final: it adds neither data nor rewards; name some, or leave final out")
    earlier = earlier_stages(stage, run)
    for name in [] if stage.watch is None else stage.watch.stages():
        if name not in earlier:
            found.append(f"watch: {name!r} is no earlier stage; there are {', '.join(earlier) or 'none'}")
    for key, name in ({} if stage.watch is None else stage.watch.models).items():
        if name in earlier and run.stages[name].kind != "reward_model":
            kind = run.stages[name].kind
            found.append(f"watch.models.{key}: {name} is a {kind} stage; only a reward_model has scores")
    for key, config in reward_models(stage).items():
        if config.model not in earlier or run.stages[config.model].kind != "reward_model":
            models = [name for name in earlier if run.stages[name].kind == "reward_model"]
            found.append(
                f"{key}.model: {config.model!r} is no earlier reward_model stage; there are "
                f"{', '.join(models) or 'none'}"
            )
        elif PARTS[run.stages[config.model].part] is not type(config).part:  # type: ignore[attr-defined]
            found.append(
                f"{key}.model: stage {config.model} learnt to score another part of a response "
                f"(part: {run.stages[config.model].part}); helpful reads the summary, harmless the response"  # type: ignore[attr-defined]
            )
    return found


@dataclass(frozen=True, slots=True)
class Phase:
    """start: the number of its first question. together: the rewards that all ranks ask at once.

    domains: the names of its sources, where there are several.
    """

    questions: Mixture
    domains: tuple[str, ...]
    start: int
    weights: Mapping[str, float]
    rules: Mapping[str, Reward]
    together: Mapping[str, Reward]

    def prompt(self, index: int) -> Prompt:
        """Question `index` of the stage."""
        return self.questions.prompt(index - self.start)

    def score(
        self, completions: Sequence[Completion], replicas: Replicas, beside: JudgedBeside | None = None
    ) -> list[Scored]:
        """Rules by one rank of the replica, reward models by all of them; collective. beside: where that rank
        judged by the rules during the rollout."""

        def by_rules() -> dict[str, list[Score]]:
            return columns_of(completions, self.rules) if beside is None else beside.columns(completions)

        columns = replicas.share(by_rules)
        columns |= columns_of(completions, self.together)
        return weigh(completions, {name: columns[name] for name in self.weights}, self.weights)


def opening_phase(stage: "Grpo", context: StageContext) -> Phase:
    questions = build_mixture(stage.data, seed=context.seed)
    return _phase(questions, stage.data, 0, chosen(stage.rewards), context)


def final_phase(stage: "Grpo", context: StageContext, *, start: int) -> Phase:
    """Sources of before go on where they were after `start` questions."""
    assert stage.final is not None
    asked = build_mixture(stage.data, seed=context.seed).counts(start)
    data = {**stage.data, **stage.final.data}
    rewards = {**chosen(stage.rewards), **chosen(stage.final.rewards)}
    questions = build_mixture(data, seed=context.seed, starts=asked)
    return _phase(questions, data, start, rewards, context)


def _phase(
    questions: Mixture,
    data: Mapping[str, SourceConfig],
    start: int,
    rewards: Mapping[str, RewardConfig],
    context: StageContext,
) -> Phase:
    models = {name: config for name, config in rewards.items() if isinstance(config, PreferenceConfig)}
    return Phase(
        questions,
        domains_of(data),
        start,
        weights={name: config.weight for name, config in rewards.items()},
        rules={name: config.scorer() for name, config in rewards.items() if name not in models},
        together={name: one.with_model(context.reward_models(one.model)) for name, one in models.items()},
    )
