"""Right, wrong, ungradable and hostile programs, and what the audit says of each."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.rewards.code import Code, CodeReward, final_program
from megatron_r1.rewards.code_problem import BadProblem, read_problem, same_output, same_value
from megatron_r1.rewards.combine import combine
from megatron_r1.rewards.format import Format
from megatron_r1.types import Completion, Score
from tests.rewards.samples import completion
from tests.rewards.sandbox.conftest import needs_sandbox

SUMS = {"tests": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "1 1\n", "stdout": "2\n"}]}
ADD = {"function": "add", "tests": [{"args": [3, 4], "expected": 7}, {"args": [1, 1], "expected": 2}]}
RIGHT = "print(sum(map(int, input().split())))"


def program(text: str, problem: Any = SUMS, *, reference: str = "", task: str = "code") -> Completion:
    text = f"<think>so</think>Here it is:\n```python\n{text}\n```\n"
    return completion(text, reference=reference, task=task, metadata=problem)


@pytest.fixture(scope="module")
def reward() -> CodeReward:
    return Code(cpu_s=2.0, wall_s=20.0).build()


CASES = {
    "right": (RIGHT, SUMS, Score(1.0, "2 of 2 tests")),
    "right, with other white space": (RIGHT + "\nprint(); print(' ')", SUMS, Score(1.0, "2 of 2 tests")),
    "right for one test": ("print(7)", SUMS, Score(0.0, "wrong output: 1 of 2 tests")),
    "reads the wrong thing": ("print(input())", SUMS, Score(0.0, "wrong output: 0 of 2 tests")),
    "does not compile": (
        "print(", SUMS,
        Score(0.0, "compile error: 0 of 2 tests (SyntaxError: '(' was never closed (program.py, line 1))"),
    ),
    "raises": ("x", SUMS, Score(0.0, "runtime error: 0 of 2 tests (NameError: name 'x' is not defined)")),
    "right and then raises": (
        RIGHT + "\nraise ValueError('late')", SUMS,
        Score(0.0, "runtime error: 0 of 2 tests (ValueError: late)"),
    ),
    "never ends": ("while True: pass", SUMS, Score(0.0, "time-out: 0 of 2 tests")),
    "a right function": ("def add(a, b): return a + b", ADD, Score(1.0, "2 of 2 tests")),
    "a wrong function": ("def add(a, b): return 7", ADD, Score(0.0, "wrong output: 1 of 2 tests")),
    "no such function": ("def sub(a, b): return 7", ADD, Score(0.0, "no such function: 0 of 2 tests")),
    "more replies than calls": (
        "import os\ndef add(a, b):\n    for fd in range(3, 9):\n"
        "        try: os.write(fd, b'7\\n2\\n7\\n2\\n')\n        except OSError: pass\n    return 0",
        ADD, Score(0.0, "wrong output: 1 of 2 tests"),
    ),
    "no JSON": (
        "def add(a, b): return {1}", ADD,
        Score(0.0, "runtime error: 0 of 2 tests (TypeError: Object of type set is not JSON serializable)"),
    ),
    "equal to everything": (
        "class A:\n    def __eq__(self, other): return True\ndef add(a, b): return A()", ADD,
        Score(0.0, "runtime error: 0 of 2 tests (TypeError: Object of type A is not JSON serializable)"),
    ),
    "leaves in good order": ("import os\nos._exit(0)", ADD, Score(0.0, "wrong output: 0 of 2 tests")),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("name", CASES)
def test_programs_are_judged_with_the_reason(reward: CodeReward, name: str) -> None:
    source, problem, expected = CASES[name]
    assert reward.score([program(source, problem)]) == [expected]


@needs_sandbox
def test_what_is_expected_never_enters_the_sandbox(reward: CodeReward) -> None:
    secret = {"tests": [{"stdin": "", "stdout": "xyzzy"}]}
    search = (
        "import sys\nfound = [sys.stdin.buffer.read()]\n"
        "for path in ('/program.py', '/driver.py', '/proc/1/cmdline', "
        "'/proc/1/environ', '/proc/self/environ'):\n    found.append(open(path, 'rb').read())\n"
        "print('xyz' + 'zy' if any(b'xyz' + b'zy' in f for f in found) else 'nothing')"
    )
    assert reward.score([program(search, secret)]) == [Score(0.0, "wrong output: 0 of 1 tests")]


@needs_sandbox
def test_partial_credit_is_the_share_of_tests_and_off_by_default() -> None:
    half = [program("print(7)"), program("def add(a, b): return 7", ADD), program("print(")]
    assert [s.value for s in Code().build().score(half)] == [0.0, 0.0, 0.0]
    assert [s.value for s in Code(partial_credit=True).build().score(half)] == [0.5, 0.5, 0.0]


@needs_sandbox
def test_a_reference_program_that_fails_its_tests_makes_the_item_ungradable(reward: CodeReward) -> None:
    wrong, right = program(RIGHT, reference="print(7)"), program(RIGHT, reference=RIGHT)
    assert reward.score([wrong, right]) == [
        Score(None, "the reference program: wrong output: 1 of 2 tests"),
        Score(1.0, "2 of 2 tests"),
    ]


BAD = {
    "no tests": {},
    "no list": {"tests": "x"},
    "empty": {"tests": []},
    "no expected output": {"tests": [{"stdin": "1"}]},
    "a number as output": {"tests": [{"stdin": "1", "stdout": 1}]},
    "too many keys": {"tests": [{"stdin": "1", "stdout": "1", "score": 1}]},
    "arguments that are no list": {"function": "f", "tests": [{"args": 1, "expected": 1}]},
    "a name that is none": {"function": "os.system", "tests": [{"args": [], "expected": 1}]},
    "a tolerance that is none": {**SUMS, "tolerance": True},
}


@pytest.mark.parametrize("name", BAD)
def test_tests_that_cannot_be_read_are_refused(name: str) -> None:
    with pytest.raises(BadProblem):
        read_problem(BAD[name])


@needs_sandbox
def test_they_make_the_item_ungradable(reward: CodeReward) -> None:
    assert reward.score([program(RIGHT, {}), program(RIGHT, task="math")]) == [
        Score(None, 'metadata has no "tests"'),
        Score(None, "no tests for the task 'math'; set tasks: [code]"),
    ]


@needs_sandbox
def test_it_judges_code_alone_and_adds_nothing_elsewhere() -> None:
    rewards = {"code": (1.0, Code().scorer()), "format": (0.5, Format(tasks=["code", "gym:*"]).scorer())}
    mixed = [program(RIGHT), program("x", task="gym:zebra"), program("x", task="math")]
    found = combine(mixed, rewards)
    assert [(s.reward, sorted(s.parts)) for s in found] == [
        (1.0, ["code", "format"]),
        (0.0, ["format"]),
        (None, []),  # nobody judges it: left out, not scored 0
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na\n```", "a\n"),
        ("```\na\n```\nand\n```py\nb\n```", "b\n"),
        ("<think>```python\na\n```</think>```python\nb\n```", "b\n"),
        ("<think>```python\na\n```</think>", None),
        ("<think>```python\na\n```", None),
        ("<think>x</think><answer>print(1)</answer>", "print(1)"),
        ("<think>x</think><answer>so:\n```python\na\n```\n</answer>", "a\n"),
        ("<think>x</think><answer> </answer>", None),
        ("no program", None),
        ("```python\nnever closed", None),
    ],
)
def test_the_program_is_the_last_block_of_the_answer(text: str, expected: str | None) -> None:
    assert final_program(text) == expected


@pytest.mark.parametrize(
    ("expected", "found", "tolerance", "same"),
    [
        ("1 2\n", b"1 2", None, True),
        ("1 2\n", b"1  2\n", None, False),
        ("1\n2\n", b"1 \n2\n\n", None, True),
        ("1\n2\n", b"1 2\n", None, False),
        ("\n1\n", b"1\n", None, False),
        ("0.3333\n", b"0.33333333\n", None, False),
        ("0.3333\n", b"0.33333333\n", 1e-3, True),
        ("nan\n", b"1\n", 1e-3, False),
        ("1\n", b"\xff\n", None, False),
        ("inf\n", b"1\n", 1e-3, False),
    ],
)
def test_outputs_are_compared_line_by_line(expected, found, tolerance, same) -> None:
    assert same_output(expected, found, tolerance=tolerance) is same


@pytest.mark.parametrize(
    ("expected", "reply", "same"),
    [
        (7, b"7", True),
        (7, b"7.0", False),
        (7.0, b"7", True),
        (0.3, b"0.30000000000000004", True),
        (1, b"true", False),
        (True, b"1", False),
        (None, b"null", True),
        ([1, [2]], b"[1, [2]]", True),
        ([1, 2], b"[1, 2, 3]", False),
        ({"a": 1}, b'{"a": 1}', True),
        ({"a": 1}, b'{"a": 1, "b": 2}', False),
        (1.0, b"NaN", False),
        (1.0, b"1" + b"0" * 400, False),
        (7, b"[" * 100_000, False),
        (7, b"9" * 10_000, False),
        (7, b"7 7", False),
        (7, b"\xff", False),
        ("7", b"7", False),
    ],
)
def test_values_are_compared_by_type_and_value(expected, reply, same) -> None:
    assert same_value(expected, reply, tolerance=None) is same


@given(st.text() | st.from_regex(r"[`a-z\n<>/ ]{0,80}"))
def test_any_text_is_searched_for_a_program_without_an_error(text: str) -> None:
    found = final_program(text)
    assert found is None or found in text


@given(
    st.binary(max_size=200), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(), st.lists)
)
def test_any_reply_is_compared_without_an_error(reply: bytes, expected: Any) -> None:
    assert same_value(expected, reply, tolerance=None) in (True, False)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_value_equals_what_json_makes_of_it(value: Any) -> None:
    assert same_value(value, json.dumps(value).encode(), tolerance=None)
