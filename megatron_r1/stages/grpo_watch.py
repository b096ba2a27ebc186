"""The watch for reward hacking: held-out general prompts, scored by the reward models, judged, and measured.

A policy that hacks its reward model raises the model's score while what nobody optimised stays or falls: the
verdict of a judge, an independent reward model, the length (DeepSeek-R1, section 2.3.4: why the preference
reward comes in the last 400 updates only).
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from megatron_r1.config.section import Section
from megatron_r1.data.mixture import build_mixture, replica_range
from megatron_r1.rewards.preference import summary_of
from megatron_r1.rl.preference import correlation
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation import Sources
from megatron_r1.stages.judge import Judge, JudgeOptions
from megatron_r1.stages.sampling import draw_key, sample
from megatron_r1.types import Completion, Document, Sampling


class Watch(Section):
    """Held-out general prompts on which reward models and policy are watched."""

    data: Sources
    """The sources of the prompts; their held-out side."""
    every: int = Field(default=10, ge=1)
    """Steps between two looks; the first comes before any update, the last at the end."""
    questions: int = Field(default=128, ge=2)
    """Prompts, one response each."""
    max_new_tokens: int = Field(default=8192, ge=1)
    """The longest response."""
    temperature: float = Field(default=0.6, ge=0)
    """Of the responses."""
    models: dict[str, str] = Field(default_factory=dict)
    """reward_model stages by a name of your choice: those in training, and one that is not trained on."""
    judge: JudgeOptions | None = None
    """Who compares each summary with the reference of its prompt; null: nobody."""

    def stages(self) -> list[str]:
        """The earlier stages that it needs."""
        judge = [] if self.judge is None or self.judge.model is None else [self.judge.model]
        return list(dict.fromkeys([*self.models.values(), *judge]))


def look(context: StageContext, watch: Watch) -> dict[str, float]:
    """watch/score_NAME of each model, watch/length_bias_NAME, watch/judged and watch/length; collective."""
    replicas = context.policy.replicas
    source = build_mixture(watch.data, seed=context.seed, split="held_out")
    mine = replica_range(0, watch.questions, index=replicas.index, num_replicas=replicas.count)
    keys = [draw_key("watch", index) for index in mine]
    completions = sample(
        context,
        [source.prompt(index) for index in mine],
        Sampling(watch.max_new_tokens, watch.temperature, seed=context.seed),
        keys=keys,
    )
    summaries = [summary_of(completion.text) for completion in completions]
    lengths = replicas.gather([len(c.token_ids) for c in completions])
    summarised = replicas.gather([summary is not None for summary in summaries])
    found = {"watch/length": _mean(lengths), "watch/summary": _mean(summarised)}
    for name, stage in watch.models.items():
        scores = replicas.gather(_scores(context, stage, completions, summaries))
        known = [(score, length) for score, length in zip(scores, lengths, strict=True) if score is not None]
        if known:
            found[f"watch/score_{name}"] = _mean([score for score, _ in known])
            found[f"watch/length_bias_{name}"] = _correlation(known)
    if watch.judge is not None:
        found |= _judged(context, watch.judge, completions, summaries, keys)
    return found


def _scores(
    context: StageContext, stage: str, completions: Sequence[Completion], summaries: Sequence[str | None]
) -> list[float | None]:
    """What the reward model says of each summary; it is asked on all ranks together."""
    asked = [
        Document(completion.prompt.messages, summary, completion.prompt.language)
        for completion, summary in zip(completions, summaries, strict=True)
        if summary is not None
    ]
    found = iter(context.reward_models(stage).score(asked))
    return [None if summary is None else next(found) for summary in summaries]


def _judged(
    context: StageContext,
    options: JudgeOptions,
    completions: Sequence[Completion],
    summaries: Sequence[str | None],
    keys: Sequence[int],
) -> dict[str, float]:
    """Right by the judge. A response without a summary is not; one without a verdict does not count."""
    verdicts = Judge(options, context).verdicts(completions, keys=keys, answers=[s or "" for s in summaries])
    values = [0.0 if s is None else verdict.value for s, verdict in zip(summaries, verdicts, strict=True)]
    known = [value for value in context.policy.replicas.gather(values) if value is not None]
    return {"watch/judged": _mean(known)} if known else {}


def _correlation(known: Sequence[tuple[float, float]]) -> float:
    scores, lengths = (torch.tensor(column, dtype=torch.float64) for column in zip(*known, strict=True))
    return correlation(scores, lengths)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
