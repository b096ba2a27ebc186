"""Language consistency: the share of target-language words in the chain of thought.

DeepSeek-R1, section 2.3.2: "the proportion of target language words in the CoT", added to the accuracy.
Languages are told apart by script. This separates zh, en, ja, ko, ru, ar, hi, el, th and he, but nothing
else: a target such as fi can't be told from English and is ungradable. Likewise Finnish words in an English
chain of thought count as English, and so does Chinese in Latin letters.

A word is a run of letters of one script. Han, kana and Thai have no spaces between words, so n letters count
as n / (letters per word) words, at least one: 1.6 for Han (Chinese Treebank 5: 824,983 characters in 507,222
words), 2 for kana, 4 for Thai (rough). Letters of any other script, and private and unassigned characters,
are words of "other", 4 letters each. A single Latin or Greek letter is a variable, not a word. Accents,
zero-width and control characters are ignored; styled letters (full-width, mathematical bold, circled) count
as the plain letters.

A word belongs to the target language if its script does; all other words are foreign. Han without kana is not
Japanese: it counts as Japanese up to three words for each word of kana.

Neutral, neither target nor foreign: numbers and signs, the template's tags, mathematics, code, LaTeX
commands, names of functions (rewards/notation.py). Latin words disguised as notation count as foreign where
Latin is foreign, and are not counted where it is the target's script. The same holds for each distinct name
in notation beyond MANY_NAMES + NAMES_A_WORD per word of prose, since one word does not make a page of
notation prose. A chain of thought without words scores 0, so that an empty one doesn't earn the reward.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from megatron_r1.rewards.answers.answer import chain_of_thought
from megatron_r1.rewards.base import RewardConfig
from megatron_r1.rewards.format import BLANKS
from megatron_r1.rewards.notation import LATIN, without_notation
from megatron_r1.types import Completion, Score

MIXED_SHARE = 0.05  # a text is mixed from this share of words outside its main language
MANY_NAMES, NAMES_A_WORD = 10, 3  # distinct names that count as notation: in any text, and per word of prose
HAN_A_KANA = 3  # words of Han that count as Japanese for each word of kana

_SCRIPTS = {  # name -> (letters, letters per word; None where spaces separate words)
    "latin": (LATIN, None),
    "han": ("\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af", 1.6),
    "kana": ("\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001b000-\U0001b16f", 2.0),
    "hangul": ("\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb", None),
    "cyrillic": ("\u0400-\u052f\u1c80-\u1c8a\ua640-\ua69f", None),
    "arabic": ("\u0620-\u064a\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f\u0870-\u08c9", None),
    "devanagari": ("\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff", None),
    "greek": ("\u0370-\u03ff\u1f00-\u1fff", None),
    "thai": ("\u0e01-\u0e4e", 4.0),
    "hebrew": ("\u05d0-\u05f2", None),
}
OTHER = "other"
OTHER_LETTER, OTHER_LETTERS_A_WORD = "\u16a0", 4.0  # stands for every letter of another script
SCRIPTS_OF = {
    "en": ("latin",),
    "zh": ("han",),
    "ja": ("han", "kana"),
    "ko": ("hangul",),
    "ru": ("cyrillic",),
    "ar": ("arabic",),
    "hi": ("devanagari",),
    "el": ("greek",),
    "th": ("thai",),
    "he": ("hebrew",),
}

_LETTER_OF_A_SCRIPT = re.compile("[" + "".join(chars for chars, _ in _SCRIPTS.values()) + "]")
_WORD = re.compile(
    "|".join(
        f"(?P<{name}>[{chars}]+(?:['\u2019][{chars}]+)*)"
        for name, chars in [*((name, chars) for name, (chars, _) in _SCRIPTS.items()), (OTHER, OTHER_LETTER)]
    )
)
_STYLED = re.compile("[\u249c-\u24e9\U0001f110-\U0001f189]")  # Latin in brackets, circles and squares


def language_counts(text: str) -> dict[str, int]:
    """Number of words by script (latin, han, kana, ..., other), without tags, mathematics and code."""
    return _counts(text)[0]


def language_share(text: str, language: str) -> float | None:
    """Share of the words in the language; None without words, or for a language not in SCRIPTS_OF."""
    if language not in SCRIPTS_OF:
        return None
    counts, disguised = _counts(text)
    own = sum(counts.get(script, 0) for script in SCRIPTS_OF[language])
    if language == "ja":
        kana = counts.get("kana", 0)
        own = kana + min(counts.get("han", 0), HAN_A_KANA * kana)
    total = sum(counts.values()) + (0 if "latin" in SCRIPTS_OF[language] else disguised)
    return own / total if total else None


def is_mixed(text: str) -> bool:
    """Whether MIXED_SHARE or more of the words are outside the main language; for reports and filters."""
    counts, disguised = _counts(text)
    if "kana" in counts:  # Japanese: its Han characters are its own
        counts["kana"] += counts.pop("han", 0)
    main = max(counts, key=lambda script: counts[script], default="latin")
    total = sum(counts.values()) + (0 if main == "latin" else disguised)
    return total > 0 and total - counts.get(main, 0) >= MIXED_SHARE * total


def _counts(text: str) -> tuple[dict[str, int], int]:
    """Number of words by script, and of Latin words disguised as notation."""
    prose, taken = without_notation(_plain(text))
    counts: dict[str, int] = {}
    for match in _WORD.finditer(prose):
        script = match.lastgroup
        assert script is not None
        words = _num_words(match.group(), script)
        if words:
            counts[script] = counts.get(script, 0) + words
    excess = len(taken.names) - MANY_NAMES - NAMES_A_WORD * sum(counts.values())
    return counts, taken.words + max(0, excess)


def _num_words(run: str, script: str) -> int:
    letters_a_word = OTHER_LETTERS_A_WORD if script == OTHER else _SCRIPTS[script][1]
    if letters_a_word is not None:
        return max(1, round(len(run) / letters_a_word))
    return 0 if len(run) == 1 and script in ("latin", "greek") else 1


def _plain(text: str) -> str:
    """The text with plain letters of _SCRIPTS or OTHER_LETTER, without accents and invisible characters."""
    return text.translate({ord(c): _plain_character(c) for c in set(text) if not c.isascii() or c < " "})


def _plain_character(c: str) -> str:
    kind = unicodedata.category(c)
    if c in BLANKS:
        return " "
    if c.isspace() or _LETTER_OF_A_SCRIPT.match(c):
        return c
    if kind[0] == "L" or _STYLED.match(c):
        same = unicodedata.normalize("NFKC", c)
        return same if all(_LETTER_OF_A_SCRIPT.match(s) for s in same.strip("()")) else OTHER_LETTER
    if kind in ("Co", "Cn", "Cs"):
        return OTHER_LETTER
    return "" if kind[0] in "MC" else c


class LanguageReward:
    def score(self, completions: Sequence[Completion]) -> list[Score]:
        return [_score(completion) for completion in completions]


def _score(completion: Completion) -> Score:
    language = completion.prompt.language
    if language not in SCRIPTS_OF:
        known = ", ".join(SCRIPTS_OF)
        return Score(None, f"language {language!r} can't be told by script (only {known} can)")
    share = language_share(chain_of_thought(completion.text), language)
    return Score(0.0, "no words in the chain of thought") if share is None else Score(share)


class Language(RewardConfig):
    """Share of the chain of thought's words that are in the prompt's language."""

    detector: Literal["script"] = "script"
    """How languages are told apart: by Unicode script."""

    def build(self) -> LanguageReward:
        return LanguageReward()


REWARD = Language
