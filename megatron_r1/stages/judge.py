"""A generative judge: any policy, asked for verdicts that are parsed strictly (rewards/judging.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from pydantic import Field

from megatron_r1.config.section import Section
from megatron_r1.curation.pairs import ASKS, Judged, judged, orders
from megatron_r1.errors import DataError
from megatron_r1.rewards.answer import after_thinking
from megatron_r1.rewards.judging import comparison_messages, read_comparison, read_verdict, verdict_messages
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.sampling import draw_key, sample
from megatron_r1.types import Completion, Message, Prompt, Sampling, Score

UNPARSEABLE = "the judge's answer is no verdict"
NOT_JUDGED = "not one of the judge's tasks"
UNASKED = "not asked: too long for the judge, or not to be spelled by its tokenizer"


class JudgeOptions(Section):
    """Who judges, and how it is asked."""

    model: str | None = None
    """The earlier stage whose model judges; null: the weights of this stage."""
    max_new_tokens: int = Field(default=4096, ge=1)
    """The longest answer, reasoning included."""
    max_prompt_tokens: int = Field(default=24576, ge=1)
    """What makes a longer question is not asked, and has no verdict."""
    temperature: float = Field(default=0.6, ge=0)
    """Of its answers."""


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


class Opinions:
    """curation.verdict.Grader of completions that a judge has seen; None for all others."""

    def __init__(self, scores: Mapping[int, Score]) -> None:
        """scores: by the identity of the completion."""
        self._scores = dict(scores)

    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [self._scores.get(id(completion), Score(None, NOT_JUDGED)) for completion in completions]


def ask(
    judge: Judge, completions: Sequence[Completion], *, keys: Sequence[int], tasks: Sequence[str]
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
