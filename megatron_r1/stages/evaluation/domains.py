"""Metrics by domain: the sources of a stage's data, where there are several."""

import re
from collections.abc import Iterable


def domains_of(sources: Iterable[str]) -> tuple[str, ...]:
    """The names of the sources; none where there is one, whose metrics are those of the whole."""
    names = tuple(sources)
    return names if len(names) > 1 else ()


def metric_word(domain: str) -> str:
    """A name that a user chose as it can stand in a metric's name: `GSM-8k` is gsm_8k."""
    return re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_") or "other"
