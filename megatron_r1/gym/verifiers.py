"""Verifiers for the reasoning-gym families whose own scorer accepts wrong answers or executes the answer.

A verifier gets the answer and the entry (question, answer, metadata, as JSON values) and returns whether the
answer is right: the whole answer, in the form that the question asks for. VERIFIERS states beside each what
the library's scorer does. The library's scorer grades a family that is not listed, right at score 1 only.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.gym import values
from megatron_r1.gym.integrals import NotReadable, is_antiderivative, is_same_form

Entry = Mapping[str, Any]
Verifier = Callable[[str, Entry], bool]


def same_number(answer: str, entry: Entry) -> bool:
    value = values.number(answer)
    return value is not None and value == values.number(entry["answer"])


def same_text(answer: str, entry: Entry) -> bool:
    return _words(answer) == _words(entry["answer"])


def same_letters(answer: str, entry: Entry) -> bool:
    return "".join(_words(answer)) == "".join(_words(entry["answer"]))


def same_grid(answer: str, entry: Entry) -> bool:
    return _rows(answer) == _rows(entry["answer"])


def same_list(answer: str, entry: Entry) -> bool:
    found, right = ([item.strip() for item in text.split(",")] for text in (answer, entry["answer"]))
    return found == right


def same_json(answer: str, entry: Entry) -> bool:
    return _same_value(_json(answer), _json(entry["answer"]))


def same_hexadecimal(answer: str, entry: Entry) -> bool:
    form = re.compile(r"([-+]?)\s*(0x[0-9a-f]{1,200}|[0-9]{1,200})", re.IGNORECASE)
    found, right = form.fullmatch(answer.strip()), form.fullmatch(entry["answer"].strip())
    return found is not None and right is not None and _integer(found) == _integer(right)


def same_fraction(answer: str, entry: Entry) -> bool:
    found, right = _fraction(answer), _fraction(entry["answer"])
    return found is not None and found == right


def same_complex(answer: str, entry: Entry) -> bool:
    value = _complex(answer)
    return value is not None and value == _complex(entry["answer"])


def same_coordinates(answer: str, entry: Entry) -> bool:
    found, right = _coordinates(answer), _coordinates(entry["answer"])
    return found is not None and found == right


def same_roots(answer: str, entry: Entry) -> bool:
    """Every root once, in any order; an empty answer if there are none."""
    found, right = (_list_of_numbers(text.strip().strip('"')) for text in (answer, entry["answer"]))
    return found is not None and right is not None and Counter(found) == Counter(right)


def sorted_numbers(answer: str, entry: Entry) -> bool:
    found, right = (_json(text.replace("'", '"')) for text in (answer, entry["answer"]))
    if not isinstance(found, list) or not isinstance(right, list):
        return False
    given, wanted = (values.numbers([str(n) for n in one]) for one in (found, right))
    return given is not None and given == wanted


def probability(answer: str, entry: Entry) -> bool:
    """The exact probability, or the family's decimal form of it."""
    exact, value = entry["metadata"]["rational"], values.number(answer)
    right = Fraction(exact["numerator"], exact["denominator"])
    return value is not None and value in (right, values.number(entry["answer"]))


def three_figures(answer: str, entry: Entry) -> bool:
    """The value rounded to three significant figures, or the family's own value."""
    value, right = values.number(answer), values.number(entry["answer"])
    return value is not None and right is not None and value in (right, *_rounded(right, 3))


