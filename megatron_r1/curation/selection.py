"""Final selection among the candidates: no duplicates, a limit per prompt, quotas per domain."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from megatron_r1.curation.duplicates import Duplicates, Seen

Line = dict[str, Any]  # a line of a candidate shard: see curation/candidate.py


class Selection:
    """Decides on candidates in order, so that earlier ones are kept before later ones."""

    def __init__(
        self, *, duplicates: Duplicates | None, per_prompt: int | None, quotas: Mapping[str, int]
    ) -> None:
        """per_prompt: maximum per prompt. quotas: maximum per domain; a domain without one has no limit."""
        self._seen = Seen(duplicates) if duplicates is not None else None
        self._per_prompt, self._quotas = per_prompt, quotas
        self._of_prompt: Counter[str] = Counter()
        self._of_domain: Counter[str] = Counter()

    def reason(self, line: Line) -> str | None:
        """Why a candidate is dropped; None if it is kept, and then it counts for later ones."""
        domain, prompt = line["source"], line["id"]
        # including the prompt: the same short response to another prompt is not a duplicate
        text = "\n".join(message["content"] for message in line["messages"])
        if self._of_domain[domain] >= self._quotas.get(domain, float("inf")):
            return "quota"
        if self._per_prompt is not None and self._of_prompt[prompt] >= self._per_prompt:
            return "per_prompt"
        if self._seen is not None and not self._seen.add(text):
            return "duplicate"
        self._of_domain[domain] += 1
        self._of_prompt[prompt] += 1
        return None

    def reasons(self, lines: Iterable[Line]) -> list[str | None]:
        """The reason of each line, None if it is kept; lines dropped earlier keep their reason."""
        return [line["dropped"] if "dropped" in line else self.reason(line) for line in lines]


def select(lines: Iterable[Line], reasons: Sequence[str | None]) -> Iterator[Line]:
    """The lines, with each one that has a reason replaced by its stub with the key "dropped"."""
    for line, reason in zip(lines, reasons, strict=True):
        if reason is not None:
            line = {"source": line["source"], "tokens": line["tokens"], "dropped": reason}
        yield line
