import math
from pathlib import Path

import pytest

from megatron_r1.config import Section, load, refuse, resolved
from megatron_r1.errors import ConfigError
from tests.config.example import Grpo, Run, Sft

TEXT = """\
name: toy
vocab: a/b.model
lengths: {0: 4, 8200: 8}
options: {no: "no", number: "1e-6", date: 2024-01-31, empty: "", zh: 计算, nothing: null, far: .inf}
stages:
  zero: {kind: grpo, optim: {lr: 3e-6, clip: 1}}
  after: {kind: sft, data: [b, a], epochs: 3}
  again: {kind: grpo, optim: {lr: 1}, judge: {fast: {lr: 2}}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path()


def test_a_file_becomes_an_object(here):
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    run = load(Path("x.yaml"), Run, overrides=["seed=7", "stages.zero.group_size=4"]).value
    assert (run.name, run.seed, run.vocab) == ("toy", 7, Path("a/b.model"))
    assert run.lengths == {0: 4, 8200: 8}
    assert list(run.stages) == ["zero", "after", "again"]
    zero, after = run.stages["zero"], run.stages["after"]
    assert isinstance(zero, Grpo)
    assert isinstance(after, Sft)
    assert (zero.group_size, zero.optim.lr, zero.optim.clip) == (4, 3e-6, 1.0)
    assert after.data == ("b", "a")


def test_the_resolved_file_loads_to_the_same_object(here):
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    run = load(Path("x.yaml"), Run).value
    Path("resolved.yaml").write_text(resolved(run), encoding="utf-8")
    again = load(Path("resolved.yaml"), Run).value
    assert again == run
    assert list(again.stages) == list(run.stages)
    assert again.options["number"] == "1e-6"
    assert again.options["date"] == "2024-01-31"
    assert again.options["far"] == math.inf


def test_the_resolved_file_holds_the_defaults_and_reads_well(here):
    text = resolved(Run(name="a", stages={"s": Sft(epochs=1e-6, data=("x",))}))
    assert text == (
        "name: a\nseed: 0\nprecision: fp32\nvocab: null\nlengths: {}\noptions: {}\nstages:\n"
        "  s:\n    kind: sft\n    data:\n    - x\n    epochs: 1e-06\n    shuffle: true\n"
    )  # fmt: skip


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"^no/x\.yaml: no such file$"):
        load(Path("no/x.yaml"), Run)


def test_an_inherited_mistake_is_reported_where_it_was_made(here):
    Path("conf").mkdir()
    Path("b.yaml").write_text("name: a\n\nsed: 1\n")
    Path("conf/x.yaml").write_text("base: ../b.yaml\nprecision: fp16\n")
    with pytest.raises(ConfigError) as error:
        load(Path("conf/x.yaml"), Run)
    assert str(error.value).splitlines() == [
        "b.yaml:3: sed: unknown key; did you mean seed?",
        'conf/x.yaml:2: precision: must be one of fp32, bf16, got "fp16"; did you mean bf16?',
    ]


def test_a_file_that_cant_be_read_is_not_blamed_for_missing_keys(here):
    Path("x.yaml").write_text("seed: [1\n")
    with pytest.raises(ConfigError) as error:
        load(Path("x.yaml"), Run)
    assert "missing" not in str(error.value)
    assert "x.yaml:2: not YAML" in str(error.value)


def test_a_finding_at_a_key_that_was_not_given_has_the_line_of_its_mapping(here):
    Path("x.yaml").write_text("name: a\n\nstages:\n  s: {kind: sft}\n")
    loaded = load(Path("x.yaml"), Run)
    finding = loaded.finding(("stages", "s", "data"), "no data")
    assert str(finding) == "x.yaml:4: stages.s.data: no data"
    with pytest.raises(ConfigError, match=r"x\.yaml:4: stages\.s\.data: no data"):
        refuse([finding])
    refuse([])


def test_a_section_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Run(name="a").seed = 1  # type: ignore[misc]


def test_lists_stand_for_tuples_inside_unions(here):
    class Inner(Section):
        pair: tuple[int, str]

    class Outer(Section):
        one: Inner | str

    Path("x.yaml").write_text("one: {pair: [1, a]}\n")
    assert load(Path("x.yaml"), Outer).value.one == Inner(pair=(1, "a"))
    Path("x.yaml").write_text("one: {pair: [1, 2]}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:1: one\.pair\.1: must be text, got 2"):
        load(Path("x.yaml"), Outer)
