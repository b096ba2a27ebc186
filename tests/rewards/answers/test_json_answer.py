import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.rewards.accuracy import Accuracy
from megatron_r1.rewards.answers.json_answer import json_answer
from tests.rewards.samples import completion


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('<think>so</think>{"answer": 13}', "13"),
        ('<think>so</think>\n{"steps": ["a"], "answer": "13 "}\n', "13"),
        ('<think>so</think><answer>{"answer": -1.50}</answer>', "-1.50"),  # as it was written
        ('<think>so</think>```json\n{"answer": 13}\n```', "13"),
        ('{"answer": "x"}', "x"),
    ],
)
def test_the_answer_of_a_json_object_is_found(text, answer):
    assert json_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "<think>so</think>13",
        '<think>so</think>The result: {"answer": 13}',
        '<think>so</think>{"answer": 13} done',
        '<think>so</think>{"answer": 13',
        "<think>so</think>{'answer': 13}",
        '<think>so</think>{"result": 13}',
        '<think>so</think>{"answer": [13]}',
        '<think>so</think>{"answer": true}',
        '<think>so</think>{"answer": NaN}',
        '<think>so</think>["answer", 13]',
        '<think>{"answer": 13}',
        '<think>so</think>{"answer": ' + "[" * 5000 + "]" * 5000 + "}",
        '<think>so</think>{"answer": "' + "7" * 30_000 + '"}',
        "",
    ],
)
def test_anything_else_has_none(text):
    assert json_answer(text) is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.text())
def test_any_value_and_any_text_get_a_verdict(value, rest):
    found = json_answer(json.dumps({"answer": value}))
    assert found == (value.strip() if isinstance(value, str) else str(value) if type(value) is int else None)
    assert json_answer(rest) is None or "answer" in rest


def test_json_is_graded_as_the_inner_task_and_form_counts():
    def graded(text, *, task="json:integer", reference="13"):
        (score,) = Accuracy().build().score([completion(text, reference=reference, task=task)])
        return score.value

    assert graded('<think>so</think>{"answer": 13}') == 1
    assert graded('<think>so</think>{"answer": 14}') == 0
    assert graded("<think>so</think><answer>13</answer>") == 0  # right, and no JSON
    assert graded('<think>so</think>{"answer": 13}', reference="?") is None
    assert graded('<think>so</think>{"answer": 13}', task="json:nonsense") is None


def test_half_a_surrogate_pair_is_no_answer():
    assert json_answer('<think>so</think>{"answer": "\\ud800"}') is None
    assert json_answer('<think>so</think>{"answer": "\\ud83d\\ude00"}') == "\U0001f600"
