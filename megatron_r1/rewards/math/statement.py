"""Parser of answers: a number, quantity, list, relation, set, time, ratio, or text.

An answer is split at commas, `and` and `or` outside brackets, and each item at its relations; each side is a
formula with or without a unit. An item that can't be parsed to its last token is text as a whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_r1.rewards.math.cursor import outside_brackets, split
from megatron_r1.rewards.math.expression import (
    Node,
    NotMathematics,
    add,
    fraction_of,
    free_symbols,
    multiply,
    negative,
    number,
)
from megatron_r1.rewards.math.formula import Formula
from megatron_r1.rewards.math.functions import function_name
from megatron_r1.rewards.math.literals import TooLarge, is_ambiguous
from megatron_r1.rewards.math.phrases import (
    chinese_fraction,
    compound,
    is_clock,
    scale_of,
    set_in_words,
    time_of_day,
    with_currency,
)
from megatron_r1.rewards.math.spelling import TWO_LETTERS, normal, plain, spelled
from megatron_r1.rewards.math.tokens import LETTERS, SETS, WORDS_OF_MATHEMATICS, Token, tokens_of
from megatron_r1.rewards.math.units import NOTHING, Unit, known_unit, product_of_units, read_unit

RELATIONS = ("=", "!=", "<", "<=", ">", ">=", "~", "in", "notin")
MAX_CHARS = 4_000  # after `spelled`, which may turn a character into a command
MAX_SIGNS = 6  # number of \pm in an item
_AND, _OR = ("and", "as well as", "和", "与", "以及", "&"), ("or", "或", "或者", "或是")
_FUNCTION_NAME = re.compile(r"[A-Za-z](?:_\w+)?'*\([A-Za-z](?:,[A-Za-z])*\)|[fghFGHPEV](?:_\w+)?'*\([^()]*\)")
_WORDS = re.compile(r"[^\W\d_][\w .]*(?:\([\w ]+\))?")
_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}")
_SYSTEM = re.compile(
    r"(?:\\\{\s*)?\\begin\s*\{(?P<name>cases|aligned|gathered)\}(?P<rows>.*)\\end\s*\{(?P=name)\}|"
    r"\\\{\s*\\begin\s*\{array\}\s*\{[lcr|\s]*\}(?P<array>.*)\\end\s*\{array\}",
    re.DOTALL,
)
_LETTER = re.compile(r"[^\W\d_]")
_VARIABLES = re.compile(r"[xyzuvw]+|[abc]{2}|[pqr]{2}|[mn]{2}")


@dataclass(frozen=True, slots=True)
class Statement:
    """readings: the possible trees of the text, the most likely first. text: in normalised spelling."""

    readings: tuple[Node, ...]
    text: str


def read_statement(text: str) -> Statement:
    """The statement of any text. Raises TooLarge for numbers or brackets beyond the limits."""
    text = spelled(text)
    if len(text) > MAX_CHARS:
        raise TooLarge(f"more than {MAX_CHARS} characters")
    modes = (True, False) if is_ambiguous(text) else (True,)
    return Statement(tuple(dict.fromkeys(_Reader(text, commas=commas).statement() for commas in modes)), text)


class _Reader:
    def __init__(self, source: str, *, commas: bool) -> None:
        self.source = source
        self._commas = commas
        self.tokens = tokens_of(source, commas=commas)

    def statement(self) -> Node:
        whole = plain(self.source)
        if _DATE.fullmatch(whole):
            return self._as_text(self.tokens)
        phrase = set_in_words(whole) or time_of_day(whole) or compound(whole) or chinese_fraction(whole)
        return phrase or self._system() or self._list(self.tokens) or self._as_text(self.tokens)

    def _system(self) -> Node | None:
        """The rows of \\begin{cases} x=1 \\\\ y=2 \\end{cases} as a list."""
        match = _SYSTEM.fullmatch(self.source)
        if match is None:
            return None
        return _Reader(
            (match["rows"] or match["array"] or "").replace("&", " "), commas=self._commas
        ).statement()

    def _list(self, tokens: Sequence[Token]) -> Node | None:
        pieces, word = _pieces(tokens)
        items = [item for piece in pieces for item in _alternatives(self._item(piece))]
        if len(items) < 2:
            return items[0] if items else None
        return Node("list", tuple(_all_named(items)), word)

    def _item(self, tokens: Sequence[Token]) -> Node:
        try:
            return self._relation(tokens)
        except NotMathematics:
            if len(tokens) == 1 and tokens[0].kind == "text" and tokens[0].text != self.source:
                return _Reader(tokens[0].text, commas=True).statement()
            return self._as_text(tokens)

    def _relation(self, tokens: Sequence[Token]) -> Node:
        sides = split(tokens, RELATIONS)
        if not sides[0] and tokens and tokens[0].text in ("=", "~"):  # `= 5`
            return self._relation(tokens[1:])
        if len(sides) == 1:
            return self._side(tokens)
        places = [len(side) for side in sides[:-1]]
        operators = [tokens[sum(places[: i + 1]) + i].text for i in range(len(places))]
        nodes = [self._left(sides[0]), *(self._side(side) for side in sides[1:])]
        return Node("relation", tuple(nodes), " ".join(operators))

    def _left(self, tokens: Sequence[Token]) -> Node:
        """The left side of a relation, which may be a function (`f(x) = 2x`) or words (`Area = 5`)."""
        text = plain(self._text(tokens))
        if len(tokens) == 1 and tokens[0].kind == "letter":  # e is no constant there
            return Node("symbol", value=tokens[0].text)
        if _FUNCTION_NAME.fullmatch(text):
            return Node("symbol", value=text)
        try:
            return self._side(tokens)
        except NotMathematics:
            if _WORDS.fullmatch(text):
                return Node("symbol", value=text.casefold())
            raise

    def _side(self, tokens: Sequence[Token]) -> Node:
        if not tokens:
            raise NotMathematics("nothing on a side")
        for sign, op in (("minus", "minus"), ("cup", "union"), ("cap", "intersection")):
            parts = split(tokens, (sign,))
            if len(parts) > 1:
                return Node(op, tuple(self._side(part) for part in parts))
        parts = split(tokens, (":",))
        if len(parts) > 1:
            return self._ratio(parts)
        return self._set(tokens) or self._product_of_quantities(tokens) or self._quantity(tokens)

    def _ratio(self, parts: Sequence[Sequence[Token]]) -> Node:
        sides = [self._quantity(part) for part in parts]
        is_tight = not any(part[0].spaced for part in parts[1:])
        shape = ":".join(self._text(part).strip() for part in parts)
        return Node("ratio", tuple(sides), "clock" if is_tight and is_clock(shape) else None)

    # Sets and brackets

    def _set(self, tokens: Sequence[Token]) -> Node | None:
        first, last = tokens[0], tokens[-1]
        if len(tokens) == 1:
            if first.kind == "set":
                return Node("named", value=SETS[first.text])
            if first.kind == "sign" and first.text in ("emptyset", "..."):
                return Node("set") if first.text == "emptyset" else Node("symbol", value="...")
            return None
        ends, inside = (first.text, last.text), tokens[1:-1]
        if ends == ("{", "}"):  # {1,2,3} without the backslashes
            return self._bracket(inside, "{|", "|}") if len(split(inside, (",", ";"))) > 1 else None
        if ends == ("]", "["):
            return self._bracket(inside, "(", ")")
        if ends == ("{|", "|}") or (first.text in ("(", "[") and last.text in (")", "]")):
            return self._bracket(inside, *ends)
        return None

    def _bracket(self, inside: Sequence[Token], opening: str, closing: str) -> Node | None:
        """A set, a tuple or an interval; None for brackets that only group."""
        if opening == "{|":
            builder = split(inside, ("|", ":"))
            if len(builder) == 2 and len(split(builder[1], RELATIONS)) > 1:
                return self._list(builder[1])
            return Node("set", tuple(self._elements(inside)))
        if opening == "{" or len(split(inside, (",", ";"))) == 1:
            return None
        return Node("bracket", tuple(self._elements(inside)), opening + closing)

    def _elements(self, tokens: Sequence[Token]) -> list[Node]:
        parts = split(tokens, (";",)) if len(split(tokens, (";",))) > 1 else split(tokens, (",",))
        return [element for part in parts if part for element in _alternatives(self._item(part))]

    # Quantities

    def _quantity(self, tokens: Sequence[Token]) -> Node:
        if not tokens:
            raise NotMathematics("nothing on a side")
        if (parts := compound(plain(self._text(tokens)))) is not None:
            return parts
        tokens, currency = _without_currency(tokens)
        if _is_wordy(tokens):
            raise NotMathematics("words")
        formula = self._formula(tokens, units=True)
        value = formula.nested(formula.sum)
        left = formula.tokens[formula.position :]
        unit, tail = currency, self._text(left)
        if tail:
            factor, rest = scale_of(plain(tail))
            value, tail = (value, tail) if factor == 1 else (multiply([value, number(factor)]), rest)
            unit = self._unit(left[0], tail, currency)
            if unit.dimension is None and left[0].kind in ("letter", "run") and free_symbols(value):
                raise NotMathematics("words")
        if value.op == "degrees" and unit is NOTHING:
            value, unit = value.args[0], known_unit("°") or NOTHING
        if unit is NOTHING:
            return value
        product = None if currency is not NOTHING else self._as_product(tokens, left)
        return Node("quantity", (value,) if product is None else (value, product), unit)

    def _product_of_quantities(self, tokens: Sequence[Token]) -> Node | None:
        """5 cm × 3 cm; None if only the last factor has a unit, or one is neither quantity nor number."""
        parts = split(tokens, ("*",))
        if len(parts) < 2 or not all(parts):
            return None
        try:
            factors = [self._quantity(part) for part in parts]
        except NotMathematics:
            return None
        units = [node.value for node in factors if isinstance(node.value, Unit)]
        is_number = all(node.op == "quantity" or fraction_of(node) is not None for node in factors)
        if all(node.op != "quantity" for node in factors[:-1]) or not is_number:
            return None
        unit = product_of_units(units)
        values = [node.args[0] if node.op == "quantity" else node for node in factors]
        product = self._as_product(tokens, tokens)
        value = multiply(values)
        return None if unit is None else Node("quantity", (value, product) if product else (value,), unit)

    def _unit(self, first: Token, tail: str, currency: Unit) -> Unit:
        """The unit after a value. Only a known unit may begin with a sign."""
        unit = read_unit(tail)
        is_word = first.kind in ("letter", "run", "text")
        if (
            unit is None
            or (unit is NOTHING and not is_word and not _LETTER.search(tail))
            or (unit.dimension is None and not is_word)
        ):
            raise NotMathematics("what stands behind the value is no unit")
        if currency is NOTHING or unit in (currency, NOTHING):
            return unit if currency is NOTHING else currency
        both = plain(f"{currency.text} {tail}")  # $5 per hour
        return known_unit(both) or Unit(normal(both))

    def _as_product(self, tokens: Sequence[Token], left: Sequence[Token]) -> Node | None:
        """The value times its unit's letters if these may be variables, as in 5 m."""
        kinds = ("letter", "run", "sign", "number")
        if not left or any(token.kind not in kinds or len(token.text) > 3 for token in left):
            return None
        formula = self._formula(tokens, units=False)
        try:
            product = formula.nested(formula.sum)
        except NotMathematics:
            return None
        return product if formula.peek() is None else None

    def _formula(self, tokens: Sequence[Token], *, units: bool) -> Formula:
        return Formula(tokens, self.source, bracket=self._bracket, units=units)

    def _text(self, tokens: Sequence[Token]) -> str:
        return self.source[tokens[0].start : tokens[-1].end] if tokens else ""

    def _as_text(self, tokens: Sequence[Token]) -> Node:
        return Node("text", value=normal(self._text(tokens)))


