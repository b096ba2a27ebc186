"""10-gram decontamination: drops training text that shares ten consecutive words with an evaluation prompt.

DeepSeek-R1 (appendix A of the 2026 text): any text with a 10-gram of an evaluation question or its reference
solution is removed. A prompt of fewer than ten words has no 10-gram; it counts only if the whole text is
equal, word for word.
"""

from collections.abc import Iterable

from megatron_r1.curation.words import ngrams, words
from megatron_r1.types import Prompt

NGRAM = 10


class EvaluationText:
    """The n-grams of all evaluation prompts."""

    def __init__(self, prompts: Iterable[Prompt], *, n: int = NGRAM) -> None:
        self.n = n
        self._ngrams: set[int] = set()
        self._short: set[int] = set()  # whole prompts of fewer than n words
        for prompt in prompts:
            self._add(prompt.question)

    def _add(self, text: str) -> None:
        found = words(text)
        if len(found) < self.n:
            self._short.add(hash(tuple(found)))
        self._ngrams.update(hash(gram) for gram in ngrams(found, self.n))

    def is_in(self, question: str, response: str) -> bool:
        """Whether question or response share n consecutive words with an evaluation prompt."""
        asked = words(question)
        if hash(tuple(asked)) in self._short:
            return True
        # only hashes are compared: a collision (one in 2**64 a pair) drops one sample too many
        both = (asked, words(response))
        return any(hash(gram) in self._ngrams for part in both for gram in ngrams(part, self.n))
