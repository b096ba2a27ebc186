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


def test_a_cut_answer_scores_zero():
    text = "<think>a</think><answer>b</answer>"
    whole, cut = Format().build().score([completion(text), completion(text, finished=False)])
    assert (whole.value, cut.value) == (1.0, 0.0)


def test_a_megabyte_of_tags_takes_no_time():
    start = time.process_time()
    assert not is_well_formed("<think>" * 150_000)
    assert time.process_time() - start < 0.2


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
