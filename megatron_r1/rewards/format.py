"""Format reward: the output has the shape that the template asks for (DeepSeek-R1, section 2.2.2).

1 when the text is <think>...</think><answer>...</answer> with white space at most between and around,
each tag once, both parts non-empty, and the answer was finished; else 0.
"""

from collections.abc import Sequence

from megatron_r1.data.template import ANSWER_CLOSE, ANSWER_OPEN, TAGS, THINK_CLOSE, THINK_OPEN
from megatron_r1.rewards.section import RewardConfig
from megatron_r1.types import Completion, Score


def is_well_formed(text: str) -> bool:
    """Whether the text is one non-empty chain of thought and one non-empty answer, and nothing else."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    before, text = text.split(THINK_OPEN)
    chain, _, rest = text.partition(THINK_CLOSE)
    between, _, rest = rest.partition(ANSWER_OPEN)
    answer, closed, after = rest.partition(ANSWER_CLOSE)
    outside = before + between + after
    return bool(closed) and not outside.strip() and bool(chain.strip()) and bool(answer.strip())


class FormatReward:
    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [_score(completion) for completion in completions]


def _score(completion: Completion) -> Score:
    if not completion.finished:
        return Score(0.0, "cut before its end")
    return Score(1.0) if is_well_formed(completion.text) else Score(0.0, "not <think>...<answer>...")


class Format(RewardConfig):
    """The tags of the template, each once and in order."""

    def build(self) -> FormatReward:
        return FormatReward()


REWARD = Format
