"""Several sources dealt into one stream, evenly: item i is a pure function of i.

At every point of the stream each source has had its share to within a few items, so a short run sees the same
mixture as a long one. Each source is walked in its own order; nothing has to be stored to resume.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from megatron_r1.data.source import Source, SourceConfig
from megatron_r1.data.split import Split, content_id
from megatron_r1.types import Document, Prompt


class Mixture:
    """A source made of sources, in proportion to their weights."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        *,
        starts: Mapping[str, int] | None = None,
    ) -> None:
        """starts: the item that a source begins with, where another mixture took those before it."""
        assert sources, "a mixture needs a source"
        assert sources.keys() == weights.keys(), "a mixture needs one weight a source"
        self._sources = dict(sources)
        self._shares = _nested_shares(weights)
        self._starts = dict(starts or {})

    @property
    def size(self) -> int | None:
        """Items of all sources together; None if one is endless."""
        sizes = [source.size for source in self._sources.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def locate(self, index: int) -> tuple[str, int]:
        """The source of item `index`, and the item's number in that source."""
        for name, share in self._shares:
            before, after = _rounded(share, index), _rounded(share, index + 1)
            if after > before:
                return name, before
            index -= before
        raise AssertionError("the last share is 1")

    def counts(self, count: int) -> dict[str, int]:
        """How many of the first `count` items each source has had."""
        taken = {}
        for name, share in self._shares:
            taken[name] = _rounded(share, count)
            count -= taken[name]
        return taken

    def gives_anew(self, index: int) -> bool:
        """Whether no index before gave the item: its source has not been begun again."""
        name, inner = self.locate(index)
        size = self._sources[name].size
        return size is None or inner < size

    def each_once(self, count: int) -> list[int]:
        """Those of the first `count` indices whose item no index before gave."""
        return [index for index in range(count) if self.gives_anew(index)]

    def prompt(self, index: int) -> Prompt:
        name, inner = self.locate(index)
        return replace(self._sources[name].prompt(self._from(name, inner)), source=name)

    def document(self, index: int) -> Document:
        name, inner = self.locate(index)
        return self._sources[name].document(self._from(name, inner))

    def _from(self, name: str, inner: int) -> int:
        return self._starts.get(name, 0) + inner


def build_mixture(
    configs: Mapping[str, SourceConfig],
    *,
    seed: int,
    split: Split = "train",
    starts: Mapping[str, int] | None = None,
) -> Mixture:
    """The stream that a mapping of sources by name asks for; each gets a seed of its own."""
    sources = {
        name: config.build(int(content_id(f"{seed}/{name}")[:8], 16), split=split)
        for name, config in configs.items()
    }
    return Mixture(sources, {name: config.weight for name, config in configs.items()}, starts=starts)


def _nested_shares(weights: Mapping[str, float]) -> list[tuple[str, Fraction]]:
    """Each source's share of what the sources before it leave over; the last one's is 1."""
    exact = {name: Fraction(weight).limit_denominator(1_000_000) for name, weight in weights.items()}
    assert all(weight > 0 for weight in exact.values()), "weights must be above 0"
    rest = sum(exact.values(), Fraction(0))
    shares = []
    for name, weight in exact.items():
        shares.append((name, weight / rest))
        rest -= weight
    return shares


def _rounded(share: Fraction, count: int) -> int:
    """share x count, rounded half up: how many of the first `count` items a source has had."""
    return (2 * share.numerator * count + share.denominator) // (2 * share.denominator)


def replica_range(first: int, count: int, *, index: int, num_replicas: int) -> range:
    """Which of the items first .. first + count replica `index` takes: those congruent to it."""
    offset = (index - first) % num_replicas
    return range(first + offset, first + count, num_replicas)