def _pieces(tokens: Sequence[Token]) -> tuple[list[Sequence[Token]], str]:
    """The tokens split at top-level commas and conjunctions, and what joins them: and, or, comma."""
    pieces: list[Sequence[Token]] = []
    begin, word = 0, "comma"
    for at, token in outside_brackets(tokens):
        conjunction = _conjunction(token)
        if conjunction:
            word = conjunction if conjunction != "comma" else word
            pieces.append(tokens[begin:at])
            begin = at + 1
    pieces.append(tokens[begin:])
    return [piece for piece in pieces if any(t.kind != "text" or t.text for t in piece)], word


def _conjunction(token: Token) -> str | None:
    if token.kind == "sign" and token.text in (",", ";", "newline"):
        return "comma"
    if token.kind in ("text", "run", "sign"):
        word = token.text.strip(" ,;~").casefold()
        return "and" if word in _AND else "or" if word in _OR else None
    return None


def _alternatives(node: Node) -> list[Node]:
    """The two items of one with \\pm."""
    signs = sum(part.op == "either" for part in node.walk())
    return [_chosen(node, plus=True), _chosen(node, plus=False)] if 0 < signs <= MAX_SIGNS else [node]


def _chosen(node: Node, *, plus: bool) -> Node:
    """The tree with each \\pm decided: + (and \\mp -) or the reverse."""
    args = tuple(_chosen(arg, plus=plus) for arg in node.args)
    if node.op == "either":
        return args[0] if (node.value == "pm") == plus else negative(args[0])
    if node.op in ("add", "mul"):
        return add(args) if node.op == "add" else multiply(args)
    return Node(node.op, args, node.value)


