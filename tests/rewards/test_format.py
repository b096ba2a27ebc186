import time

import pytest

from megatron_r1.rewards.format import Format, is_well_formed
from tests.rewards.samples import completion


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think><answer>b</answer>",
        "<think> 7 plus 8 is 15 ; </think><answer> 15 </answer>",
        "<think>a\nb</think>\n\n<answer>b</answer>\n",
    ],
)
def test_the_templates_shape_is_well_formed(text):
    assert is_well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "<think>a</think>b",
        "<think>a</think>so <answer>b</answer>",
        "well <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer> done",
        "<think></think><answer>b</answer>",
        "<think> </think><answer>b</answer>",
        "<think>a</think><answer> </answer>",
        "a</think><answer>b</answer>",
        "<think>a<answer>b</answer></think>",
        "<answer>b</answer><think>a</think>",
        "<think><think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "</think>a<think><answer>b</answer>",
        "<think>a</think></answer>b<answer>",
        "<Think>a</Think><answer>b</answer>",
    ],
)
def test_anything_else_is_not(text):
    assert not is_well_formed(text)


NOBODY_SEES = {
    "zero-width": "\u200b\u200c\u200d\u2060\ufeff",
    "bidirectional": "\u200e\u200f\u202a\u202e\u2066\u2069\u061c",
    "soft hyphen": "\u00ad",
    "Hangul fillers": "\u115f\u1160\u3164\uffa0",
    "blank of Braille": "\u2800\u2800",
    "spaces": "\u00a0\u2003\u202f\u205f\u3000\u1680\u180e",
    "variation selectors": "\ufe0f\ufe00\U000e0100",
    "tag characters": "\U000e0041\U000e007f",
    "accents without a letter": "\u0301\u0336\u20dd",
    "control characters": "\x00\x07\x1b\x7f\x85",
    "private and unassigned": "\ue000\U000f0000\U000e0fff",
    "a lone surrogate": "\ud800",
    "invisible operators": "\u2061\u2062\u2063\u2064",
    "interlinear and shorthand controls": "\ufff9\ufffb\U0001bca0",
    "music": "\U0001d159\U0001d173",
    "object replacement": "\ufffc",
    "grapheme joiner and vowels drawn blank": "\u034f\u17b4\u17b5\u180b",
    "blanks of hieroglyphs": "\U00013441\U00013442",
}  # fmt: skip


@pytest.mark.parametrize("text", NOBODY_SEES.values(), ids=NOBODY_SEES)
def test_a_part_that_nobody_sees_is_empty(text):
    for hidden in (text, f" {text}\n{text}"):
        assert not is_well_formed(f"<think>{hidden}</think><answer>b</answer>")
        assert not is_well_formed(f"<think>a</think><answer>{hidden}</answer>")
        assert not is_well_formed(f"<think>{hidden}</think>b", "summary")
        assert not is_well_formed(f"<think>a</think>{hidden}", "summary")
        assert not is_well_formed(f"<think>a</think>b <answer>{hidden}</answer>", "summary")


@pytest.mark.parametrize(
    "text",
    ["7", "-", "是", "é", "e\u0301", "½", "∞", "😀", "👩\u200d👩", "\u2801", "ক্ষ", "\u200b7", "۷", "\\"],
)
def test_whatever_shows_is_something(text):
    assert is_well_formed(f"<think>{text}</think><answer>{text}</answer>")


def test_a_cut_answer_scores_zero():
    text = "<think>a</think><answer>b</answer>"
    whole, cut = Format().build().score([completion(text), completion(text, finished=False)])
    assert (whole.value, cut.value) == (1.0, 0.0)


def test_a_megabyte_of_tags_or_blanks_takes_no_time():
    start = time.process_time()
    assert not is_well_formed("<think>" * 150_000)
    assert not is_well_formed("<think>" + "\u200b" * 300_000 + "</think><answer>b</answer>")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>b",
        "<think>a</think>\n\nThe answer is \\boxed{15}.",
        " <think> 7 plus 8 is 15 ; </think> the answer is <answer> 15 </answer>",
        "<think>a</think><answer>b</answer>",
    ],
)
def test_reasoning_and_a_summary_are_r1_s_form(text):
    assert is_well_formed(text, "summary")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the answer is 15",
        "<think>a</think>",
        "<think>a</think>  \n",
        "<think> </think>b",
        "well <think>a</think>b",
        "<think>a</think>b<think>c</think>",
        "<think>a<answer>b</answer></think>c",
        "<think>a</think>b <answer> </answer>",
        "<think>a</think>b <answer>c",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "</think>a<think>b",
    ],
)
def test_any_other_text_is_not(text):
    assert not is_well_formed(text, "summary")


def test_the_reward_s_form_can_be_chosen():
    sample = completion("<think>a</think>b")
    assert Format(form="summary").build().score([sample])[0].value == 1
    assert Format().build().score([sample])[0].value == 0
