"""What stages refer to by name: weights, data and models; all of it must be there by then."""

from pathlib import Path

import pytest

from megatron_r1.config import resolved
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run

MICRO_R1 = Path(__file__).parents[1] / "end_to_end" / "micro_r1.yaml"


def load(*overrides):
    return load_run(MICRO_R1, overrides=overrides)


def finding(*overrides):
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    (line,) = str(error.value).splitlines()
    return line


def test_a_stage_has_the_model_of_its_weights_unless_it_names_one():
    run = load().value
    assert {name: run.model_name(name) for name in run.stages} == {
        "base": None, "zero": None, "measure": None, "rejection": None, "sft": None,
        "distilled": "student", "measure_student": "student", "on_policy": "student",
    }  # fmt: skip
    assert run.for_stage("sft") is run
    student = run.for_stage("measure_student")
    assert student.model.family == "qwen2"
    assert (student.tokenizer, student.template) == (run.tokenizer, run.template)


def test_a_model_may_bring_its_own_template_and_tokenizer():
    run = load(
        "models.student.template=r1_zero",
        "models.student.tokenizer={kind: sentencepiece, train: {source: arithmetic, model_type: unigram}}",
    ).value
    student = run.for_stage("distilled")
    assert student.template == "r1_zero"
    assert student.tokenizer.train.model_type == "unigram"
    assert run.for_stage("sft").template == "minimal"


def test_named_models_survive_the_resolved_file(tmp_path):
    path = tmp_path / "resolved.yaml"
    path.write_text(resolved(load().value))
    assert load_run(path).value == load().value


def test_an_unknown_model_is_refused():
    line = finding("stages.distilled.model=studnet")
    assert line.startswith("override 'stages.distilled.model=studnet': stages.distilled.model: ")
    assert line.endswith("no 'studnet' in models; did you mean student?")


def test_weights_of_another_model_are_refused():
    line = finding("stages.sft.model=student")
    assert "'student', but stage base has the model the run's own; they must be the same" in line
    line = finding("stages.measure_student.model=student", "stages.measure_student.init=sft")
    assert "'student', but stage sft has the model the run's own" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rejction", "no earlier stage 'rejction'; did you mean rejection?"),
        ("distilled", "'distilled' is a later stage; move it before this one"),
        ("sft", "'sft' is this stage itself"),
    ],
)
def test_data_must_come_from_an_earlier_stage(name, message):
    line = finding(f"stages.sft.data.own.stage={name}")
    assert f"stages.sft: a source of its data: {message}" in line
