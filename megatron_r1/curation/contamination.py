"""10-gram decontamination: nothing is learnt that shares ten words in a row with an evaluation question.

DeepSeek-R1 (appendix A of the 2026 text): any text with a 10-gram of an evaluation question or its reference
solution is removed. A question of fewer words has no such run; the same question, word for word, is found.
"""

from collections.abc import Iterable

from megatron_r1.curation.words import ngrams, words
from megatron_r1.types import Prompt

NGRAM = 10


class EvaluationText:
    """What must not be learnt: the n-grams of evaluation questions."""

    def __init__(self, prompts: Iterable[Prompt], *, n: int = NGRAM) -> None:
        self.n = n
        self._ngrams: set[int] = set()
        self._short: set[int] = set()  # whole questions of fewer than n words
        for prompt in prompts:
            self._add(prompt.question)

    def _add(self, text: str) -> None:
        found = words(text)
        if len(found) < self.n:
            self._short.add(hash(tuple(found)))
        self._ngrams.update(hash(gram) for gram in ngrams(found, self.n))

    def is_in(self, question: str, response: str) -> bool:
        """Whether question or response share n words in a row with an evaluation question."""
        asked = words(question)
        if hash(tuple(asked)) in self._short:
            return True
        # hashes of a run decide: a false alarm (one in 2**64 a pair) costs a sample and harms nothing
        both = (asked, words(response))
        return any(hash(gram) in self._ngrams for part in both for gram in ngrams(part, self.n))
