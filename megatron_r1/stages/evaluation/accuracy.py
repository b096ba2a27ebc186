"""Held-out accuracy of a policy, as the paper measures it (DeepSeek-R1, section 3).

pass@1 is the mean over k samples a question, pass@k whether one of them is right, cons@k whether the
majority answer is, where answers that say the same (1/2, 0.5) are one. Standard errors are over questions,
whose samples are not independent; each question is asked once, so that data with fewer than are asked for
gives fewer.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from megatron_r1 import registry
from megatron_r1.config.spelling import MOST_ITEMS, SAMPLES_OR_GROUP_SIZE, MaxNewTokens, TemperatureOrGreedy
from megatron_r1.data.mixture import Mixture, build_mixture
from megatron_r1.errors import DataError
from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.answers.answer import chain_of_thought
from megatron_r1.rewards.base import Reward
from megatron_r1.rewards.combine import combine
from megatron_r1.rewards.format import Form, Format
from megatron_r1.rewards.language import is_mixed, language_share
from megatron_r1.rewards.preference import PreferenceConfig
from megatron_r1.rewards.votes import majorities
from megatron_r1.section import Section
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.evaluation.domains import domains_of, metric_word
from megatron_r1.stages.evaluation.held_out import conversations
from megatron_r1.stages.evaluation.ungraded import why_ungraded
from megatron_r1.stages.sampling import accepted_share, can_be_quoted, draft_counts, draw_key, sample
from megatron_r1.types import Completion, Message, Sampling, Score, Scored

log = logging.getLogger(__name__)

Measured = registry.by_name(registry.rewards(), "Measured")
SCORE = "score_"  # before the name of a reward model, among the parts of a sample
BY_DOMAIN = (
    "eval/accuracy", "eval/cons", "eval/format", "eval/language", "eval/mixed", "eval/reward_", "eval/score_",
)  # fmt: skip
WITH_ERROR = (  # metrics that get a standard error
    "eval/accuracy", "eval/reward_", "eval/score_", "eval/pass_at_k", "eval/cons",
)  # fmt: skip
MEASURED = ("eval/accuracy", "eval/reward_", "eval/score_")  # one of them at least, or nothing was measured
FORM_ONLY = ("format", "language", "length")  # rewards that say nothing of whether an answer is right
MoreSources = dict[str, registry.union(registry.sources(), "source")]  # type: ignore[misc]
Sources = Annotated[MoreSources, Field(min_length=1)]


class FewShot(Section):
    """Solved examples before each question. The paper: they hurt R1, so it is evaluated zero-shot."""

    data: Sources
    """The sources of the examples, as documents."""
    shots: int = Field(default=1, ge=1)
    """Examples a question, as earlier turns of the conversation."""


class Evaluation(Section):
    """Which held-out questions, and how they are sampled."""

    data: Sources
    """The sources of the questions, by a name of your choice."""
    questions: int = Field(default=256, ge=1, le=MOST_ITEMS)
    """Held-out questions; where the data holds fewer, each of them once."""
    samples: int = Field(default=1, ge=1, le=MOST_ITEMS, validation_alias=SAMPLES_OR_GROUP_SIZE)
    """Samples a question (k)."""
    temperature: TemperatureOrGreedy = 0.6
    """The paper: 0.6; 0 takes the most likely token."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """The paper: 0.95."""
    max_new_tokens: MaxNewTokens = 32768
    """The longest answer; the paper: 32768."""
    force_think: bool = False
    """Begin every answer with <think>, as the paper's evaluation does."""
    form: Form = "answer_tags"
    """What counts as format: answer_tags as R1-Zero answers, summary as R1 does."""
    few_shot: FewShot | None = None
    """Solved examples before each question; null: none, as the paper evaluates."""
    turns: int = Field(default=1, ge=1)
    """Above 1: so many questions in one conversation, each after the model's own answers to those before; the
    last answer is graded."""
    greedy: bool = False
    """Also measure the answers at temperature 0."""
    rewards: Measured = Measured()  # type: ignore[valid-type]
    """Rewards by rule to measure besides accuracy and format, such as code; each on its tasks' prompts."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples: {self.samples} at temperature 0 are the same answer {self.samples} times; set "
                "samples: 1 or a temperature"
            )
        return self

    @model_validator(mode="after")
    def _rules_only(self) -> Self:
        chosen = self.chosen_rewards()
        models = [name for name, config in chosen.items() if isinstance(config, PreferenceConfig)]
        if models:
            raise ValueError(
                f"rewards: {', '.join(models)} need a reward model; name it under `models` of an evaluate "
                "stage"
            )
        return self

    def chosen_rewards(self) -> dict[str, Any]:
        """The rewards that are set, by name."""
        return {name: config for name, config in self.rewards if config is not None}


class EvaluateEvery(Section):
    """Held-out questions during training."""

    every: int = Field(default=10, ge=1)
    """Steps between evaluations; the last step has one. RL has one before any update too."""
    evaluation: Evaluation
    """The questions and how to sample."""


def held_out(evaluation: Evaluation, *, seed: int) -> Mixture:
    """The questions' source: never a problem that training sees."""
    return build_mixture(evaluation.data, seed=seed, split="held_out")


