"""One form is written, both are read: samples and group_size, a length as a number and as a mapping."""

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run
from tests.end_to_end.micro_run import CONFIG, micro_text

Z = "stages.zero"


def grpo(*overrides: str):
    return load_run(CONFIG, overrides=overrides).value.stages["zero"]


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("9", {0: 9}),
        ("{0: 9}", {0: 9}),
        ("{0: 9, 4: 16}", {0: 9, 4: 16}),
        ("{steps: {0: 9}}", {0: 9}),
        ("{steps: {0: 9, 4: 16}}", {0: 9, 4: 16}),
    ],
)
def test_grpo_reads_the_longest_output_in_every_form(written, steps):
    stage = grpo(f"{Z}.max_new_tokens={written}")
    assert stage.max_new_tokens.steps == steps
    kept = {"steps": {str(update): limit for update, limit in steps.items()}}
    assert stage.model_dump(mode="json")["max_new_tokens"] == kept, "as ever: finished stages stay finished"


@pytest.mark.parametrize("written", ["9", "{0: 9}", "{steps: {0: 9}}"])
def test_the_other_kinds_read_a_schedule_of_one_entry(written):
    assert grpo(f"{Z}.evaluate.evaluation.max_new_tokens={written}").evaluate.evaluation.max_new_tokens == 9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{Z}.max_new_tokens=0", "greater than 0"),
        (f"{Z}.max_new_tokens=true", "must be a mapping, got true"),
        (f"{Z}.max_new_tokens={{4: 9}}", "must begin with update 0"),
        (f"{Z}.max_new_tokens={{stepz: {{0: 9}}}}", "did you mean steps"),
        (f"{Z}.evaluate.evaluation.max_new_tokens={{0: 9, 4: 16}}", "must be one number here; only grpo"),
        (f"{Z}.evaluate.evaluation.max_new_tokens={{0: 0}}", "at least 1"),
        (f"{Z}.samples=1", f"{Z}.samples: must be at least 2, got 1"),
        (f"{Z}.group_size=1", f"{Z}.group_size: must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_said_in_the_form_that_was_written(override, words):
    with pytest.raises(ConfigError) as caught:
        grpo(override)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", ["samples", "group_size"])
def test_samples_and_group_size_are_one_key(key, tmp_path):
    assert grpo(f"{Z}.{key}=8").group_size == 8, "an override of either name replaces the other"
    above = tmp_path / "above.yaml"
    zero, measure = "max_new_tokens: {steps: {0: 9}}", f"evaluation: {{{key}: 3}}"
    stages = f"{{zero: {{{key}: 8, {zero}}}, measure: {{{measure}}}}}"
    above.write_text(f"base: {CONFIG}\nstages: {stages}\n")
    run = load_run(above).value
    assert run.stages["zero"].group_size == 8
    assert run.stages["zero"].max_new_tokens.steps == {0: 9}
    assert run.stages["measure"].evaluation.samples == 3


def test_an_override_reaches_into_the_other_form():
    longer = grpo(f"{Z}.max_new_tokens=9", f"{Z}.max_new_tokens.steps.4=12")
    assert longer.max_new_tokens.steps == {0: 9, 4: 12}
    assert grpo(f"{Z}.max_new_tokens.steps={{0: 7}}").max_new_tokens.steps == {0: 7}


def test_both_in_one_section_are_refused(tmp_path):
    both = tmp_path / "both.yaml"
    both.write_text(micro_text().replace("    samples: 4\n", "    samples: 4\n    group_size: 4\n"))
    with pytest.raises(ConfigError, match=r"zero\.group_size: means the same as samples, .* remove one"):
        load_run(both)


def test_a_missing_one_is_named_as_it_is_written_here(tmp_path):
    conf = tmp_path / "none.yaml"
    conf.write_text(micro_text().replace("    samples: 4\n", ""))
    with pytest.raises(ConfigError, match=r"stages\.zero\.samples: missing: Outputs a question"):
        load_run(conf)
