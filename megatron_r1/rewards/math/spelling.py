"""Normalises spelling: Unicode symbols, LaTeX's spaces and sizes, full-width forms.

`spelled` gives LaTeX in ASCII as far as the characters are known; unknown ones stay, and later make the text
unreadable as mathematics. `plain` gives the words that a reader sees, for comparing text and units.
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢₓₐ", "0123456789+-nixa")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢₓₐ]+")
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi",
    "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "ϕ": "phi", "ϵ": "epsilon",
}  # fmt: skip
_SIGNS = {
    "×": "times", "✕": "times", "÷": "div", "·": "cdot", "⋅": "cdot", "∙": "cdot", "•": "cdot", "±": "pm",
    "∓": "mp", "≤": "le", "≦": "le", "⩽": "le", "≥": "ge", "≧": "ge", "⩾": "ge", "≠": "ne", "≈": "approx",
    "∈": "in", "∉": "notin", "∪": "cup", "∩": "cap", "∖": "setminus", "⊂": "subset", "⊆": "subseteq",
    "∅": "emptyset", "∞": "infty", "ℝ": "mathbb{R}", "ℤ": "mathbb{Z}", "ℕ": "mathbb{N}", "ℚ": "mathbb{Q}",
    "ℂ": "mathbb{C}", "√": "sqrt", "∛": "sqrt[3]", "∜": "sqrt[4]", "∠": "angle", "△": "triangle",
    "▵": "triangle", "∥": "parallel", "⊥": "perp", "∨": "lor", "∧": "land", "…": "ldots", "⋯": "cdots",
    "⇒": "Rightarrow", "→": "to", "≡": "equiv", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil",
    "∣": "mid", "⟨": "langle", "⟩": "rangle",
}  # fmt: skip
_SPACES = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000\t\n\r"
_NOTHING = "\u200b\u200c\u200d\u2060\ufeff\u2061\u2062"
_ALIKE = {
    "\u3002": ".", "\u3001": ";", "\u00b5": "\\mu ", "\u212a": "K", "\u2126": "\\Omega ", "\u2044": "/",
    "\u2215": "/", "\u2217": "*", "\u00ba": "°", "\u02da": "°", "\u2103": "°C", "\u2109": "°F",
    "\u2032": "'", "\u2033": "''", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    "\u2113": "l", "\u2236": ":",
}  # fmt: skip
_VULGAR = {  # ½ and its like
    ord(c): rf"\frac{{{top}}}{{{bottom}}}"
    for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
    for top, bottom in [unicodedata.normalize("NFKC", c).split("\u2044")]
}
_CHARACTERS = {
    **{ord(sign): f"\\{name} " for sign, name in (GREEK | _SIGNS).items()},
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width ASCII
    **dict.fromkeys(map(ord, "\u2212\u2013\u2010\u2011\ufe63"), "-"),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **dict.fromkeys(map(ord, _NOTHING), ""),
    **{ord(sign): spelling for sign, spelling in _ALIKE.items()},
    **_VULGAR,
}
_SPACING = r"q?quad|thinspace|enspace|medspace|thickspace|nobreak|hspace\*?\{[^{}]*\}"
_DEGREE = r"\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z])"
_COMMANDS = (
    (re.compile(r",\s*\\!\s*|\{\s*,\s*\}"), "{,}"),  # a comma that is no separator
    (re.compile(r"\\(?:[Bb]igg?[lrm]?|left|middle|right)(?![A-Za-z])\.?"), " "),
    (re.compile(r"\\(?:!|displaystyle|textstyle|limits|nolimits|strut|relax|hfill)(?![A-Za-z])|\\!"), ""),
    (re.compile(rf"(?<!\\)\\(?:[,;: ]|(?:{_SPACING})(?![A-Za-z]))|~"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(rf"(?:\^\s*)?(?:{_DEGREE})|\^\s*\{{?\s*°\s*\}}?|\\textdegree(?![A-Za-z])"), "°"),
    (re.compile(r"\^\s*\{?\s*(\\prime(?:\s*\\prime)?)\s*\}?"), lambda m: "'" * m[1].count("prime")),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"(?<!\\)\\[()\[\]]"), " "),
)  # fmt: skip
FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mathcal|mathnormal|"
    "operatorname\\*?|mbox|hbox|boldsymbol|bm|pmb|emph|rm|bf|it|unit|si"
)
_FONT = re.compile(rf"\\(?:{FONTS})(?![A-Za-z])\s*")
_OVERLINED, _DOTTED = re.compile("(?:[0-9]\u0305)+"), re.compile("([0-9])\u0307")
_DOLLAR = re.compile(r"(?<!\\)\$")
_OLD_FONT = re.compile(r"\{\s*\\(rm|bf|it)(?![A-Za-z])\s*([^{}]*)\}")


def spelled(text: str) -> str:
    """The text in normalised spelling. Linear in its length."""
    if not text.isascii():
        text = _OVERLINED.sub(lambda m: rf"\overline{{{m[0][::2]}}}", text)
        text = _DOTTED.sub(r"\\dot{\1}", text)
        text = _SUPERSCRIPT.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
        text = _SUBSCRIPT.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
        text = text.translate(_CHARACTERS)
    if (dollars := len(_DOLLAR.findall(text))) and dollars % 2 == 0:
        text = _DOLLAR.sub(" ", text)  # they enclose mathematics
    for pattern, spelling in _COMMANDS:
        text = pattern.sub(spelling, text)
    return _OLD_FONT.sub(r"\\text{\2}", text).strip()


_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_PLAIN = (
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\\mu(?![A-Za-z])\s*"), "µ"),
    (re.compile(r"\\Omega(?![A-Za-z])"), "Ω"),
    (re.compile(r"\\([%$&#_{}])"), r"\1"),
    (re.compile(r"\s*\\([A-Za-z]+)\s*"), r" \1 "),
    (re.compile(r"[{}]"), ""),
    (re.compile(r"\s*([-+*/^=<>()\[\],;:!|])\s*"), r"\1"),
    (re.compile(r"\s+"), " "),
)
TWO_LETTERS = frozenset((  # words, where other pairs of letters are a product
    "no", "on", "so", "of", "is", "it", "in", "at", "am", "an", "as", "be", "by", "do", "go", "he", "if",
    "me", "my", "or", "to", "up", "us", "we", "yes",
))  # fmt: skip
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_EDGES = " .!?\"'`,;:"


def plain(text: str) -> str:
    """The words that a reader of the (spelled) text sees, without punctuation and quotes at the ends."""
    text = _FRACTION.sub(r"(\1)/(\2)", _FONT.sub("", text))
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    text = unicodedata.normalize("NFKC", text)
    text = text.strip(_EDGES.replace("'", "") if "°" in text else _EDGES)  # 45°30'
    while len(text) > 2 and text[0] == "(" and text[-1] == ")" and "(" not in text[1:]:
        text = text[1:-1].strip(_EDGES)
    return text


def normal(text: str) -> str:
    """`plain` with words in lower case; formulas keep their capitals."""
    text = plain(text)
    lower = text.casefold()
    return lower if _LONG_WORD.search(text) or " " in text or lower in TWO_LETTERS else text