def two_decimals(answer: str, entry: Entry) -> bool:
    """A matrix whose elements are the family's, exactly or rounded to two decimals."""
    found, right = _rows(answer), _rows(entry["answer"])
    if [len(row) for row in found] != [len(row) for row in right]:
        return False
    return all(
        _is_at_two_decimals(a, b)
        for x, y in zip(found, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def makes_24(answer: str, entry: Entry) -> bool:
    return _makes(answer, 24, entry["metadata"]["numbers"])


def makes_target(answer: str, entry: Entry) -> bool:
    return _makes(answer, entry["metadata"]["target"], entry["metadata"]["numbers"])


def antiderivative(answer: str, entry: Entry) -> bool:
    """Raises NotReadable if the entry has no readable integrand."""
    about = entry["metadata"]
    integrand, variable = about.get("integrand"), about.get("variable")
    if not isinstance(integrand, str) or not isinstance(variable, str):
        raise NotReadable("the entry's metadata have no integrand and variable")
    return is_antiderivative(answer, integrand=integrand, variable=variable)


def same_polynomial(answer: str, entry: Entry) -> bool:
    return is_same_form(answer, entry["answer"])


def palindrome_partitions(answer: str, entry: Entry) -> bool:
    """Every partition once, in any order."""
    found, right = _json(answer), entry["metadata"]["solution"]
    if not isinstance(found, list) or not all(_is_list_of_text(one) for one in found):
        return False
    return sorted(found) == sorted(right)


def roles(answer: str, entry: Entry) -> bool:
    """One role for each person, in any order."""
    found = _roles(answer)
    return found is not None and found == _roles(entry["answer"])


def queens(answer: str, entry: Entry) -> bool:
    return _rows(answer) in [_rows(board) for board in entry["metadata"]["valid_answers"]]


def weighted_sums(answer: str, entry: Entry) -> bool:
    """Kakurasu: a grid of 0 and 1. A row's sum adds the column numbers of its ones; a column's likewise."""
    about, rows = entry["metadata"], _rows(answer)
    if len(rows) != about["n_rows"] or any(len(row) != about["n_cols"] for row in rows):
        return False
    if any(cell not in ("0", "1") for row in rows for cell in row):
        return False
    down = [list(column) for column in zip(*rows, strict=True)]
    return _sums(rows) == about["row_sums"] and _sums(down) == about["col_sums"]


VERIFIERS: dict[str, tuple[Verifier, str]] = {  # family -> (verifier, what the library's scorer does)
    "advanced_geometry": (same_coordinates, "ignores the third decimal that is asked for"),
    "arc_agi": (same_grid, "rejects every answer once its entry went through JSON"),
    "binary_matrix": (same_grid, "executes the answer"),
    "bitwise_arithmetic": (same_hexadecimal, "executes the entry's problem"),
    "chain_sum": (same_number, "accepts commas anywhere"),
    "coin_flip": (probability, "accepts errors below 1e-4, so 0 for a small probability"),
    "complex_arithmetic": (same_complex, "accepts nan, and errors below 1e-16"),
    "countdown": (makes_target, "executes the answer"),
    "decimal_arithmetic": (same_number, "accepts a wrong last digit"),
    "decimal_chain_sum": (same_number, "accepts several notations of a number"),
    "figlet_font": (same_letters, "accepts ten right letters followed by others"),
    "fraction_simplification": (same_fraction, "accepts a fraction followed by anything"),
    "game_of_life": (same_json, "accepts boards with extra rows and cells"),
    "game_of_life_halting": (same_text, "accepts any text"),
    "gsm_symbolic": (same_number, "accepts the first number without its sign"),
    "intermediate_integration": (antiderivative, "executes the answer; accepts the unevaluated integral"),
    "kakurasu": (weighted_sums, "reads the digits 0 and 1 out of any text"),
    "knights_knaves": (roles, "accepts two roles for one person"),
    "letter_jumble": (same_text, "accepts extra words"),
    "n_queens": (queens, "executes the answer"),
    "number_format": (same_number, "accepts errors below 0.01"),
    "number_sorting": (sorted_numbers, "accepts numbers that are off by 1"),
    "palindrome_partitioning": (
        palindrome_partitions,
        "accepts repeated partitions, and words for lists of letters",
    ),
    "polynomial_equations": (same_roots, "accepts any text if there is no root"),
    "polynomial_multiplication": (same_polynomial, "executes the answer"),
    "pool_matrix": (two_decimals, "accepts errors of one percent"),
    "power_function": (three_figures, "ignores further digits, right or wrong"),
    "products": (same_number, "accepts commas anywhere"),
    "puzzle24": (makes_24, "executes the answer; accepts any four numbers"),
    "rearc": (same_grid, "rejects every answer once its entry went through JSON"),
    "simple_integration": (antiderivative, "executes the answer; accepts the unevaluated integral"),
    "spell_backward": (same_text, "accepts extra letters, as a sum is rounded"),
    "spiral_matrix": (same_grid, "executes the answer"),
    "string_insertion": (same_text, "executes the answer"),
    "survo": (same_grid, "ignores what is not a number"),
    "time_intervals": (same_text, "accepts 38.0372 s for 38.372 s, and anything after the seconds"),
    "word_sorting": (same_list, "accepts extra words"),
}

# Families whose verifier doesn't need the library's answer, and the answer put in its place. sympy's answer
# differs between processes (cos(x)**2 or -sin(x)**2), and one in seven is an unevaluated integral.
UNANSWERED = {"intermediate_integration": "Integral({integrand}, {variable})"}

FORMS: dict[str, re.Pattern[str]] = {  # the form of answers that are passed on to the library's scorer
    "quantum_lock": re.compile(r"[A-Ca-c](?:\s*(?:→|->)\s*[A-Ca-c])*"),
    "sokoban": re.compile(r"[LRUD]+"),
    "tower_of_hanoi": re.compile(r"(?:Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+\s*(?:\n\s*|$))+"),
}


def _words(text: str) -> list[str]:
    return text.casefold().split()


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.strip().splitlines() if row.strip()]


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except NotJson:
        return None


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same_value, a, b))
    return type(a) is type(b) and a is not None and a == b


