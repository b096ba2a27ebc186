"""What stages find wrong with a run before it starts."""

from pathlib import Path

import pytest

from megatron_r1.run.config import load_run

MICRO = Path(__file__).parents[1] / "end_to_end" / "micro.yaml"


def problems(stage, *overrides):
    run = load_run(MICRO, overrides=overrides).value
    return run.stages[stage].problems(run)


@pytest.mark.parametrize("stage", ["base", "zero", "measure"])
def test_a_good_run_has_none(stage):
    assert problems(stage) == []


def test_questions_must_divide_over_the_replicas():
    (found,) = problems("zero", "layout.ranks=2", "stages.zero.questions=3")
    assert found == "questions: 3 questions do not divide over 2 replicas; use a multiple"


def test_an_output_must_fit_a_pack():
    (found,) = problems("zero", "stages.zero.tokens_per_pack=16")
    assert found.startswith("tokens_per_pack: 16 can't hold one output of 16 tokens with its prompt")


def test_rl_needs_a_reward():
    (found,) = problems("zero", "stages.zero.rewards.format=null", "stages.zero.rewards.language=null")
    assert found == "rewards: none is set; give at least one, such as accuracy: {weight: 1}"


@pytest.mark.parametrize("engine", ["dynamic", "nemo"])
def test_megatron_s_own_engine_keeps_no_routes(engine):
    found = problems("zero", "stages.zero.routing_replay=true", f"rollout.engine={engine}")
    assert found == [
        f"routing_replay: true doesn't work with rollout.engine={engine}, which keeps no routes; use "
        "megatron, or set routing_replay to false"
    ]


def test_a_graph_notes_no_routes():
    (found,) = problems("zero", "stages.zero.routing_replay=true", "rollout.cuda_graphs=true")
    assert found == (
        "routing_replay: true doesn't work with rollout.cuda_graphs=true: a step as a graph notes no routes"
        "; set routing_replay to false, or set rollout.cuda_graphs to false"
    )


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("zero", "max_new_tokens.steps={0: 64}"),
        ("zero", "evaluate.evaluation.max_new_tokens=64"),
        ("measure", "evaluation.max_new_tokens=64"),
        ("base", "until={at_least: 1.0, max_steps: 9, evaluation: {data: {c: {source: arithmetic}}}}"),
    ],
)
def test_an_output_must_fit_the_positions(stage, key):
    (found,) = problems(stage, f"stages.{stage}.{key}")
    assert "don't fit model.max_position_embeddings = 64" in found


def test_a_window_must_fit_the_positions_and_a_pack():
    unmasked = "stages.base.sample_mask=false"
    assert problems("base", unmasked, "stages.base.window=64") == []
    (found,) = problems("base", unmasked, "stages.base.window=65")
    assert "don't fit model.max_position_embeddings = 64" in found
    (found,) = problems("base", unmasked, "stages.base.window=64", "stages.base.tokens_per_pack=32")
    assert found.startswith("window: 64 tokens don't fit tokens_per_pack = 32")


R1 = MICRO.with_name("micro_r1.yaml")


def r1_problems(stage, *overrides):
    run = load_run(R1, overrides=[f"stages.{stage}.{text}" for text in overrides]).value
    return run.stages[stage].problems(run.for_stage(stage))


def test_what_the_stages_of_r1_find():
    for stage in ("rejection", "sft", "on_policy"):
        assert r1_problems(stage) == []
    (found,) = r1_problems("sft", "max_chat_tokens=65")
    assert found.startswith("max_chat_tokens: 65 is above 64, the lower of tokens_per_pack and model.max_pos")
    (found,) = r1_problems("rejection", "restyle={}")
    assert found == "data: restyle takes what an earlier stage kept; name {source: stage, stage: ...}"


def test_samples_in_fp8_are_corrected_or_refused():
    fp8 = "rollout.precision=fp8"
    (found,) = problems("zero", fp8)
    assert found.startswith(
        "loss.rollout_correction: none doesn't work with rollout.precision=fp8: its tokens"
    )
    assert problems("zero", fp8, "stages.zero.loss.rollout_correction=mask") == []
    assert problems("measure", fp8) == [], "nothing learns from an evaluation"
    run = load_run(R1, overrides=[fp8]).value
    assert run.stages["rejection"].problems(run.for_stage("rejection")) == [], "text, whatever drew it"
    (found,) = run.stages["on_policy"].problems(run.for_stage("on_policy"))
    assert found.endswith("samples of the student's own probabilities; leave rollout.precision out")


def test_what_on_policy_distillation_finds():
    (found,) = r1_problems("on_policy", "teacher=one")
    assert found.startswith("teacher: 'one' is no earlier stage with a language model; there are base, zero")
    (found,) = r1_problems("on_policy", "tokens_per_pack=8")
    assert found.startswith("tokens_per_pack: 8 can't hold a sample of 12 tokens with its prompt")
    assert "don't fit model.max_position_embeddings" in r1_problems("on_policy", "max_new_tokens=64")[0]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.zero.loss.rollout_correction=none", "its tokens are of older weights; set loss.rollout_"),
        (
            "stages.zero.groups.no_signal=resample",
            "groups.no_signal=resample: it fixes which questions a step has",
        ),
        ("stages.zero.routing_replay=true", "set routing_replay to false"),
        ("stages.zero.top_p=0.9", "top_p=0.9: the tokens that top_p left out are not carried over; set"),
        ("stages.zero.steps=1", "is not below the 1 steps of the stage; lower it"),
        ("rollout.engine=dynamic", "begins every completion anew; use megatron"),
    ],
)
def test_what_rollouts_ahead_of_training_cannot_have(override, says):
    ahead = ("stages.zero.rollout.max_off_policy_steps=1", "stages.zero.loss.rollout_correction=truncate")
    assert problems("zero", *ahead) == []
    found = problems("zero", *ahead, override)
    assert any("rollout.max_off_policy_steps" in text and says in text for text in found)
