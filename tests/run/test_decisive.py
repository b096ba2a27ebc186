"""What decides a stage's result: the mark on the field, which the chain and `submit` both go by."""

from pathlib import Path

import pytest

from megatron_r1.files.run_directory import Artifact
from megatron_r1.launch.slurm.submit import stages_to_run
from megatron_r1.run import lineage
from megatron_r1.run.config import RunConfig, load_run
from megatron_r1.run.continuing import config_changes
from megatron_r1.run.lineage import digest_of

MICRO = Path(__file__).parents[1] / "end_to_end" / "micro.yaml"
STAGES = ["base", "zero", "measure"]

SAME = (
    "name=another", "run_dir=elsewhere", "layout={ranks: 2, tensor: 2}", "rollout.layout={tensor: 2}",
    "rollout.engine=modules", "rollout.max_concurrent=3", "rollout.speculation=mtp",
    "rollout.cuda_graphs=true", "rollout.overlap_rewards=true", "stages.zero.rollout.overlap_rewards=true",
    "recompute=full", "max_logits=null", "prompt_logits=true", "offload=[optimizer]", "timeout_s=60",
    "watchdog_s=600", "plan.hardware=h800", "plan={hardware: b200, refuse: false}", "slurm.partition=debug",
    "slurm.stages.zero.time=1:00:00", "stages.base.checkpoint_every=1", "stages.zero.keep_checkpoints=5",
    "stages.zero.export={}", "stages.zero.export={to: models/out, fp8: true}",
)  # fmt: skip
OTHERS = {
    "seed=8": STAGES, "precision=bf16": STAGES, "rollout.precision=fp8": STAGES,
    "model.num_layers=4": STAGES, "tokenizer.train.vocab_size=60": STAGES, "template=deepseek_r1": STAGES,
    "rollout.max_off_policy_steps=1": ["zero"], "stages.zero.rollout={max_off_policy_steps: 2}": ["zero"],
    "stages.base.optim.lr=0.5": ["base"], "stages.zero.optim.lr=0.5": ["zero"],
    "stages.zero.loss.kl_coef=0.5": ["zero"], "stages.zero.rewards.accuracy.weight=3": ["zero"],
    "stages.zero.tokens_per_pack=64": ["zero"], "stages.measure.evaluation.questions=3": ["measure"],
}  # fmt: skip


def run(*overrides: str) -> RunConfig:
    return load_run(MICRO, overrides=overrides).value


@pytest.fixture(scope="module")
def begun() -> RunConfig:
    return run()


@pytest.mark.parametrize("override", SAME)
def test_what_has_no_effect_leaves_every_stage_as_it_is(begun: RunConfig, override: str) -> None:
    now = run(override)
    assert now != begun
    assert [now.decisive(name) for name in STAGES] == [begun.decisive(name) for name in STAGES]


@pytest.mark.parametrize("override", OTHERS)
def test_what_decides_is_seen_in_the_stages_that_it_decides(begun: RunConfig, override: str) -> None:
    now = run(override)
    assert [name for name in STAGES if now.decisive(name) != begun.decisive(name)] == OTHERS[override]


def test_a_stage_keeps_the_hash_that_earlier_versions_gave_it(begun: RunConfig) -> None:
    """Those had a list of the run's keys, and all of the stage's but its export."""
    stage = begun.stages["base"].model_dump(mode="json", exclude={"export"})
    theirs = {
        "stage": stage, "model": begun.model.model_dump(mode="json"), "seed": begun.seed,
        "tokenizer": begun.tokenizer.model_dump(mode="json"), "template": begun.template,
        "precision": begun.precision, "plugins": begun.decisive("base")["plugins"],
    }  # fmt: skip
    section = begun.stages["base"]
    assert config_changes(theirs, begun.decisive("base"), name="base", section=section) == []
    theirs["stage"] = {**stage, "checkpoint_every": 7}
    assert config_changes(theirs, begun.decisive("base"), name="base", section=section) == []
    theirs["stage"] = {**stage, "steps": 7}
    (found,) = config_changes(theirs, begun.decisive("base"), name="base", section=section)
    assert found.startswith("stages.base.steps: 7 then, ")


def test_a_stage_of_before_the_rollout_section_is_the_same_by_the_new_names() -> None:
    ahead = ("stages.zero.rollout.max_off_policy_steps=1", "stages.zero.loss.rollout_correction=mask")
    now = run("rollout.precision=fp8", *ahead)
    decisive, section = now.decisive("zero"), now.stages["zero"]
    stage = {key: value for key, value in section.model_dump(mode="json").items() if key != "rollout"}
    theirs = {**decisive, "stage": {**stage, "steps_ahead": 1, "rewards_beside": True}}
    theirs["rollout_precision"] = theirs.pop("rollout")["precision"]
    assert config_changes(theirs, decisive, name="zero", section=section) == []
    theirs["stage"] = {**theirs["stage"], "steps_ahead": 0}
    assert config_changes(theirs, decisive, name="zero", section=section) == [
        "stages.zero.rollout.max_off_policy_steps: 0 then, 1 now"
    ]


def finish(config: RunConfig, folder: Path) -> None:
    """Every stage leaves the artifact that says with what it was made."""
    (folder / "tokenizer.model").write_bytes(b"pieces")
    for name, stage in config.stages.items():
        decisive = config.decisive(name)
        inputs = lineage.own_inputs(config, name, folder)
        (folder / name).mkdir()
        done = Artifact(name, stage.kind, decisive, digest_of(decisive), inputs, None, {})
        done.write(folder / name)


def test_submit_queues_the_stages_from_the_first_whose_result_is_another(tmp_path, begun: RunConfig) -> None:
    finish(begun, tmp_path)
    queued = {text: stages_to_run(run(text), tmp_path, None) for text in (*SAME, *OTHERS)}
    for text in SAME:
        assert queued[text] == [], text
    for text, others in OTHERS.items():
        assert queued[text] == STAGES[STAGES.index(others[0]) :], text
    assert stages_to_run(begun, tmp_path, "zero") == ["zero", "measure"]
