"""Right, wrong, ungradable and hostile programs, and what the audit says of each."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.rewards.code import Code, CodeReward, Task, _task
from megatron_r1.rewards.coding.problem import BadProblem, read_problem, same_output, same_value
from megatron_r1.rewards.coding.sandbox.limits import Limits
from megatron_r1.rewards.combine import combine
from megatron_r1.rewards.format import Format
from megatron_r1.types import Completion, Score
from tests.rewards.coding.sandbox.conftest import needs_sandbox
from tests.rewards.right_programs import ADD as ADDS
from tests.rewards.right_programs import ANSWERS, FUNCTIONS, PROGRAMS
from tests.rewards.samples import completion

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
    fenced = program(RIGHT, reference=f"```python\n{RIGHT}\n```")
    assert reward.score([wrong, right, fenced]) == [
        Score(None, "the reference program: wrong output: 1 of 2 tests"),
        Score(1.0, "2 of 2 tests"),
        Score(1.0, "2 of 2 tests"),
    ]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


BAD = {
    "no tests": {},
    "no list": {"tests": "x"},
    "empty": {"tests": []},
    "no expected output": {"tests": [{"stdin": "1"}]},
    "a number as output": {"tests": [{"stdin": "1", "stdout": 1}]},
    "too many keys": {"tests": [{"stdin": "1", "stdout": "1", "score": 1}]},
    "arguments that are no list": {"function": "f", "tests": [{"args": 1, "expected": 1}]},
    "a name that is none": {"function": "os.system", "tests": [{"args": [], "expected": 1}]},
    **{
        f"a tolerance of {value!r}": {**SUMS, "tolerance": value}
        for value in (True, "1e-6", [1e-6], -1, -1e-9, 0.5, 1, 10**400, float("inf"), float("nan"))
    },
    "a keyword as name": {"function": "class", "tests": [{"args": [], "expected": 1}]},
    "no output at all": {"tests": [{"stdin": "1", "stdout": "\n"}]},
    "null everywhere": {"function": "f", "tests": [{"args": [], "expected": None}]},
    "a lone surrogate": {"tests": [{"stdin": "1", "stdout": "\ud800"}]},
    "lists without end": {"function": "f", "tests": [{"args": [nested(200)], "expected": 1}]},
    "lists without end, expected": {"function": "f", "tests": [{"args": [], "expected": nested(200)}]},
    "tests by name": {"tests": {"a": {"stdin": "1", "stdout": "1"}}},
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
        ("1\n", b"inf\n", 1e-3, False),
        ("1\n", b"nan\n", 1e-3, False),
        ("inf\n", b"-inf\n", 1e-3, False),
        ("inf\n", b"Infinity\n", 1e-3, True),
        ("nan\n", b"NaN\n", 1e-3, True),
        ("1000\n", b"1_000\n", 1e-3, False),
        ("12\n", "١٢\n".encode(), 1e-3, False),
        ("1.5\n", b"+15.e-1\n", 0.0, True),
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
        (1.0, b"Infinity", False),
        (7, b"NaN", False),
        (float("inf"), b"Infinity", True),
        (float("inf"), b"-Infinity", False),
        (float("inf"), b"1" + b"0" * 400, False),
        (float("nan"), b"NaN", True),
        (float("nan"), b"1.0", False),
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


@given(
    st.binary(max_size=200), st.recursive(st.none() | st.booleans() | st.integers() | st.floats(), st.lists)
)
def test_any_reply_is_compared_without_an_error(reply: bytes, expected: Any) -> None:
    assert same_value(expected, reply, tolerance=None) in (True, False)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_value_equals_what_json_makes_of_it(value: Any) -> None:
    assert same_value(value, json.dumps(value).encode(), tolerance=None)


def grade(reward: CodeReward, texts: dict[str, tuple[str, Any]]) -> dict[str, Score]:
    """All at once: two sandboxes at a time."""
    given = [
        completion(text, reference="", task="code", metadata=problem) for text, problem in texts.values()
    ]
    return dict(zip(texts, reward.score(given), strict=True))


@needs_sandbox
def test_right_programs_pass_whatever_they_do_besides() -> None:
    texts: dict[str, tuple[str, Any]] = {
        name: (f"<think>so</think>\n```python\n{source}\n# unlikely words\n```", ADDS)
        for name, source in PROGRAMS.items()
    }
    for name, (function, source, arguments, expected) in FUNCTIONS.items():
        problem = {"function": function, "tests": [{"args": arguments, "expected": expected}] * 2}
        texts[f"function: {name}"] = f"<think>so</think>\n```python\n{source}\n```", problem
    for name, answer in ANSWERS.items():
        texts[f"answer: {name}"] = "<think>so</think>\n" + answer.format(RIGHT), ADDS
        texts[f"answer with CRLF: {name}"] = texts[f"answer: {name}"][0].replace("\n", "\r\n"), ADDS
    found = grade(Code(wall_s=60.0).build(), texts)
    assert {name: score.note for name, score in found.items() if score.value != 1.0} == {}


@needs_sandbox
@pytest.mark.slow
def test_wrong_programs_stay_wrong_beside_them(reward: CodeReward) -> None:
    sources = {
        "prints and hangs": (RIGHT + "\nimport time\ntime.sleep(600)", "time-out"),
        "leaves with an error": (RIGHT + "\nexit(1)", "runtime error"),
        "leaves before it answers": ("exit()\n" + RIGHT, "wrong output"),
        "needs an import": ("def f(x: List[int]): pass\n" + RIGHT, "runtime error"),
        "prints a surrogate": (RIGHT + "\nprint('\\ud800')", "runtime error"),
    }
    limits = Code(wall_s=3.0).build()
    found = grade(limits, {n: (f"```python\n{source}\n```", ADDS) for n, (source, _) in sources.items()})
    assert {n: (s.value, s.note.partition(":")[0]) for n, s in found.items()} == {
        n: (0.0, fate) for n, (_, fate) in sources.items()
    }


@needs_sandbox
def test_an_output_above_the_limit_passes_where_it_is_expected() -> None:
    problem = {"tests": [{"stdin": "", "stdout": "x" * 3000}]}
    reward = Code(output_kib=1).build()
    assert reward.score([program("print('x' * 3000)", problem)]) == [Score(1.0, "1 of 1 tests")]
    assert reward.score([program("print('x' * 5000)", problem)])[0].note.startswith("over the output limit")


def test_a_problem_leaves_a_hash_and_not_its_tests_behind() -> None:
    """300 problems of 100 kB each, all of them different."""
    reward = CodeReward(limits=Limits(), num_workers=1, partial_credit=False, max_chars=1000)
    tracemalloc.start()
    for number in range(300):
        tests = {"tests": [{"stdin": "x" * 100_000 + str(number), "stdout": "1"}]}
        assert reward.score([completion("no program", task="code", metadata=tests)])[0].value == 0
        task = _task(completion("", task="code", reference="", metadata=tests).prompt)
        assert isinstance(task, Task)
        reward._judge_references([task])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reward._faults) == 300
    assert kept < 1_000_000
