"""Data card: counts of sampled and kept completions, reasons for drops, lengths of the kept responses."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy


class Card:
    """Counts candidate lines; a line with the key "dropped" was dropped for that reason."""

    def __init__(self) -> None:
        self._sampled: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {}
        self._languages: Counter[str] = Counter()
        self._prompts: set[str] = set()
        self._lengths: list[int] = []

    def counting(self, lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the same lines and count them."""
        for line in lines:
            self.count(line)
            yield line

    def count(self, line: Mapping[str, Any]) -> None:
        domain = line["source"]
        self._sampled[domain] += 1
        if "dropped" in line:
            self._dropped.setdefault(domain, Counter())[line["dropped"]] += 1
            return
        self._kept[domain] += 1
        self._languages[line["language"]] += 1
        self._prompts.add(line["id"])
        self._lengths.append(line["tokens"])

    def content(self, **about: Any) -> dict[str, Any]:
        """The card's JSON object. about: further keys, such as how and from which weights it was sampled."""
        reasons = sum(self._dropped.values(), Counter())
        return {
            **about,
            "sampled": self._sampled.total(),
            "kept": self._kept.total(),
            "prompts_kept": len(self._prompts),
            "dropped": dict(reasons.most_common()),
            "domains": {
                name: {
                    "sampled": count,
                    "kept": self._kept[name],
                    "dropped": dict(self._dropped.get(name, Counter()).most_common()),
                }
                for name, count in self._sampled.items()
            },
            "languages": dict(self._languages.most_common()),
            "tokens": _distribution(self._lengths),
        }


def _distribution(lengths: list[int]) -> dict[str, float]:
    """Statistics of the kept completions' lengths, in tokens."""
    if not lengths:
        return {}
    values = numpy.array(lengths)
    return {
        "mean": round(float(values.mean()), 1),
        "p10": float(numpy.quantile(values, 0.1)),
        "median": float(numpy.median(values)),
        "p90": float(numpy.quantile(values, 0.9)),
        "longest": float(values.max()),
    }
