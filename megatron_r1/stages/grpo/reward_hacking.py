"""The watch for reward hacking: held-out general prompts, scored by the reward models, judged, and measured.

A policy that hacks its reward model raises the model's score while what nobody optimised stays or falls: the
verdict of a judge, an independent reward model, the length (DeepSeek-R1, section 2.3.4: why the preference
reward comes in the last 400 updates only).
"""

import logging
from collections.abc import Sequence

import torch
from pydantic import Field

from megatron_r1.config.spelling import MaxNewTokens, TemperatureOrGreedy
from megatron_r1.data.mixture import build_mixture
from megatron_r1.rewards.preference import summary_of
from megatron_r1.rl.preference import correlation
from megatron_r1.section import Section
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.accuracy import Sources
from megatron_r1.stages.evaluation.domains import domains_of, metric_word
from megatron_r1.stages.evaluation.held_out import each_once
from megatron_r1.stages.judge import JudgeOptions, judge_of
from megatron_r1.stages.sampling import draw_key, sample
from megatron_r1.types import Completion, Sampling

log = logging.getLogger(__name__)


class Watch(Section):
    """Held-out general prompts on which reward models and policy are watched."""

    data: Sources
    """The sources of the prompts; their held-out side."""
    every: int = Field(default=10, ge=1)
    """Steps between two looks; the first comes before any update, the last at the end."""
    questions: int = Field(default=128, ge=2)
    """Prompts, one response each; where the data holds fewer, each of them once."""
    max_new_tokens: MaxNewTokens = 8192
    """The longest response."""
    temperature: TemperatureOrGreedy = 0.6
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
    """watch/score_NAME of each model, watch/length_bias_NAME, watch/judged and watch/length; collective.

    Of several sources, scores and verdicts on each one's prompts too.
    """
    replicas = context.policy.replicas
    source = build_mixture(watch.data, seed=context.seed, split="held_out")
    mine = each_once(context, source, watch.questions, what="prompts", key="watch.questions")
    keys = [draw_key("watch", index) for index in mine]
    completions = sample(
        context,
        [source.prompt(index) for index in mine],
        Sampling(watch.max_new_tokens, watch.temperature, seed=context.seed),
        keys=keys,
    )
    summaries = [summary_of(completion.text) for completion in completions]
    lengths = replicas.gather([len(c.token_ids) for c in completions])
    domains = replicas.gather([c.prompt.source for c in completions])
    several = domains_of(watch.data)
    summarised = replicas.gather([summary is not None for summary in summaries])
    found = {"watch/length": _mean(lengths), "watch/summary": _mean(summarised)}
    for name, stage in watch.models.items():
        scores = replicas.gather(context.reward_models(stage).score_completions(completions))
        known = [(score, length) for score, length in zip(scores, lengths, strict=True) if score is not None]
        if known:
            found[f"watch/score_{name}"] = _mean([score for score, _ in known])
            found[f"watch/length_bias_{name}"] = _correlation(known)
            found |= _by_domain(f"watch/score_{name}", scores, domains, several)
    if watch.judge is not None:
        verdicts = _judged(context, watch.judge, completions, summaries, keys)
        values = [value for value in verdicts if value is not None]
        found |= {"watch/judged": _mean(values)} if values else {}
        if not values and replicas.is_main:
            log.warning("stage %s: watch: the judge has no verdict on any of %d responses", context.name,
                        len(verdicts))  # fmt: skip
        found |= _by_domain("watch/judged", verdicts, domains, several)
    return found


def _by_domain(
    metric: str, values: Sequence[float | None], domains: Sequence[str], several: Sequence[str]
) -> dict[str, float]:
    known = {
        domain: [v for v, of in zip(values, domains, strict=True) if of == domain and v is not None]
        for domain in several
    }
    return {f"{metric}_on_{metric_word(domain)}": _mean(own) for domain, own in known.items() if own}


def _judged(
    context: StageContext,
    options: JudgeOptions,
    completions: Sequence[Completion],
    summaries: Sequence[str | None],
    keys: Sequence[int],
) -> list[float | None]:
    """Right by the judge. A response without a summary is not; one without a verdict has none (None)."""
    judge = judge_of(options, context)
    verdicts = judge.verdicts(completions, keys=keys, answers=[s or "" for s in summaries])
    values = [0.0 if s is None else verdict.value for s, verdict in zip(summaries, verdicts, strict=True)]
    return context.policy.replicas.gather(values)


def _correlation(known: Sequence[tuple[float, float]]) -> float:
    scores, lengths = (torch.tensor(column, dtype=torch.float64) for column in zip(*known, strict=True))
    return correlation(scores, lengths)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