def _integer(found: re.Match[str]) -> int:
    value = int(found[2], 0) if found[2].lower().startswith("0x") else int(found[2])
    return -value if found[1] == "-" else value


def _fraction(text: str) -> tuple[int, int] | None:
    text = text.strip().strip("$").strip()
    form = r"\\[dt]?frac\s*\{\s*(-?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|(-?[0-9]+)\s*/\s*([0-9]+)"
    found = re.fullmatch(form, text)
    return found and (int(found[1] or found[3]), int(found[2] or found[4]))


def _complex(text: str) -> tuple[Fraction, Fraction] | None:
    if re.search(r"[0-9.]\s+[0-9.]", text):
        return None
    text = "".join(text.split()).replace("\u2212", "-").replace("j", "i")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    if not text.endswith("i"):
        real = values.number(text)
        return None if real is None else (real, Fraction(0))
    found = re.fullmatch(r"([-+]?[0-9.]+(?=[-+]))?([-+]?)([0-9.]*)\*?i", text)
    if found is None:
        return None
    real, size = values.number(found[1] or "0"), values.number(found[3] or "1")
    return None if real is None or size is None else (real, -size if found[2] == "-" else size)


def _coordinates(text: str) -> list[Fraction] | None:
    text = text.strip().removesuffix("\u00b0").strip()
    bare = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return values.numbers(bare.split(","))


def _list_of_numbers(text: str) -> list[Fraction] | None:
    return [] if not text.strip() else values.numbers(text.split(","))


def _rounded(value: Fraction, figures: int) -> tuple[Fraction, Fraction]:
    """The value rounded to so many significant figures, with halves to even and with halves up."""
    size = abs(value)
    if not size:
        return value, value
    unit = Fraction(10) ** -figures
    while unit * 10**figures <= size:
        unit *= 10
    while unit * 10 ** (figures - 1) > size:
        unit /= 10
    sign = -1 if value < 0 else 1
    return sign * round(size / unit) * unit, sign * int(size / unit + Fraction(1, 2)) * unit


def _is_at_two_decimals(answer: str, right: str) -> bool:
    a, b = values.number(answer), values.number(right)
    if a is None or b is None:
        return False
    half_up = Fraction(int(abs(b) * 100 + Fraction(1, 2)), 100)
    return a in (b, Fraction(round(b * 100), 100), -half_up if b < 0 else half_up)


def _makes(answer: str, target: int, given: list[int]) -> bool:
    found = values.arithmetic(answer)
    return found is not None and found[0] == target and sorted(found[1]) == sorted(given)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _roles(text: str) -> dict[str, str] | None:
    parts = [p for p in re.split(r",\s*and\s+|,|;|\s+and\s+|\n|\.", text.casefold()) if p.strip()]
    found = [re.fullmatch(r"\s*(\S+) is (?:an? )?(\S+)\s*", part) for part in parts]
    pairs = [(match[1], match[2]) for match in found if match]
    return dict(pairs) if len(pairs) == len(parts) == len(dict(pairs)) else None


def _sums(rows: list[list[str]]) -> list[int]:
    return [sum(place for place, cell in enumerate(row, 1) if cell == "1") for row in rows]
