"""A generative judge: any policy, asked for verdicts that are parsed strictly (rewards/judging.py); or a rule
that stands in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Self

from pydantic import Field, model_validator

from megatron_r1 import registry
from megatron_r1.config.spelling import MaxNewTokens, TemperatureOrGreedy
from megatron_r1.curation.pairs import ASKS, Judged, judged, orders
from megatron_r1.errors import DataError
from megatron_r1.rewards.answers.answer import after_thinking
from megatron_r1.rewards.combine import combine
from megatron_r1.rewards.judging import (
    HIGHEST,
    LOWEST,
    comparison_messages,
    read_comparison,
    read_verdict,
    verdict_messages,
)
from megatron_r1.section import Section
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.sampling import draw_key, sample
from megatron_r1.types import Completion, Message, Prompt, Sampling, Score

UNPARSEABLE = "the judge's answer is no verdict"
NOT_JUDGED = "not one of the judge's tasks"
UNASKED = "not asked: too long for the judge, or not to be spelled by its tokenizer"


Rules = registry.by_name(registry.rewards(), "Rules")


class JudgeOptions(Section):
    """Who judges, and how it is asked."""

    rule: Rules | None = None  # type: ignore[valid-type]
    """Rewards by rule in the judge's place, where the truth is known: their weighted sum, from 0 to 1, stands
    for a verdict, and spread over 1 to 10 for a score. null: a model is asked."""

    model: str | None = None
    """The earlier stage whose model judges; null: the weights of this stage."""
    max_new_tokens: MaxNewTokens = 4096
    """The longest answer, reasoning included."""
    max_prompt_tokens: int = Field(default=24576, ge=1)
    """What makes a longer question is not asked, and has no verdict."""
    temperature: TemperatureOrGreedy = 0.6
    """Of its answers."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if self.rule is not None and self.model is not None:
            raise ValueError("give `model` or `rule`, not both")
        return self


class Judge:
    """Collective: all ranks ask at the same time, with none of their own too."""

    def __init__(self, options: JudgeOptions, context: StageContext) -> None:
        self.options = options
        self.context = context
        if options.model is not None:
            policy, template, tokenizer = context.policies(options.model)
            self.context = replace(context, policy=policy, template=template, tokenizer=tokenizer)

    def verdicts(
        self, completions: Sequence[Completion], *, keys: Sequence[int], answers: Sequence[str]
    ) -> list[Score]:
        """1 right, 0 wrong, None no verdict; answers: what of each completion is judged."""
        asked = [
            verdict_messages(c.prompt.question, c.prompt.reference, answer)
            for c, answer in zip(completions, answers, strict=True)
        ]
        replies = self._replies(asked, keys=keys)
        return [_score(reply) for reply in replies]

    def compare(
        self, pairs: Sequence[tuple[Prompt, str, str]], *, keys: Sequence[int], asks: int = ASKS
    ) -> list[Judged]:
        """pairs: a prompt with two responses. Each is asked `asks` times, in both orders equally often."""
        swaps = [orders(asks, key=key) for key in keys]
        asked = [
            comparison_messages(prompt.question, *((second, first) if swap else (first, second)))
            for (prompt, first, second), order in zip(pairs, swaps, strict=True)
            for swap in order
        ]
        replies = self._replies(asked, keys=[draw_key(key, ask) for key in keys for ask in range(asks)])
        found = [None if reply is None else read_comparison(reply) for reply in replies]
        return [judged(found[i * asks : (i + 1) * asks], order) for i, order in enumerate(swaps)]

    def _replies(self, asked: Sequence[tuple[Message, ...]], *, keys: Sequence[int]) -> list[str | None]:
        """The judge's outputs; None for what it can't be asked and for an output that was cut."""
        fit = [self._fits(messages) for messages in asked]
        chosen = [i for i, fits in enumerate(fit) if fits]
        sampling = Sampling(self.options.max_new_tokens, self.options.temperature, seed=self.context.seed)
        prompts = [Prompt("judge", asked[i], "", "judge") for i in chosen]
        found = sample(self.context, prompts, sampling, keys=[keys[i] for i in chosen])
        replies: list[str | None] = [None] * len(asked)
        for i, completion in zip(chosen, found, strict=True):
            replies[i] = completion.text if completion.finished else None
        return replies

    def _fits(self, messages: tuple[Message, ...]) -> bool:
        try:
            ids = self.context.template.prompt_ids(messages, self.context.tokenizer)
        except DataError:  # a closed vocabulary
            return False
        return len(ids) <= self.options.max_prompt_tokens


class RuleJudge:
    """A rule in a judge's place; it needs no model, no order and no parsing."""

    def __init__(self, rule: Section) -> None:
        chosen = {name: config for name, config in rule if config is not None}
        self._rewards = {name: (config.weight, config.scorer()) for name, config in chosen.items()}

    def verdicts(
        self, completions: Sequence[Completion], *, keys: Sequence[int], answers: Sequence[str]
    ) -> list[Score]:
        """As Judge.verdicts, with all values between 0 and 1."""
        judged = [replace(c, text=answer) for c, answer in zip(completions, answers, strict=True)]
        return [Score(scored.reward) for scored in combine(judged, self._rewards)]

    def compare(
        self, pairs: Sequence[tuple[Prompt, str, str]], *, keys: Sequence[int], asks: int = ASKS
    ) -> list[Judged]:
        """As Judge.compare."""
        prompts = [prompt for prompt, _, _ in pairs for _ in range(2)]
        texts = [text for _, *both in pairs for text in both]
        said = [Completion(p, [], [], [], text, True, 0) for p, text in zip(prompts, texts, strict=True)]
        values = [scored.reward for scored in combine(said, self._rewards)]
        return [_margin(a, b) for a, b in zip(values[0::2], values[1::2], strict=True)]


def _margin(first: float | None, second: float | None) -> Judged:
    return Judged(None if first is None or second is None else (first - second) * (HIGHEST - LOWEST))


def judge_of(options: JudgeOptions, context: StageContext) -> Judge | RuleJudge:
    """The judge that the section asks for."""
    return Judge(options, context) if options.rule is None else RuleJudge(options.rule)


class Opinions:
    """curation.verdict.Grader of completions that a judge has seen; None for all others."""

    def __init__(self, scores: Mapping[int, Score]) -> None:
        """scores: by the identity of the completion."""
        self._scores = dict(scores)

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [self._scores.get(id(completion), Score(None, NOT_JUDGED)) for completion in completions]


def ask(
    judge: Judge | RuleJudge,
    completions: Sequence[Completion],
    *,
    keys: Sequence[int],
    tasks: Sequence[str],
) -> Opinions:
    """The judge's verdicts on the answers of the prompts of these tasks; collective."""
    mine = [i for i, c in enumerate(completions) if any(fnmatchcase(c.prompt.task, task) for task in tasks)]
    answers = {i: (after_thinking(completions[i].text) or "").strip() for i in mine}
    asked = [i for i in mine if answers[i]]
    found = judge.verdicts(
        [completions[i] for i in asked],
        keys=[keys[i] for i in asked],
        answers=[answers[i] for i in asked],
    )
    scores = {i: Score(0.0, "no answer") for i in mine} | dict(zip(asked, found, strict=True))
    return Opinions({id(completions[i]): score for i, score in scores.items()})


def _score(reply: str | None) -> Score:
    if reply is None:
        return Score(None, UNASKED)
    right = read_verdict(reply)
    return Score(None, UNPARSEABLE) if right is None else Score(float(right))