def _all_named(items: list[Node]) -> list[Node]:
    """The items with the first one's name for all: `n = 2, 3, 4`."""
    first = items[0]
    is_named = first.op == "relation" and first.value == "=" and first.args[0].op == "symbol"
    if is_named and all(item.op not in ("relation", "text") for item in items[1:]):
        return [first, *(Node("relation", (first.args[0], item), "=") for item in items[1:])]
    return items


def _without_currency(tokens: Sequence[Token]) -> tuple[Sequence[Token], Unit]:
    """The tokens without a currency sign in front (-$5 or $-5), and the currency."""
    begin = 1 if tokens[0].text == "-" else 0
    found = with_currency([token.text for token in tokens[begin : begin + 2]])
    if found is None or len(tokens) <= begin + found[0]:
        return tokens, NOTHING
    return [*tokens[:begin], *tokens[begin + found[0] :]], found[1]


def _is_wordy(tokens: Sequence[Token]) -> bool:
    """Whether a side contains only letters that are words rather than a product."""
    if not all(token.kind in ("run", "letter") for token in tokens):
        return False
    words = [token.text for token in tokens if token.kind == "run" and not _is_known(token.text)]
    if len(tokens) == 1:
        return any(not _may_be_product(word) for word in words)
    return any(len(word) > 2 or not word.isascii() or word.casefold() in TWO_LETTERS for word in words)


def _may_be_product(word: str) -> bool:
    if not word.isascii():
        return False
    is_pair = len(word) == 2 and (word.isupper() or word.islower()) and word not in TWO_LETTERS
    return is_pair or _VARIABLES.fullmatch(word) is not None


def _is_known(word: str) -> bool:
    return word in WORDS_OF_MATHEMATICS or word in LETTERS or function_name(word) is not None