def evaluate(
    context: StageContext, evaluation: Evaluation, *, models: Mapping[str, str] | None = None
) -> tuple[dict[str, float], list[Scored]]:
    """Metrics over all replicas (eval/...), and this replica's samples, k in a row for each question.

    models: reward_model stages by name whose scores are reported too.
    """
    source = held_out(evaluation, seed=context.seed)
    asked = conversations(context, source, questions=evaluation.questions, turns=evaluation.turns)
    scored, majority = _sample_and_grade(
        context, evaluation, source, asked, temperature=evaluation.temperature
    )
    for name, stage in (models or {}).items():
        scored = _with_scores(context, scored, name=name, stage=stage)
    domains = domains_of(evaluation.data)
    metrics = _summary(context, scored, k=evaluation.samples, majority=majority, domains=domains)
    drafts = context.policy.replicas.sum(draft_counts(s.completion for s in scored))
    metrics |= accepted_share(drafts, name="eval/accepted")
    if evaluation.greedy:
        single = evaluation.model_copy(update={"samples": 1})
        greedy, _ = _sample_and_grade(context, single, source, asked, temperature=0.0)
        found = _summary(context, greedy, k=1)
        metrics |= {"eval/greedy": found["eval/accuracy"]} if "eval/accuracy" in found else {}
    return metrics, scored


def _sample_and_grade(
    context: StageContext,
    evaluation: Evaluation,
    source: Mixture,
    asked: Sequence[Sequence[int]],
    *,
    temperature: float,
) -> tuple[list[Scored], list[float | None]]:
    """The samples, and whether each question's majority is right (rewards/votes)."""
    replicas, k = context.policy.replicas, evaluation.samples
    mine = asked[replicas.index :: replicas.count]
    rows = [(turns, sample) for turns in mine for sample in range(k)]
    completions = _asked(context, evaluation, source, rows, temperature=temperature)
    accuracy = Accuracy().build()
    rewards: Mapping[str, tuple[float, Reward]] = {
        "accuracy": (1.0, accuracy),
        "format": (0.0, Format(form=evaluation.form).build()),
        **{name: (0.0, config.scorer()) for name, config in evaluation.chosen_rewards().items()},
    }

    def grade() -> tuple[list[Scored], list[float | None]]:
        scored = combine(completions, rewards)
        questions = [scored[first : first + k] for first in range(0, len(scored), k)]
        return scored, majorities(accuracy, questions) if k > 1 else []  # one sample has no majority

    return replicas.share(grade)


def _with_scores(context: StageContext, scored: Sequence[Scored], *, name: str, stage: str) -> list[Scored]:
    """With what a reward model says among the parts; collective."""
    found = context.reward_models(stage).score_completions([s.completion for s in scored])
    key = f"{SCORE}{name}"
    return [replace(s, parts={**s.parts, key: Score(v)}) for s, v in zip(scored, found, strict=True)]


def _asked(
    context: StageContext,
    evaluation: Evaluation,
    source: Mixture,
    rows: Sequence[tuple[Sequence[int], int]],
    *,
    temperature: float,
) -> list[Completion]:
    """The completions of the last turn, one for each (conversation, sample)."""
    examples = _examples(context, evaluation)
    top_p = evaluation.top_p if temperature else 1.0
    sampling = Sampling(evaluation.max_new_tokens, temperature, top_p, context.seed)
    history = [examples(turns[0]) for turns, _ in rows]
    for turn in reversed(range(evaluation.turns)):  # the last turn is the question itself
        asked = [source.prompt(turns[turn]) for turns, _ in rows]
        completions = sample(
            context,
            [
                replace(prompt, messages=(*before, *prompt.messages))
                for prompt, before in zip(asked, history, strict=True)
            ],
            sampling,
            keys=[draw_key("evaluate", turns[0], k, *([turn] if turn else [])) for turns, k in rows],
            force_think=evaluation.force_think,
        )
        history = [
            (*c.prompt.messages, Message("assistant", c.text)) if can_be_quoted(context, c) else before
            for c, before in zip(completions, history, strict=True)
        ]
    return completions


def _examples(context: StageContext, evaluation: Evaluation) -> Callable[[int], tuple[Message, ...]]:
    """The solved examples before a question, by its index."""
    few = evaluation.few_shot
    if few is None:
        return lambda index: ()
    solved = build_mixture(few.data, seed=context.seed)

    def turns(index: int) -> tuple[Message, ...]:
        documents = [solved.document(index * few.shots + shot) for shot in range(few.shots)]
        return tuple(m for d in documents for m in (*d.messages, Message("assistant", d.response)))

    return turns


