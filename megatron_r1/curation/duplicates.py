"""Near-duplicates by MinHash (Broder, 1997): the share of equal minima estimates the Jaccard similarity.

Locality-sensitive hashing avoids comparing all pairs: two texts are compared if all rows of one of their
bands agree. With 16 bands of 8 rows, that has probability .95 for texts of similarity .8, and .06 for .5. The
estimate from all 128 minima (standard error at most .044) then decides.
"""

import hashlib

import numpy
from pydantic import Field

from megatron_r1.curation.words import ngrams, words
from megatron_r1.section import Section

NUM_BANDS = 16
NUM_ROWS = 8


class Duplicates(Section):
    """When two prompts with their responses are duplicates, of which the first is kept."""

    threshold: float = Field(default=0.9, gt=0, le=1)
    """Jaccard similarity of their word n-grams from which on two texts are duplicates."""
    run: int = Field(default=3, ge=1)
    """n of the word n-grams."""


class Seen:
    """The MinHash signatures of the kept texts, 512 bytes each."""

    def __init__(self, options: Duplicates) -> None:
        self._options = options
        draw = numpy.random.default_rng(0)  # fixed seed: the same hash functions in every run
        size = NUM_BANDS * NUM_ROWS
        self._masks = draw.integers(0, 1 << 64, size=size, dtype=numpy.uint64)
        self._factors = draw.integers(0, 1 << 64, size=size, dtype=numpy.uint64) | numpy.uint64(1)
        self._signatures: list[numpy.ndarray] = []
        self._bands: list[dict[bytes, list[int]]] = [{} for _ in range(NUM_BANDS)]

    def add(self, text: str) -> bool:
        """Remember the text unless it duplicates an earlier one; returns whether it is new."""
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
        """[128] uint32 minima; a text shorter than an n-gram counts as one."""
        found = words(text)
        runs = set(ngrams(found, self._options.run)) or {tuple(found)}
        hashes = numpy.array([_hash(run) for run in runs], dtype=numpy.uint64)
        # one hash function per column: multiply-shift, modulo 2**64 by overflow; only the high bits mix well
        mixed = ((hashes[:, None] ^ self._masks) * self._factors) >> numpy.uint64(32)
        return mixed.min(axis=0).astype(numpy.uint32)


def _hash(run: tuple[str, ...]) -> int:
    """A 64-bit hash, the same in every process (Python's hash of a string is not)."""
    digest = hashlib.blake2b("\x1f".join(run).encode(), digest_size=8).digest()
    return int.from_bytes(digest)
