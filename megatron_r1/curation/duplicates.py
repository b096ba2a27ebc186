"""Near-duplicates by MinHash (Broder, 1997): the share of equal minima estimates the Jaccard similarity.

Locality-sensitive hashing finds candidates without comparing all pairs: two texts meet when all rows of one
of their bands agree. With 16 bands of 8 rows, texts of similarity .8 meet with probability .95, of .5 with
.06; the estimate from all 128 minima (standard error at most .044) then decides.
"""

import hashlib

import numpy
from pydantic import Field

from megatron_r1.curation.words import ngrams, words
from megatron_r1.section import Section

NUM_BANDS = 16
NUM_ROWS = 8


class Duplicates(Section):
    """When two answered questions count as one; the first stays."""

    threshold: float = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of their runs of words, from which on they do."""
    run: int = Field(default=3, ge=1)
    """Words of a run."""


class Seen:
    """Signatures of the texts that were kept; grows by 512 bytes a text."""

    def __init__(self, options: Duplicates) -> None:
        self._options = options
        draw = numpy.random.default_rng(0)  # constants, the same in every run
        size = NUM_BANDS * NUM_ROWS
        self._masks = draw.integers(0, 1 << 64, size=size, dtype=numpy.uint64)
        self._factors = draw.integers(0, 1 << 64, size=size, dtype=numpy.uint64) | numpy.uint64(1)
        self._signatures: list[numpy.ndarray] = []
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(NUM_BANDS)]

    def add(self, text: str) -> bool:
        """Whether the text is new; it is remembered if so."""
        signature = self._signature(text)
        keys = [row.tobytes() for row in signature.reshape(NUM_BANDS, NUM_ROWS)]
        met = {index for band, key in zip(self._bands, keys, strict=True) for index in band.get(key, ())}
        if any(self._similarity(signature, self._signatures[i]) >= self._options.threshold for i in met):
            return False
        for band, key in zip(self._bands, keys, strict=True):
            band.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return True

    @staticmethod
    def _similarity(one: numpy.ndarray, other: numpy.ndarray) -> float:
        return float((one == other).mean())

    def _signature(self, text: str) -> numpy.ndarray:
        """[128] uint32 minima; a text shorter than a run is one run."""
        found = words(text)
        runs = set(ngrams(found, self._options.run)) or {tuple(found)}
        hashes = numpy.array([_hash(run) for run in runs], dtype=numpy.uint64)
        # a hash function a column: multiply-shift, modulo 2**64 by overflow; the high bits are the good ones
        mixed = ((hashes[:, None] ^ self._masks) * self._factors) >> numpy.uint64(32)
        return mixed.min(axis=0).astype(numpy.uint32)


def _hash(run: tuple[str, ...]) -> int:
    """64 bits, the same in every process (Python's own hash of a text is not)."""
    digest = hashlib.blake2b("\x1f".join(run).encode(), digest_size=8).digest()
    return int.from_bytes(digest)
