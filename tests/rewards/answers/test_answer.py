import time

import pytest

from megatron_r1.rewards.answers.answer import (
    bare_answer,
    chain_of_thought,
    final_answer,
    last_boxed,
    unboxed,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer> 7 </answer>", "7"),
        ("prefilled thoughts</think><answer>7</answer>", "7"),
        ("<answer>7</answer>", "7"),
        (r"<think>a</think>So \boxed{7}.", "7"),
        (r"<think>a</think><answer>It is \boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        ("<think>a</think><answer>1</answer><answer>2</answer>", "2"),
        ("<think>a</think><answer>1</answer><answer>2", "1"),  # the last complete one
        ("<think>a</think><answer><answer>3</answer></answer>", "3"),
        (r"<think>a</think>\boxed{7} then \boxed{8}", "8"),
        (r"<think>a</think><answer></answer>", ""),
        ("<think>a</think><answer>7</answer> or <answer> </answer>", "7"),
        (r"<think>a</think>\boxed{7} \boxed{}", "7"),
        (r"<think>a</think>\boxed{}", ""),
        (r"<think>a</think>$x=\boxed{3}$ and $y = \boxed{4}$.", "3, 4"),
        (r"<think>a</think>\boxed{3}, \boxed{4} or \boxed{5}", "3, 4, 5"),
        (r"<think>a</think>\fbox{7}", "7"),
        (r"<think>a</think>\boxed{7}, \boxed{7}", "7"),
        (r"<think>a</think>so \boxed 7.", "7"),
        (r"<think>a</think><answer>\boxed{3} and \boxed{4}</answer>", "3, 4"),
        ("<think>a</think>b</think><answer>7</answer>", "7"),
    ],
)
def test_answer_is_the_last_complete_one_after_thinking(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>a</think>7",
        "<think><answer>7</answer></think>",  # tried out while thinking
        r"<think>\boxed{7}</think>",
        "<think><answer>7</answer>",  # never stopped thinking
        "<think>a</think><answer>7",
        r"<think>a</think>\boxed{3",
        r"<think>a</think><answer>\boxed{3} cut",  # opened a tag: the box outside does not count
        "<think>a</think></answer>7<answer>",
        "<think>a</think>#### 7",  # no mark that the format asks for
        "<think>a</think>The answer is 7",
    ],
)
def test_no_complete_answer_after_thinking_is_none(text):
    assert final_answer(text) is None


def test_boxes_nest_and_escaped_braces_do_not_count():
    assert last_boxed(r"\boxed{\sqrt{\frac{1}{2}}}") == r"\sqrt{\frac{1}{2}}"
    assert last_boxed(r"\boxed{\boxed{3}}") == "3"
    assert last_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert last_boxed(r"} \boxed {3} {") == "3"
    assert last_boxed("a box of 3") is None
    assert last_boxed(r"\boxed{1} \boxed{2") == "1"
    assert last_boxed(r"\boxed{{3}") is None
    assert unboxed(r" x = \boxed{5} ") == "5"
    assert unboxed(" 5 ") == "5"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7", "7"),
        ("6 * 7 = 42 eggs.\n#### 42", "42"),
        ("#### 42", "42"),
        (r"So $a=\boxed{3}$ and $b=\boxed{4}$.", "3, 4"),
        (r"First \boxed{1}. Then, after much work, \boxed{2}", "2"),
        ("Therefore, the answer is: 180.", "180."),
        ("Answer: x = 5", "x = 5"),
        ("**Answer:** 42", "42"),
        ("The answer is not 3. The answer is 5.", "5."),
        ("The final answer is $5$.", "$5$."),
        ("\u7b54\u6848\u662f12", "12"),
        ("The answer key lists 5", "The answer key lists 5"),
        ("answer", "answer"),
    ],
)
def test_references_and_answers_are_taken_out_of_a_solution_alike(text, answer):
    assert bare_answer(text) == answer


def test_chain_of_thought_with_missing_tags():
    assert chain_of_thought("<think>a</think>b") == "a"
    assert chain_of_thought("a</think>b") == "a"
    assert chain_of_thought("<think>a") == "a"
    assert chain_of_thought("a") == "a"


@pytest.mark.parametrize(
    "piece",
    [
        "<answer>",
        "</answer>",
        "\\boxed{",
        "\\boxed{1}",
        "\\boxed{}, ",
        "<answer> </answer>",
        "{",
        "}",
        "</think>",
        "<",
        "\\",
        "\u0663",
    ],
)
def test_a_megabyte_of_garbage_takes_no_time(piece):
    text = "<think>a</think>" + piece * (1_000_000 // len(piece))
    start = time.process_time()
    final_answer(text)
    chain_of_thought(text)
    assert time.process_time() - start < 0.2
