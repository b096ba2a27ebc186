"""Chains of additions and subtractions in English and Chinese: the toy task, with a corpus to pretrain on.

    compute 7 + 8 - 2
    <think> 7 plus 8 is 15 ; then 15 minus 2 is 13 ; </think> <answer> 13 </answer>

The running total stays in 0..max_total. All words are separated by single spaces, so that a word tokenizer
gives one token a word. The corpus imitates what a web-scale base knows before RL: a `textbook` phase teaches
the facts and the chain, a `noisy` phase buries the skill under direct guesses, wrong steps, mixed languages
and missing tags; RL then has something to find. Both mixes were found by trial at 60-100k parameters.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from megatron_r1.data.chat_template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from megatron_r1.data.split import Split, content_id, split_of
from megatron_r1.section import Section
from megatron_r1.types import Document, Message, Prompt

PLUS_SHARE = 0.6  # of the operators, where both keep the total in range
PERTURBATIONS = (-3, -2, -1, 1, 2, 3)
OPERATORS = "num_operators"  # in the metadata of a prompt


@dataclass(frozen=True, slots=True)
class Words:
    """One language's words for the parts of a chain."""

    compute: str
    plus: str
    minus: str
    equals: str
    then: str
    so: str
    wait: str
    the_answer_is: str


WORDS = {
    "en": Words("compute", "plus", "minus", "is", "then", "so", "wait", "the answer is"),
    "zh": Words("计算", "加", "减", "得", "再", "所以", "等等", "答案 是"),
    "ru": Words("вычисли", "плюс", "минус", "равно", "затем", "значит", "стой", "ответ таков"),
}
LANGUAGES = ("en", "zh")  # the task's own; the third is for what unusual.py asks

_STEP = re.compile(
    r"(?:^|\s)\d+(?: (?:{op}) \d+)+ (?:{eq})(?=\s)".format(
        op="|".join(f"{w.plus}|{w.minus}" for w in WORDS.values()),
        eq="|".join(w.equals for w in WORDS.values()),
    )
)


