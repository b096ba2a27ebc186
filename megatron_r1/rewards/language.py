"""Language consistency: the share of target-language words in the chain of thought.

DeepSeek-R1, section 2.3.2: "the proportion of target language words in the CoT", added to the accuracy.
Languages are told apart by script, so this decides zh, en, ja, ko, ru, ar, hi, el, th and he against each
other, and nothing else: a target such as fi can't be told from English and is ungradable. For the same
reason Finnish in an English chain passes.

What is a word: a run of letters of one script. Han, kana and Thai runs have no spaces between words, so
n letters count as n / (letters a word), at least one: 1.6 for Han (Chinese Treebank 5: 824,983 characters
in 507,222 words), 2 for kana, 4 for Thai (rough). Spaced Chinese words count as written either way.
A single Latin or Greek letter is a variable, not a word.

What is stripped first: tags, LaTeX commands, mathematics and code, of which letters of other scripts stay
(Chinese does not become mathematics between dollar signs), and so does a span of mathematics that reads as
prose. Latin prose inside a code block is not seen: that is the loophole that is left. A chain without words
scores 0: an empty chain must not earn what a chain in the right language earns.
"""

import re
from collections.abc import Sequence
from typing import Literal

from megatron_r1.rewards.answer import chain_of_thought
from megatron_r1.rewards.section import RewardConfig
from megatron_r1.types import Completion, Score

MIXED_SHARE = 0.05  # a chain is mixed from this share of words outside its main script

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"
_SCRIPTS = {  # name -> (letters, letters a word or None where spaces part the words)
    "latin": (_LATIN, None),
    "han": ("\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f", 1.6),
    "kana": ("\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f", 2.0),
    "hangul": ("\u1100-\u11ff\uac00-\ud7a3", None),
    "cyrillic": ("\u0400-\u052f", None),
    "arabic": ("\u0620-\u065f\u066e-\u06d3\u06fa-\u06ff\u0750-\u077f", None),
    "devanagari": ("\u0900-\u0963\u0971-\u097f", None),
    "greek": ("\u0370-\u03ff\u1f00-\u1fff", None),
    "thai": ("\u0e01-\u0e4e", 4.0),
    "hebrew": ("\u0590-\u05ff", None),
}
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

_WORD = re.compile(
    "|".join(f"(?P<{name}>[{chars}]+(?:['\u2019][{chars}]+)*)" for name, (chars, _) in _SCRIPTS.items())
)
_TAG = re.compile(r"</?[A-Za-z_]{1,32}>")
_CODE = re.compile(r"```[^`]++```|`[^`\n]++`")
_MATH = re.compile(r"\$\$[^$]++\$\$|\$[^$]++\$|\\\((?:[^\\]|\\[^()])*+\\\)|\\\[(?:[^\\]|\\[^\[\]])*+\\\]")
_LATEX_NAME = re.compile(r"\\(?:begin|end)\{[A-Za-z*]{1,32}\}|\\[A-Za-z]+")
_PROSE = re.compile(
    rf"(?<![\\{_LATIN}])[{_LATIN}]{{2,}}(?:[ ,]+[{_LATIN}]{{2,}}){{2,}}"
)  # three words in a row
_ASCII_LETTERS = re.compile("[A-Za-z]+")


def language_counts(text: str) -> dict[str, int]:
    """Words by script (latin, han, kana, ...) of the text without tags, mathematics and code."""
    counts: dict[str, int] = {}
    for match in _WORD.finditer(_without_notation(text)):
        script = match.lastgroup
        assert script is not None
        words = _num_words(match.group(), script)
        if words:
            counts[script] = counts.get(script, 0) + words
    return counts


def language_share(text: str, language: str) -> float | None:
    """Share of the words that are the language's; None without words, or for one not in SCRIPTS_OF."""
    counts = language_counts(text)
    if not counts or language not in SCRIPTS_OF:
        return None
    own = sum(counts.get(script, 0) for script in SCRIPTS_OF[language])
    return own / sum(counts.values())


def is_mixed(text: str) -> bool:
    """Whether MIXED_SHARE or more of the words are outside the main language; for reports, filters."""
    counts = language_counts(text)
    total = sum(counts.values())
    if "kana" in counts:  # Japanese: its Han characters are its own
        counts["kana"] += counts.pop("han", 0)
    return total > 0 and total - max(counts.values()) >= MIXED_SHARE * total


def _num_words(run: str, script: str) -> int:
    letters_a_word = _SCRIPTS[script][1]
    if letters_a_word is not None:
        return max(1, round(len(run) / letters_a_word))
    return 0 if len(run) == 1 and script in ("latin", "greek") else 1


def _without_notation(text: str) -> str:
    text = _TAG.sub(" ", text)
    text = _CODE.sub(lambda span: _ASCII_LETTERS.sub(" ", span.group()), text)
    text = _MATH.sub(_without_mathematics, text)
    return _LATEX_NAME.sub(" ", text)


def _without_mathematics(span: re.Match[str]) -> str:
    return span.group() if _PROSE.search(span.group()) else _ASCII_LETTERS.sub(" ", span.group())


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
    """Share of words of the prompt's language in the chain of thought."""

    detector: Literal["script"] = "script"
    """How languages are told apart: by Unicode script."""

    def build(self) -> LanguageReward:
        return LanguageReward()


REWARD = Language
