"""The last choice among samples that are right and read well: no duplicates, some a prompt, domain quotas."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from megatron_r1.curation.duplicates import Duplicates, Seen

Line = dict[str, Any]  # of a shard of candidates: see curation/candidate.py


class Selection:
    """Decides on one candidate after the other, in their order: the first ones stay."""

    def __init__(
        self, *, duplicates: Duplicates | None, per_prompt: int | None, quotas: Mapping[str, int]
    ) -> None:
        """per_prompt: most samples of a question. quotas: most of a domain; one without has no limit."""
        self._seen = Seen(duplicates) if duplicates is not None else None
        self._per_prompt, self._quotas = per_prompt, quotas
        self._of_prompt: Counter[str] = Counter()
        self._of_domain: Counter[str] = Counter()

    def reason(self, line: Line) -> str | None:
        """Why a candidate is left out; None: it is taken, and counts from here on."""
        domain, prompt = line["source"], line["id"]
        # with the question: the same short answer to another question is no duplicate
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
        """A reason a line; those that were dropped before keep theirs."""
        return [line["dropped"] if "dropped" in line else self.reason(line) for line in lines]


def select(lines: Iterable[Line], reasons: Sequence[str | None]) -> Iterator[Line]:
    """The same lines, of which those that are left out now carry the reason under "dropped"."""
    for line, reason in zip(lines, reasons, strict=True):
        if reason is not None:
            line = {"source": line["source"], "tokens": line["tokens"], "dropped": reason}
        yield line