class Mix(Section):
    """What the corpus is made of: a preset by name (`noisy`), or changed (`{preset: noisy, skip_share: 0}`).

    Shares are probabilities. Of the tasks, what is neither full nor skipping answers directly.
    """

    preset: Literal["textbook", "noisy"] = "textbook"
    """Where the numbers come from that are not given; the defaults here are the textbook's."""
    drill_share: float = Field(default=0.3, ge=0, le=1)
    """Documents that are plain lists of facts, without a question."""
    drill_facts: int = Field(default=6, ge=1)
    """Facts in such a document."""
    full_share: float = Field(default=0.8, ge=0, le=1)
    """Tasks that are worked out one operation a step."""
    skip_share: float = Field(default=0.0, ge=0, le=1)
    """Tasks that take two operations in most steps."""
    skip_step_share: float = Field(default=0.8, ge=0, le=1)
    """Steps of such a task that do take two."""
    direct_error: float = Field(default=0.0, ge=0, le=1)
    """Direct answers that are wrong, by 1 to 3."""
    step_error_en: float = Field(default=0.0, ge=0, le=1)
    """English steps with a wrong result, by 1 to 3; the chain goes on from it."""
    step_error_zh: float = Field(default=0.0, ge=0, le=1)
    """Chinese steps with a wrong result."""
    correction_share: float = Field(default=0.0, ge=0, le=1)
    """Wrong steps that are put right at once ("wait 15")."""
    tags_share: float = Field(default=0.6, ge=0, le=1)
    """Answers with all tags in place."""
    same_language_share: float = Field(default=0.45, ge=0, le=1)
    """Answers in the question's language throughout."""
    other_language_share: float = Field(default=0.15, ge=0, le=1)
    """Answers in the other language throughout; the rest choose anew at every step."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        noisy = isinstance(given, dict) and given.get("preset") == "noisy"
        return NOISY | given if noisy else given

    @model_validator(mode="after")
    def _shares_fit(self) -> "Mix":
        if self.full_share + self.skip_share > 1:
            raise ValueError("full_share + skip_share is above 1")
        if self.same_language_share + self.other_language_share > 1:
            raise ValueError("same_language_share + other_language_share is above 1")
        return self


NOISY = {
    "drill_share": 0.2, "full_share": 0.17, "skip_share": 0.10, "direct_error": 0.7,
    "step_error_en": 0.25, "step_error_zh": 0.12, "correction_share": 0.25,
}  # fmt: skip

Preset = Literal["textbook", "noisy"]


def named_mix(given: Any) -> Any:
    """A preset by its name alone."""
    return {"preset": given} if isinstance(given, str) else given


class Arithmetic(Section):
    """Endless chains of 3 to 5 small numbers."""

    source: Literal["arithmetic"] = "arithmetic"
    weight: float = Field(default=1.0, gt=0, le=1e15)
    """Share in a mixture, relative to the other sources."""
    min_operands: int = Field(default=3, ge=2)
    """Shortest chain."""
    max_operands: int = Field(default=5, ge=2)
    """Longest chain."""
    max_total: int = Field(default=20, ge=17)
    """The running total stays in 0 .. max_total; from 17 on, adding or subtracting 9 always can."""
    mix: Annotated[Mix, BeforeValidator(named_mix, json_schema_input_type=Preset | Mix)] = Mix()
    """What documents are made of; prompts do not depend on it."""

    @model_validator(mode="after")
    def _range(self) -> "Arithmetic":
        if self.min_operands > self.max_operands:
            raise ValueError("min_operands is above max_operands")
        return self

    def build(self, seed: int, *, split: Split = "train") -> "ArithmeticSource":
        return ArithmeticSource(self, seed=seed, split=split)


SOURCE = Arithmetic


@dataclass(frozen=True, slots=True)
class Chain:
    """operands[0] followed by signed operands."""

    operands: tuple[int, ...]
    signs: tuple[int, ...]
    language: str

    @property
    def value(self) -> int:
        return self.operands[0] + sum(s * x for s, x in zip(self.signs, self.operands[1:], strict=True))

    @property
    def expression(self) -> str:
        tail = (f"{'+' if s > 0 else '-'} {x}" for s, x in zip(self.signs, self.operands[1:], strict=True))
        return " ".join([str(self.operands[0]), *tail])

    @property
    def question(self) -> str:
        return f"{WORDS[self.language].compute} {self.expression}"


class ArithmeticSource:
    """The problems of one side of the split."""

    size = None

    def __init__(
        self, config: Arithmetic, *, seed: int, split: Split, languages: Sequence[str] = LANGUAGES
    ) -> None:
        self._config, self._languages = config, languages
        self._key = f"arithmetic/{seed}"
        self._split = split

    def prompt(self, index: int) -> Prompt:
        chain, problem_id = self._chain(random.Random(f"{self._key}/prompt/{index}"))
        return Prompt(
            id=f"{problem_id}-{chain.language}",
            messages=(Message("user", chain.question),),
            reference=str(chain.value),
            task="integer",
            language=chain.language,
            metadata={OPERATORS: len(chain.signs)},
        )

    def document(self, index: int) -> Document:
        rng = random.Random(f"{self._key}/document/{index}")
        mix, top = self._config.mix, self._config.max_total
        if rng.random() < mix.drill_share:
            facts = _drill(rng, num_facts=mix.drill_facts, top=top, languages=self._languages)
            return Document(messages=(), response=facts)
        chain, _ = self._chain(rng)
        response = response_to(chain, rng, mix=mix, top=top, languages=self._languages)
        return Document((Message("user", chain.question),), response, chain.language)

    def _chain(self, rng: random.Random) -> tuple[Chain, str]:
        """A random chain of this side, and its id: both languages of a chain are on the same side."""
        while True:
            chain = _random_chain(rng, self._config, self._languages)
            problem_id = content_id(chain.expression)
            if split_of(problem_id) == self._split:
                return chain, problem_id


def _random_chain(rng: random.Random, config: Arithmetic, languages: Sequence[str]) -> Chain:
    operands = [rng.randint(1, 9)]
    signs: list[int] = []
    total = operands[0]
    for _ in range(rng.randint(config.min_operands, config.max_operands) - 1):
        operand = rng.randint(1, 9)
        sign = 1 if rng.random() < PLUS_SHARE or total < operand else -1
        if total + sign * operand > config.max_total:
            sign = -1
        operands.append(operand)
        signs.append(sign)
        total += sign * operand
    return Chain(tuple(operands), tuple(signs), rng.choice(languages))


def _drill(rng: random.Random, *, num_facts: int, top: int, languages: Sequence[str]) -> str:
    facts = []
    for _ in range(num_facts):
        total, operand, sign = rng.randint(0, top), rng.randint(1, 9), rng.choice((1, -1))
        if total + sign * operand > top:
            sign = -1
        if total + sign * operand < 0:
            sign = 1
        words = WORDS[rng.choice(languages)]
        operator = words.plus if sign > 0 else words.minus
        facts.append(f"{total} {operator} {operand} {words.equals} {total + sign * operand} ;")
    return " ".join(facts)


def response_to(
    chain: Chain, rng: random.Random, *, mix: Mix, top: int, languages: Sequence[str] = LANGUAGES
) -> str:
    """What the corpus answers to a chain; languages: of which its own is one."""
    language = _language_chooser(chain.language, rng, mix=mix, languages=languages)
    form = rng.random()
    if form < mix.full_share + mix.skip_share:
        thought, answer = _steps(chain, rng, language, mix=mix, top=top, skip=form >= mix.full_share)
    else:
        answer = chain.value
        if rng.random() < mix.direct_error:
            answer = _perturbed(answer, rng, top=top)
        thought = f"{WORDS[language()].so} {answer} ;"
    answer_is = f"{WORDS[language()].the_answer_is} {answer}"
    if rng.random() < mix.tags_share:
        return f"{THINK_OPEN} {thought} {THINK_CLOSE} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}"
    form = rng.random()
    if form < 0.5:
        return f"{thought} {answer_is}"
    return f"{THINK_OPEN} {thought} {answer_is}" if form < 0.8 else answer_is


def _language_chooser(
    language: str, rng: random.Random, *, mix: Mix, languages: Sequence[str]
) -> Callable[[], str]:
    """Says the language of the next step: the question's, the other one, or anew each time."""
    form = rng.random()
    if form < mix.same_language_share:
        return lambda: language
    if form < mix.same_language_share + mix.other_language_share:
        other = next((one for one in languages if one != language), language)
        return lambda: other
    return lambda: rng.choice(languages)


