"""Rules that judge the groups that are complete while others are still being sampled.

A thread of the rank that leads its replica does it. That helps where a rule waits for other processes, as
the sandbox of code and the graders of mathematics do; a rule that computes in Python would slow the rollout
down by as much as it takes, since the two share the interpreter.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from megatron_r1.rewards.base import Reward
from megatron_r1.rewards.combine import columns_of
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.sampling import completion_of
from megatron_r1.types import Completion, Prompt, Sampled, Score

Columns = dict[str, list[Score]]  # each rule's scores


class JudgedBeside:
    """The groups of one rollout: output i answers prompts[i], whole groups in a row."""

    def __init__(
        self,
        judge: ThreadPoolExecutor,
        context: StageContext,
        rules: Mapping[str, Reward],
        prompts: Sequence[Prompt],
        *,
        group_size: int,
    ) -> None:
        self._judge, self._context, self._rules = judge, context, rules
        self._prompts, self._size = prompts, group_size
        self._texts: dict[int, list[int]] = {}
        self._ended: Counter[int] = Counter()  # outputs of each group
        self._judged: dict[int, Future[Columns]] = {}

    def ended(self, output: int, token_ids: list[int]) -> None:
        """An output is complete; what samples calls it. A rule's error waits for `columns`."""
        group = output // self._size
        self._texts[output] = token_ids
        self._ended[group] += 1
        if self._ended[group] == self._size:
            self._judged[group] = self._judge.submit(self._columns_of, group)

    def columns(self, completions: Sequence[Completion]) -> Columns:
        """Every rule's scores of all completions; groups that nobody told of are judged now.

        Raises what a rule raised."""
        found: Columns = {name: [] for name in self._rules}
        for first in range(0, len(completions), self._size):
            judged = self._judged.get(first // self._size)
            members = completions[first : first + self._size]
            part = columns_of(members, self._rules) if judged is None else judged.result()
            for name, scores in part.items():
                found[name] += scores
        return found

    def _columns_of(self, group: int) -> Columns:
        outputs = range(group * self._size, (group + 1) * self._size)
        completions = [
            completion_of(
                self._context,
                self._prompts[i],
                [],
                Sampled(self._texts[i], []),
                version=self._context.policy.version,
            )
            for i in outputs
        ]
        return columns_of(completions, self._rules)
