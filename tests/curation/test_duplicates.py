import random

import pytest

from megatron_r1.curation.duplicates import NUM_BANDS, NUM_ROWS, Duplicates, Seen
from megatron_r1.curation.words import ngrams, words


def jaccard(one, other, run=3):
    a, b = set(ngrams(words(one), run)), set(ngrams(words(other), run))
    return len(a & b) / len(a | b)


def text_like(text, rng, share):
    """The text with that share of its words replaced."""
    return " ".join(f"other{rng.random()}" if rng.random() < share else word for word in text.split())


@pytest.fixture(scope="module")
def text():
    rng = random.Random(0)
    return " ".join(f"word{rng.randrange(10**6)}" for _ in range(300))


def test_the_same_text_is_seen_but_for_case_and_space(text):
    seen = Seen(Duplicates())
    assert seen.add(text)
    assert not seen.add(f"  {text.upper()}\n")


def test_another_text_is_new(text):
    seen = Seen(Duplicates(threshold=0.3))
    assert seen.add(text)
    assert seen.add(" ".join(reversed(text.split())))


def test_short_texts_are_compared_whole():
    seen = Seen(Duplicates())
    assert seen.add("yes")
    assert not seen.add("Yes")
    assert seen.add("no")
    assert seen.add("")


def test_the_estimate_is_the_jaccard_similarity(text):
    rng = random.Random(1)
    seen = Seen(Duplicates())
    for share in (0.0, 0.02, 0.1, 0.3):
        other = text_like(text, rng, share)
        estimate = seen._similarity(seen._signature(text), seen._signature(other))
        exact = jaccard(text, other)
        error = (exact * (1 - exact) / (NUM_BANDS * NUM_ROWS)) ** 0.5
        assert abs(estimate - exact) <= 4 * error


def test_near_texts_are_found_and_far_ones_are_not(text):
    rng = random.Random(2)
    near = [text_like(text, rng, 0.005) for _ in range(20)]
    far = [text_like(text, rng, 0.3) for _ in range(20)]
    assert min(jaccard(text, other) for other in near) > 0.9
    assert max(jaccard(text, other) for other in far) < 0.5
    seen = Seen(Duplicates(threshold=0.8))
    seen.add(text)
    assert sum(seen.add(other) for other in near) == 0
    assert all(Seen(Duplicates(threshold=0.8)).add(other) for other in far)