def _summary(
    context: StageContext,
    scored: Sequence[Scored],
    *,
    k: int,
    majority: Sequence[float | None] = (),
    domains: Sequence[str] = (),
) -> dict[str, float]:
    """Means over all replicas' questions, with the standard error of the accuracy."""
    sums: dict[str, float] = defaultdict(float)
    for first in range(0, len(scored), k):
        won = majority[first // k] if majority else None
        for name, value in _question(scored[first : first + k], won, domains).items():
            sums[f"{name}/sum"] += value
            sums[f"{name}/square"] += value * value
            sums[f"{name}/count"] += 1
    total = _sum_of_all_keys(context, sums)
    names = sorted({key.rsplit("/", 1)[0] for key in total})
    means = {name: total[f"{name}/sum"] / total[f"{name}/count"] for name in names}
    num_questions = int(total["eval/format/count"])
    means |= {"eval/questions": num_questions} | _ungraded(
        context, scored, total=num_questions * k, measured=any(n.startswith(MEASURED) for n in names)
    )
    for name in names:
        count = total[f"{name}/count"]
        if name.startswith(WITH_ERROR) and count > 1:  # one question says nothing of the spread
            variance = max(0.0, total[f"{name}/square"] / count - means[name] ** 2)
            means[f"{name}_stderr"] = math.sqrt(variance / (count - 1))
    of_one = ("eval/pass_at_k",) if k == 1 else ()
    return {name: value for name, value in means.items() if not name.startswith(of_one)}


def _ungraded(
    context: StageContext, scored: Sequence[Scored], *, total: int, measured: bool
) -> dict[str, float]:
    """The share of all `total` samples that no verifier can grade, said with the first reason; collective.

    DataError where that is all of them, unless another reward measured something.
    """
    replicas = context.policy.replicas
    mine = [s for s in scored if all(p.value is None for n, p in s.parts.items() if n not in FORM_ONLY)]
    reasons = replicas.gather([why_ungraded(s) for s in mine])
    if not reasons:
        return {}
    if len(reasons) == total and not measured:
        raise DataError(
            f"stage {context.name}: none of the {total} held-out samples can be graded: {reasons[0]}; "
            "correct the task or the reference in the evaluation's data"
        )
    if replicas.is_main:
        log.warning("stage %s: %d of %d held-out samples can't be graded and count in no accuracy: %s",
                    context.name, len(reasons), total, reasons[0])  # fmt: skip
    return {"eval/ungraded": len(reasons) / total}


def _sum_of_all_keys(context: StageContext, sums: Mapping[str, float]) -> dict[str, float]:
    """Sum over replicas where not every replica has every key (a language that only one drew)."""
    replicas = context.policy.replicas
    keys = sorted(set(replicas.gather(sorted(sums))))
    return replicas.sum({key: sums.get(key, 0.0) for key in keys})


def _question(samples: Sequence[Scored], majority: float | None, domains: Sequence[str]) -> dict[str, float]:
    """One question's means. A sample whose reference can't be graded counts in no accuracy.

    majority: whether the most frequent answer is right, where that is known.
    """
    graded = [s for s in samples if s.parts["accuracy"].value is not None]
    found: dict[str, float] = {
        "eval/format": _mean([s.parts["format"].value or 0.0 for s in samples]),
        "eval/length": _mean([len(s.completion.token_ids) for s in samples]),
        "eval/cut": _mean([not s.completion.finished for s in samples]),
        "eval/mixed": _mean([is_mixed(chain_of_thought(s.completion.text)) for s in samples]),
    }
    prompt = samples[0].completion.prompt
    shares = [language_share(chain_of_thought(s.completion.text), prompt.language) for s in samples]
    known = [share for share in shares if share is not None]
    if known:
        found["eval/language"] = _mean(known)
        found["eval/target_share"] = _mean([share > 0.5 for share in known])
        found[f"eval/target_share_{prompt.language}"] = found["eval/target_share"]
    if graded:
        right = [float(s.parts["accuracy"].value == 1.0) for s in graded]
        found["eval/accuracy"] = _mean(right)
        found["eval/pass_at_k"] = max(right)
        found |= {} if majority is None else {"eval/cons": majority}
    found |= _parts(samples)
    if prompt.source in domains:
        domain = metric_word(prompt.source)
        found |= {f"{name}_on_{domain}": found[name] for name in found if name.startswith(BY_DOMAIN)}
    if graded:
        found[f"eval/accuracy_{prompt.language}"] = found["eval/accuracy"]
    return found


def _parts(samples: Sequence[Scored]) -> dict[str, float]:
    """The means of further rewards and of reward models' scores, where there are any."""
    found = {}
    names = dict.fromkeys(name for s in samples for name in s.parts if name not in ("accuracy", "format"))
    for name in names:
        values = [s.parts[name].value for s in samples if name in s.parts]
        known = [value for value in values if value is not None]
        if known:
            found[f"eval/{name}" if name.startswith(SCORE) else f"eval/reward_{name}"] = _mean(known)
    return found


def _mean(values: Sequence[Any]) -> float:
    return sum(map(float, values)) / len(values)
