from pathlib import Path

import pytest

from megatron_r1.config import load
from megatron_r1.errors import ConfigError
from tests.config.example import Run

HEAD = "name: a\nstages:\n"


@pytest.fixture
def findings_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def findings(text: str, *overrides: str) -> list[str]:
        Path("x.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            load(Path("x.yaml"), Run, overrides=overrides)
        return str(error.value).splitlines()

    return findings


def test_a_misspelt_key_is_one_finding_with_the_nearest_key(findings_of):
    text = HEAD + "  zero:\n    kind: grpo\n    optim:\n      lrr: 1e-6\n"
    assert findings_of(text) == ["x.yaml:6: stages.zero.optim.lrr: unknown key; did you mean lr?"]


def test_the_nearest_key_is_named_even_if_it_is_given_too(findings_of):
    text = HEAD + "  zero:\n    kind: grpo\n    optim: {lr: 1e-6}\n"
    assert findings_of(text, "stages.zero.optim.lrr=1") == [
        "override 'stages.zero.optim.lrr=1': stages.zero.optim.lrr: unknown key; did you mean lr?"
    ]


def test_a_key_of_an_inner_section_is_pointed_to(findings_of):
    text = HEAD + "  zero:\n    kind: grpo\n    warmup_steps: 3\n    optim: {lr: 1}\n"
    assert findings_of(text) == [
        "x.yaml:5: stages.zero.warmup_steps: unknown key; did you mean optim.warmup_steps?"
    ]


def test_a_key_like_no_other_gets_the_list_of_keys(findings_of):
    text = HEAD + "  zero: {kind: sft, zzz: 1}\n"
    assert findings_of(text) == [
        "x.yaml:3: stages.zero.zzz: unknown key; valid here: kind, data, epochs, shuffle"
    ]


def test_an_unknown_kind_lists_the_kinds_and_the_nearest(findings_of):
    text = HEAD + "  zero:\n    kind: grop\n"
    assert findings_of(text) == [
        'x.yaml:4: stages.zero.kind: no such kind: "grop"; did you mean grpo?; one of grpo, sft'
    ]


def test_a_missing_kind_is_reported_at_its_mapping(findings_of):
    text = HEAD + "  zero:\n    epochs: 1\n"
    assert findings_of(text) == ["x.yaml:3: stages.zero.kind: missing; one of grpo, sft"]


def test_a_missing_key_is_described(findings_of):
    assert findings_of("seed: 1\n") == ["x.yaml:1: name: missing: Name of the run."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: true", "seed: must be an integer, got true"),
        ("seed: 1.0", "seed: must be an integer, got 1.0; write 1"),
        ("seed: '1'", 'seed: must be an integer, got "1"; remove the quotes'),
        ("seed:", "seed: must be an integer, got null; give a value or remove the key"),
        ("precision: bf61", 'precision: must be one of fp32, bf16, got "bf61"; did you mean bf16?'),
        ("options: 3", "options: must be a mapping, got 3"),
        ("vocab: 3", 'vocab: must be text, got 3; put it in quotes: "3"'),
        ("stages: {a: {kind: sft, epochs: true}}", "stages.a.epochs: must be a number, got true"),
        ("stages: {a: {kind: sft, shuffle: no}}",
         'stages.a.shuffle: must be true or false, got "no"; write false'),
        ("stages: {a: {kind: sft, shuffle: 1}}", "stages.a.shuffle: must be true or false, got 1"),
        ("stages: {a: {kind: sft, data: d.jsonl}}",
         'stages.a.data: must be a list, got "d.jsonl"; write [d.jsonl]'),
        ("stages: {a: {kind: sft, data: [a, 1]}}",
         'stages.a.data.1: must be text, got 1; put it in quotes: "1"'),
        ("stages: {a: {kind: grpo, group_size: 1, optim: {lr: 1}}}",
         "stages.a.group_size: must be at least 2, got 1"),
        ("stages: {a: {kind: sft, epochs: 101}}", "stages.a: epochs without data; name a file"),
        ("lengths: {0: 1, 8200: x}", 'lengths.8200: must be an integer, got "x"'),
        ("lengths: {0: 1, x: 2}", 'lengths.x: the key must be an integer, got "x"'),
        ("stages: {a: 3}", "stages.a: must be a mapping, got 3"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_shown_with_what_to_write(findings_of, line, message):
    assert findings_of(f"name: a\n{line}\n") == [f"x.yaml:2: {message}"]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("true", "stages.a.judge: must be text or a mapping, got true"),
        ("{x: {lr: no}}", 'stages.a.judge.x.lr: must be a number, got "no"'),
        ("{lr: 1, clipp: 2}", "stages.a.judge.clipp: unknown key; did you mean clip?"),
    ],
)
def test_a_union_is_explained_by_the_member_that_was_meant(findings_of, judge, message):
    text = f"name: a\nstages:\n  a: {{kind: grpo, optim: {{lr: 1}}, judge: {judge}}}\n"
    assert findings_of(text) == [f"x.yaml:3: {message}"]


def test_all_findings_come_at_once_in_the_order_of_the_lines(findings_of):
    text = (
        "seed: x\n"
        "seed: 2\n"
        "stages:\n"
        "  one: {kind: grpo, optim: {lr: '3'}}\n"
        "  two: {kind: stf}\n"
        "  three: {kind: sft, shufle: true}\n"
    )
    assert findings_of(text, "precision=fp61", "stages.one.optim.clip=[1]") == [
        "override 'precision=fp61': precision: must be one of fp32, bf16, got \"fp61\"",
        "override 'stages.one.optim.clip=[1]': stages.one.optim.clip: must be a number, got [1]",
        "x.yaml:1: name: missing: Name of the run.",
        'x.yaml:1: seed: must be an integer, got "x"',
        "x.yaml:2: seed: duplicate key, first given at x.yaml:1; remove one",
        'x.yaml:4: stages.one.optim.lr: must be a number, got "3"; remove the quotes',
        'x.yaml:5: stages.two.kind: no such kind: "stf"; did you mean sft?; one of grpo, sft',
        "x.yaml:6: stages.three.shufle: unknown key; did you mean shuffle?",
    ]


def test_no_word_of_pydantic_reaches_the_user(findings_of):
    text = (
        "name: [1]\nseed: {}\noptions: []\nstages: {a: {kind: grpo, optim: 1, judge: [1]}, b: null, c: [1]}\n"
    )
    for line in findings_of(text):
        for word in ("Input", "valid ", "dictionary", "instance", "union", "tag", "Field", "str", "Optim"):
            assert word not in line.replace("stages", "")


def test_a_long_value_is_cut(findings_of):
    (line,) = findings_of(f"name: a\nseed: {'x' * 500}\n")
    assert line.endswith("xxx...")
    assert len(line) < 120


def test_a_key_missing_by_misspelling_and_another_missing_are_told_apart(findings_of):
    assert findings_of("nmae: a\nstages: {a: {kind: grpo, optim: {}}}\n") == [
        "x.yaml:1: nmae: unknown key; did you mean name?",
        "x.yaml:2: stages.a.optim.lr: missing: Peak learning rate.",
    ]
