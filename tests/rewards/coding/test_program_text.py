"""Which text of a completion is its program."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_r1.rewards.coding.program_text import candidates

CASES = [
    # one block, several, and none
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
    # blocks in other languages and without a mark
    ("<think>x</think>\n```text\n3 4\n```\n```python\na\n```", "a\n"),
    ("<think>x</think>\n```cpp\n3 4\n```\n```\na\n```", "a\n"),
    ("```python\na\n```\nOutput:\n```\n7\n```", "a\n"),
    ("```\na\n```\n```text\n7\n```", "a\n"),
    ("```py\na\n```\n```bash\npython a.py\n```", "a\n"),
    ("<think>x</think>```cpp\na\n```", None),
    ("<think>x</think><answer>```cpp\na\n```</answer>", None),
    ("```pycon\n>>> a\n```", None),
    # how Python is written behind a fence
    ("```Python\na\n```", "a\n"),
    ("```PYTHON3\na\n```", "a\n"),
    ('```python title="x"\na\n```', "a\n"),
    ("```{.python .numberLines}\na\n```", "a\n"),
    ("```{python}\na\n```", "a\n"),
    ("``` python\na\n```", "a\n"),
    ("```python \na\n```   \n", "a\n"),
    ("```python:main.py\na\n```", "a\n"),
    ("```main.py\na\n```", "a\n"),
    ("```python3.11\na\n```", "a\n"),
    # indented, CRLF, other fences, a byte order mark
    ("1. do\n   ```python\n   a\n     b\n\n   c\n   ```\n", "a\n  b\n\nc\n"),
    ("\t```python\n\ta\n\t```\n", "a\n"),
    ("```python\r\na\r\nb\r\n```\r\n", "a\r\nb\r\n"),
    ('````python\ns="""\n```\n"""\n````', 's="""\n```\n"""\n'),
    ("~~~python\na\n~~~", "a\n"),
    ("```python\n\ufeffa\n```", "a\n"),
    ("```python\ndef f():\n    '''\n    ```\n    '''\n```", "def f():\n    '''\n    ```\n    '''\n"),
    # tags in a program
    ("<think>x</think>\n```python\nprint('</think>')\n```", "print('</think>')\n"),
    ("```python\nprint('</think>')\n```", "print('</think>')\n"),
    ("```python\nprint('<think>')\n```", "print('<think>')\n"),
    ("<think>x</think><answer>\n```python\nprint('</answer>')\n```\n</answer>", "print('</answer>')\n"),
    ("<think>x</think><answer>\n```python\nprint('<answer>')\n```\n</answer>", "print('<answer>')\n"),
    # and in a chain of thought, whose blocks may stay open
    ("<think>```python\nprint('</think>')\n```", None),
    ("<think>```python\nprint('</think>')\n```\ndone</think>\n```python\nb\n```", "b\n"),
    ("<think>```python\nfoo</think>\n```python\nb\n```", "b\n"),
    ("draft\n```python\nfoo</think>\n```python\nb\n```", "b\n"),
    ("<think>```\nfoo</think>\n```\nb\n```", "b\n"),
    ("<think>```python\nfoo</think>\nThe answer:\n```\nb\n```", "b\n"),
    ("<think>I will say </think> now</think>\n```python\na\n```", "a\n"),
    # answer tags around blocks
    ("<think>x</think><answer>```python\na\n```</answer>", "a\n"),
    ("<answer>\n```python\na\n```\n</answer>\nin <answer></answer> as asked", "a\n"),
    ("```python\na\n```\n<answer></answer>", "a\n"),
    ("<think>x</think><answer>```python\na\n</answer>", "a"),
    ("<think>x</think><answer>```python\na\n</answer> again\n```python\nb\n```", "a"),
    ("<answer>\n```python\na\n```\n</answer>\n<answer>\n```python\nb\n```\n</answer>", "b\n"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_the_program_is_the_last_python_block_of_the_answer(text: str, expected: str | None) -> None:
    assert next(iter(candidates(text)), None) == expected


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\ns='''\n```\n'''\nprint(s)\n```", "s='''\n```\n'''\nprint(s)\n"),
        ("```\nprint(3 +\\\n 4)\n```\nOutput:\n```\n3 + 4 gives 7\n```", "print(3 +\\\n 4)\n"),
        ("<answer>print('</answer>')</answer>", "print('</answer>')"),
        ("<answer>print('<answer>')</answer>", "print('<answer>')"),
    ],
)
def test_where_a_text_can_be_read_in_two_ways_the_program_is_among_them(text: str, program: str) -> None:
    assert program in candidates(text)


@given(st.text() | st.from_regex(r"(?:[`~a-z\n<>/ ]|</?think>|</?answer>|\n```(?:python)?\n){0,80}"))
def test_any_text_is_searched_for_a_program_without_an_error(text: str) -> None:
    for found in candidates(text):
        assert "".join(found.split()).replace("\ufeff", "") in "".join(text.split()).replace("\ufeff", "")


@pytest.mark.parametrize(
    "text",
    [
        "```a\n" * 100_000,
        "```\n" * 100_000,
        "`" * 500_000,
        "~~~~\n```\n    ```\n" * 30_000,
        "</think>" * 60_000,
        "<answer>" * 900 + " " * 500_000 + "</answer>" * 900,
    ],
)
def test_a_megabyte_of_fences_is_read_at_once(text: str) -> None:
    began = time.process_time()
    candidates(text)
    assert time.process_time() - began < 5
