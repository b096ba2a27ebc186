"""Each filter on cases made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.curation.filters import (
    Filters,
    has_code_block,
    longest_paragraph,
    repetition,
    speaks,
)
from megatron_r1.curation.words import words
from tests.rewards.samples import completion

GOOD = "<think> first we add seven and eight </think><answer> 15 </answer>"


def reason(text, *, language="en", finished=True, num_tokens=20, **options):
    sample = completion(text, language=language, finished=finished, num_tokens=num_tokens)
    return Filters(**options).reason(sample)


def test_a_good_sample_stays():
    assert reason(GOOD) is None


@pytest.mark.parametrize(
    ("why", "text", "options"),
    [
        ("malformed", "first we add <answer> 15 </answer>", {}),
        ("unreadable", GOOD.replace("seven", "se\ufffden"), {}),
        ("unreadable", GOOD.replace("seven", " \u2047 "), {}),
        ("mixed", "<think> 我们 先 add seven 和 eight </think><answer> 15 </answer>", {}),
        ("language", "<think> 我们 先 加 七 和 八 </think><answer> 15 </answer>", {"min_language": 0.9}),
        ("code", "<think> so\n```python\nprint(7 + 8)\n```\n</think><answer> 15 </answer>", {}),
        ("paragraph", f"<think> {'we add ' * 40}</think><answer> 15 </answer>",
         {"max_paragraph": 200, "max_repetition": None}),
        ("repetition", f"<think> {'wait, let me check it once more. ' * 9}</think><answer> 15 </answer>", {}),
        ("short", GOOD, {"min_tokens": 21}),
        ("long", GOOD, {"max_tokens": 19}),
    ],
)  # fmt: skip
def test_a_bad_sample_is_left_out_for_the_reason(why, text, options):
    assert reason(text, **options) == why


def test_an_unfinished_sample_is_cut_whatever_its_text():
    assert reason(GOOD, finished=False) == "cut"


def test_null_and_false_turn_a_filter_off():
    text = "我们 add\n```\n1\n```\n" + "wait, let me check it once more. " * 9
    assert reason(text, form=None, mixed=False, code_blocks=False, max_repetition=None) is None


def test_the_summary_form_is_reasoning_and_then_text():
    text = "<think> seven and eight </think> the answer is <answer> 15 </answer>"
    assert reason(text) == "malformed"
    assert reason(text, form="summary") is None


@pytest.mark.parametrize(
    ("chain", "language", "kept"),
    [
        ("seven plus eight is fifteen", "en", True),
        ("七 加 八 得 十五", "zh", True),
        ("七 加 八 得 十五", "en", False),
        ("7 + 8 = 15", "en", False),  # no word at all
        ("seitsemän plus kahdeksan", "fi", False),  # can't be told from English by its script
    ],
)
def test_a_chain_speaks_a_language_only_if_that_can_be_told(chain, language, kept):
    assert speaks(chain, language, at_least=0.9) is kept


def test_code_within_a_line_is_no_block():
    assert not has_code_block("call `print(1)` and see ```1``` there")
    assert has_code_block("so:\n  ~~~\nx = 1\n~~~")


def test_paragraphs_end_at_blank_lines():
    assert longest_paragraph("abc\ndef\n \nab") == 7
    assert longest_paragraph("") == 0


def test_repetition_counts_runs_that_were_there_before():
    assert repetition("a b c d e f g h") == 0
    assert repetition("a b c d e f g") == 0  # shorter than a run
    # 24 words, 17 runs of 8; from the ninth on each is one of the first eight
    assert repetition("a b c d e f g h " * 3) == pytest.approx(9 / 17)


def test_words_are_runs_of_letters_digits_or_one_sign():
    assert words("Add 12+3 = 加法x_1") == ["add", "12", "+", "3", "=", "加", "法", "x", "_", "1"]


@given(st.text(max_size=400))
def test_any_text_gets_a_verdict(text):
    assert reason(text, min_language=0.5, max_paragraph=100) in {
        None, "malformed", "unreadable", "mixed", "language", "code", "paragraph", "repetition",
    }  # fmt: skip
    assert 0 <= repetition(text) < 1
