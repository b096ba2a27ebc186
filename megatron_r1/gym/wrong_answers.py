"""Wrong answers to a problem: constants, parts of the question, the right answer changed, other answers.

Each is certainly wrong: answers with the same numbers and words as the right one are left out, and families
with several right answers get only the changes that can't make another right one (SURELY_WRONG).
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from megatron_r1.gym import values

Entry = Mapping[str, Any]
Trial = tuple[str, str]  # (kind of wrong answer, the answer)

CANARY = "megatron_r1_gym_canary"  # a key of sys.__dict__ that only an executed answer sets
CODE = f'__import__("sys").__dict__.__setitem__("{CANARY}", 1)'

CONSTANTS = (
    "", "0", "1", "-1", "2", "3", "10", "0.5", "1/2", "nan", "inf", "-inf", "1e400", "yes", "no", "Yes", "No",
    "True", "False", "None", "null", "[]", "[[]]", "{}", "()", '""', "a", "A", "x", "C", "A=1", "on", "off",
    "Q", "infeasible", "I don't know", "the answer", "True or False", "x or not x", "(P ∨ ¬P)", "?", "_",
    "0 0\n0 0", "\\boxed{0}",
)  # fmt: skip

ALL = frozenset(["digit", "nudge", "sign", "swap", "drop", "repeat", "reverse", "both", "other"])
ORDERED_FREELY = ALL - {"swap", "reverse"}
# families with several right answers: the changes that always make a wrong one
SURELY_WRONG = {
    "cryptarithm": frozenset(["drop", "both", "other"]),
    "countdown": frozenset(["digit", "nudge", "drop", "repeat", "both"]),
    "group_anagrams": ORDERED_FREELY,
    "intermediate_integration": frozenset(["digit", "sign", "both", "other"]),
    "jugs": frozenset(["drop", "both"]),
    "kakurasu": frozenset(["digit", "drop", "repeat", "both"]),
    "knights_knaves": ORDERED_FREELY,
    "n_queens": frozenset(["swap", "drop", "repeat", "both"]),
    "palindrome_generation": frozenset(["drop", "repeat", "both", "other"]),
    "palindrome_partitioning": ORDERED_FREELY,
    "polynomial_equations": ORDERED_FREELY,
    "power_function": frozenset(["digit", "sign", "both", "other"]),
    "prime_factorization": ORDERED_FREELY,
    "puzzle24": frozenset(["digit", "nudge", "drop", "repeat", "both"]),
    "quantum_lock": frozenset(["drop", "repeat", "both"]),
    "shortest_path": frozenset(["drop", "both"]),
    "simple_integration": frozenset(["digit", "sign", "both", "other"]),
    "sokoban": frozenset(["drop", "both"]),
    "tower_of_hanoi": frozenset(["drop", "both"]),
    "word_ladder": frozenset(["drop", "both", "other"]),
}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_TOKEN = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|[^\W\d_]+|[^\s,.$°'\"\[\](){}]")
_SEPARATORS = ("\n", ", ", ",", " × ", " → ", " ")


def wrong_answers(family: str, entry: Entry, others: Sequence[Entry]) -> Iterator[Trial]:
    """Answers that a scorer must reject for the entry. others: further items of the family."""
    right = entry["answer"]
    allowed = SURELY_WRONG.get(family, ALL)
    found = [("constant", text) for text in CONSTANTS]
    found += [("code", text) for text in _code(right)]
    found += [("the question", text) for text in _restatements(entry)]
    found += [(kind, text) for kind, text in _mutations(right) if kind in allowed]
    answers = [other["answer"] for other in others if isinstance(other["answer"], str)]
    if "other" in allowed:
        found += [("another item's answer", text) for text in answers]
    different = [text for text in [*answers, "0", "yes"] if text and _read(text) != _read(right)]
    if "both" in allowed and right:
        found += [
            ("two answers", form.format(right, different[0]))
            for form in ("{} or {}", "{} {}", "{}, {}", "{}\n{}")
        ]
    freely = allowed == ORDERED_FREELY
    for kind, text in dict.fromkeys(found):
        if not _same(text, right, freely=freely):
            yield kind, text


def _restatements(entry: Entry) -> Iterator[str]:
    question = entry["question"]
    yield question
    lines = [line.strip() for line in question.splitlines() if line.strip()]
    yield from (
        lines[0],
        lines[-1],
        re.split(r":\s", question)[-1].strip(),
        re.split(r"[.?]\s", question)[-1].strip(),
    )
    about = entry.get("metadata", {})
    for value in about.values():
        if isinstance(value, str) and len(value) > 3 and (value in question or "integrand" in about):
            yield value
            yield f"Integral({value}, {about.get('variable', 'x')})"
            yield f"integrate({value}, {about.get('variable', 'x')})"


def _mutations(right: str) -> Iterator[Trial]:
    yield from (("digit", text) for text in _changed_digits(right))
    if values.number(right) is not None and not right.endswith("%"):
        yield from (("nudge", right + tail) for tail in (("1", "5") if "." in right else (".001", ".5", "0")))
    yield from (("sign", text) for text in _changed_signs(right))
    for separator in _SEPARATORS:
        parts = right.split(separator)
        if len(parts) > 1:
            yield from _changed_parts(parts, separator)
            break
    if len(right) > 1:
        yield "drop", right[:-1]
        yield "drop", right[1:]
    if right:
        yield "repeat", right + right[-1]
        yield "repeat", right + right
        yield "reverse", right[::-1]


def _changed_digits(text: str) -> Iterator[str]:
    found = list(_NUMBER.finditer(text))
    for match in {
        m.start(): m for m in (*found[:1], *found[-1:], *found[len(found) // 2 : len(found) // 2 + 1])
    }.values():
        for place in {match.start(), match.end() - 1}:
            for step in (1, 9):
                digit = str((int(text[place]) + step) % 10)
                yield text[:place] + digit + text[place + 1 :]


def _changed_signs(text: str) -> Iterator[str]:
    if not _NUMBER.search(text):
        return
    yield text[1:] if text.startswith("-") else f"-{text}"
    yield text.translate({ord("+"): "-", ord("-"): "+"})


def _changed_parts(parts: list[str], separator: str) -> Iterator[Trial]:
    yield "drop", separator.join(parts[:-1])
    yield "drop", separator.join(parts[1:])
    yield "repeat", separator.join([*parts, parts[-1]])
    yield "reverse", separator.join(reversed(parts))
    pairs = [(i, j) for i in range(len(parts)) for j in range(i) if parts[i] != parts[j]]
    for i, j in random.Random(0).sample(pairs, min(3, len(pairs))):
        swapped = list(parts)
        swapped[i], swapped[j] = parts[j], parts[i]
        yield "swap", separator.join(swapped)


def _code(right: str) -> Iterator[str]:
    yield CODE
    yield f"[{CODE}]"
    yield f"({right}) if {CODE} else 0"


def _same(text: str, right: str, *, freely: bool) -> bool:
    value = values.number(text)
    if value is not None and value == values.number(right):
        return True
    a, b = _read(text), _read(right)
    return sorted(a, key=str) == sorted(b, key=str) if freely else a == b


def _read(text: str) -> list[Fraction | str]:
    """The numbers, words and signs of a text, without brackets, quotes and separators."""
    return [_read_token(token) for token in _TOKEN.findall(text)]


def _read_token(token: str) -> Fraction | str:
    value = values.number(token)
    if value is None:
        return token.casefold()
    return Fraction(float(value)) if "." in token else value  # families that read floats see no more digits
