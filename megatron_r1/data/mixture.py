"""Mixture: interleaves several sources evenly into one stream, in which item i is a pure function of i.

Any prefix of the stream holds each source's share to within a few items, so a short run sees the same mixture
as a long one. Each source keeps its own order. Resuming needs no state but the index.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from megatron_r1.data.source import Source, SourceConfig
from megatron_r1.data.split import Split, content_id
from megatron_r1.types import Document, Prompt


class Mixture:
    """A source that takes its items from several sources, in proportion to their weights."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        weights: Mapping[str, float],
        *,
        starts: Mapping[str, int] | None = None,
    ) -> None:
        """starts: the first item of a source, if another mixture takes those before it."""
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
        """The source of item `index`, and the item's index in that source."""
        for name, share in self._shares:
            before, after = _rounded(share, index), _rounded(share, index + 1)
            if after > before:
                return name, before
            index -= before
        raise AssertionError("the last share is 1")

    def counts(self, count: int) -> dict[str, int]:
        """How many of the first `count` items each source gives."""
        taken = {}
        for name, share in self._shares:
            taken[name] = _rounded(share, count)
            count -= taken[name]
        return taken

    def gives_anew(self, index: int) -> bool:
        """Whether no earlier index gave this item, as its source is still in its first epoch."""
        name, inner = self.locate(index)
        size = self._sources[name].size
        return size is None or inner < size

    def each_once(self, count: int) -> list[int]:
        """Those of the first `count` indices whose item no earlier index gave."""
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
    """The mixture of the configured sources; each gets a seed of its own."""
    sources = {
        name: config.build(int(content_id(f"{seed}/{name}")[:8], 16), split=split)
        for name, config in configs.items()
    }
    return Mixture(sources, {name: config.weight for name, config in configs.items()}, starts=starts)


def _nested_shares(weights: Mapping[str, float]) -> list[tuple[str, Fraction]]:
    """Each source's share of what the sources before it leave; the last one's is 1."""
    exact = {name: Fraction(weight).limit_denominator(1_000_000) for name, weight in weights.items()}
    assert all(weight > 0 for weight in exact.values()), "weights must be above 0"
    rest = sum(exact.values(), Fraction(0))
    shares = []
    for name, weight in exact.items():
        shares.append((name, weight / rest))
        rest -= weight
    return shares


def _rounded(share: Fraction, count: int) -> int:
    """share x count, rounded half up: how many of the first `count` items a source gives."""
    return (2 * share.numerator * count + share.denominator) // (2 * share.denominator)


def replica_range(first: int, count: int, *, index: int, num_replicas: int) -> range:
    """The items of first .. first + count for data-parallel rank `index`: those congruent to it."""
    offset = (index - first) % num_replicas
    return range(first + offset, first + count, num_replicas)