def _steps(
    chain: Chain, rng: random.Random, language: Callable[[], str], *, mix: Mix, top: int, skip: bool
) -> tuple[str, int]:
    """The worked chain and the result that it arrives at.

    After a wrong step the total may leave 0..top; the text then shows the nearest number in range.
    """
    parts: list[str] = []
    total = chain.operands[0]
    moves = list(zip(chain.signs, chain.operands[1:], strict=True))
    while moves:
        spoken = language()
        words = WORDS[spoken]
        num_taken = 2 if skip and len(moves) > 1 and rng.random() < mix.skip_step_share else 1
        parts += [words.then] if parts else []
        parts.append(_number(total, top=top))
        for sign, operand in moves[:num_taken]:
            parts += [words.plus if sign > 0 else words.minus, str(operand)]
            total += sign * operand
        moves = moves[num_taken:]
        parts.append(words.equals)
        if rng.random() < (mix.step_error_en if spoken == "en" else mix.step_error_zh):
            wrong = _perturbed(min(max(total, 0), top), rng, top=top)
            parts.append(str(wrong))
            if rng.random() < mix.correction_share:
                parts += [WORDS[language()].wait, _number(total, top=top)]
            else:
                total = wrong
        else:
            parts.append(_number(total, top=top))
        parts.append(";")
    return " ".join(parts), min(max(total, 0), top)


def _number(value: int, *, top: int) -> str:
    return str(min(max(value, 0), top))


def _perturbed(value: int, rng: random.Random, *, top: int) -> int:
    while True:
        wrong = value + rng.choice(PERTURBATIONS)
        if 0 <= wrong <= top:
            return wrong


def count_steps(text: str) -> int:
    """Steps of a worked chain ("7 plus 8 is", in either language) before the thought is closed."""
    return len(_STEP.findall(text.split(THINK_CLOSE, 1)[0]))


def is_full_chain(prompt: Prompt, text: str) -> bool:
    """Whether an answer works out every operation in a step of its own."""
    return count_steps(text) >= prompt.metadata[OPERATORS]


def corpus(max_total: int = 20, languages: Sequence[str] = LANGUAGES) -> list[str]:
    """Every word that prompts and documents can hold, one a line: what a word tokenizer is trained on."""
    words = [w for language in (WORDS[name] for name in languages) for w in (
        language.compute, language.plus, language.minus, language.equals, language.then, language.so,
        language.wait, *language.the_answer_is.split())]  # fmt: skip
    return [*(str(n) for n in range(max_total + 1)), *sorted(set(words)), "+", "-", ";"]
