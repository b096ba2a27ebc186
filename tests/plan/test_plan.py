"""Plans: the paper's run, what fits and what does not, and the words for it."""

from pathlib import Path

import pytest

from megatron_r1.backend.memory_shards import Shard
from megatron_r1.check.planned import plan
from megatron_r1.config.layout import Layout, even_split, problems
from megatron_r1.errors import ConfigError
from megatron_r1.plan.hardware import FOLDER, load_hardware, names
from megatron_r1.plan.plan import make_plan
from megatron_r1.plan.text import report
from megatron_r1.run.config import RunConfig, load_run

PAPER = Path(__file__).parents[2] / "conf" / "r1_zero_671b.yaml"
MICRO = Path(__file__).parents[1] / "end_to_end" / "micro.yaml"
# V3 4.2 and 3.2: 2,048 H800, PP16, EP64, ZeRO-1, no tensor parallelism, sequences of 4K, batches of 15,360
PRETRAINING = (
    "layout.ranks=2048",
    "layout.expert=64",
    "layout.context=1",
    "stages.zero={kind: pretrain, data: {chains: {source: arithmetic}}, steps: 1000, documents: 15360, "
    "window: 4096, tokens_per_pack: 4096, optim: {lr: 2.2e-4}}",
)


@pytest.fixture(scope="module")
def paper():
    run = load_run(PAPER, overrides=PRETRAINING).value
    return run, make_plan(run, "h800")


@pytest.mark.slow
def test_the_papers_layout_fits_its_80_gb(paper):
    run, found = paper
    assert (run.layout.ranks, run.layout.pipeline, run.layout.expert, run.layout.tensor) == (2048, 16, 64, 1)
    assert run.layout.distributed_optimizer, "ZeRO-1"
    assert found.misfits() == []
    assert found.parameters == 671_026_419_200


@pytest.mark.slow
def test_flops_and_hours_are_near_what_the_paper_reports(paper):
    """V3 table 1: 180K H800 hours a trillion tokens. The plan must come close at its MFU."""
    run, _ = paper
    as_reported = run.model_copy(update={"plan": run.plan.model_copy(update={"mfu": 0.39})})
    as_reported = as_reported.model_copy(
        update={"recompute": "selective"}
    )  # whole layers are not computed twice
    stage = make_plan(as_reported, "h800").stages[0]
    tokens = stage.steps * 15360 * 4096
    saving = stage.checkpoints * stage.work.checkpoint_s / 3600 * run.layout.ranks
    without_bubble = (stage.work.gpu_hours - saving) * (1 - stage.work.bubble)  # DualPipe hides most of it
    assert without_bubble / tokens * 1e12 == pytest.approx(180_000, rel=0.1)


def rolling(run: RunConfig, **update: object) -> RunConfig:
    """The run with other values in its `rollout`."""
    return run.model_copy(update={"rollout": run.rollout.model_copy(update=update)})


@pytest.mark.slow
def test_r1_zero_as_published_fits_on_512_only_if_its_rollout_is_bounded():
    run = load_run(PAPER).value
    bounded = make_plan(run, "h800")
    assert not bounded.misfits()
    # outputs x tokens x layers x (latent + rotated key) x bytes
    assert bounded.stages[0].memory[1].kv_cache == 12 * (65536 + 1024) * 16 * 576 * 2
    unbounded = make_plan(rolling(run, max_concurrent=None), "h800")
    phases = unbounded.stages[0].fullest.phases()
    assert phases["training"] < unbounded.hardware.usable_bytes < phases["rollout"]
    (text,) = unbounded.misfits()
    assert text.startswith("stages.zero: rollout needs ")
    assert "lower rollout.max_concurrent" in text


@pytest.mark.slow
def test_the_rollouts_own_layout_costs_a_copy_of_the_weights_and_saves_most_of_its_time():
    run = load_run(PAPER).value
    (stage,) = make_plan(run, "h800").stages
    (shared,) = make_plan(rolling(run, layout=None, max_concurrent=128), "h800").stages
    # 4 of 61 layers a stage, 2 bytes a weight: a fourth of what is no expert, a 512th of the experts
    experts = 58 * 256 * 3 * 7168 * 2048
    assert stage.fullest.rollout_model > 2 * ((671_026_419_200 - experts) / 4 + experts / 512)
    assert stage.work.refit_bytes == pytest.approx(stage.fullest.rollout_model, rel=1e-2)
    assert shared.fullest.rollout_model == shared.work.refit_bytes == shared.work.refit_s == 0
    assert (round(shared.work.rollout_s / 3600), round(stage.work.rollout_s / 3600)) == (18, 2)


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_refused_unless_told_otherwise():
    from megatron_r1.check.findings import check

    with pytest.raises(ConfigError, match=r"rollout needs .* or plan\.refuse=false"):
        check(PAPER, overrides=["rollout.max_concurrent=null"], files=False)
    report = check(PAPER, overrides=["rollout.max_concurrent=null", "plan.refuse=false"], files=False)
    assert report.startswith("r1_zero_671b: no problems found")
    assert "plan for h800" in report
    assert "  stages.zero: rollout needs " in report.split("warnings")[1]


@pytest.mark.slow
def test_the_report_tells_exact_from_modelled():
    text = plan(PAPER, overrides=["rollout.max_concurrent=null", "rollout.layout=null"], hardware="b200")
    for words in (
        "exact, from the real model code: parameters",
        "models: fp8 copy, KV cache",
        "DOES NOT FIT",
        "assumed: MFU 0.35",
    ):
        assert words in text


def test_rollouts_in_fp8_cost_a_copy_of_the_layers_and_save_bytes_of_every_step():
    run = load_run(MICRO, overrides=["precision=bf16"]).value
    shard = Shard(
        pipeline_rank=0, parameters=10**9, mtp_parameters=0, expert_parameters=0, whole=10**9, whole_mtp=0,
        parameter_bytes=2 * 10**9, gradient_bytes=4 * 10**9, other_bytes=0, rounded=9 * 10**8,
        fp8_bytes=905 * 10**6, mtp_fp8_bytes=7 * 10**6, optimizer_dense=(10**9,), optimizer_expert=(0,),
    )  # fmt: skip

    def planned(**update: str):
        plan = make_plan(rolling(run, **update), "h100", built=[shard])
        stage = next(stage for stage in plan.stages if stage.name == "zero")
        return stage.fullest.phases(), stage.work.rollout_s

    (before, stored_s), (after, fp8_s) = planned(), planned(precision="fp8")
    assert {name: after[name] - size for name, size in before.items() if after[name] != size} == {
        "rollout": 905 * 10**6
    }
    drafting, fp8 = {"speculation": "mtp"}, {"precision": "fp8"}
    assert planned(**drafting, **fp8)[0]["rollout"] - planned(**drafting)[0]["rollout"] == 912 * 10**6
    saved = 2 * 9 * 10**8 - 905 * 10**6  # bytes of each of the longest output's 16 steps
    bandwidth = 3350e9 * run.plan.bandwidth_share
    assert stored_s - fp8_s == pytest.approx(16 * saved / bandwidth)


def test_hardware_is_known_by_its_file_and_names_its_source():
    assert {"a100", "b200", "h100", "h200", "h800"} <= set(names())
    assert all(load_hardware(name).source for name in names())
    with pytest.raises(ConfigError, match="no 'h10'; did you mean h100"):
        load_hardware("h10")


def test_hardware_of_ones_own_is_a_file_named_by_its_path(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text((FOLDER / "h100.yaml").read_text().replace("memory_gib: 79.6", "memory_gib: 95"))
    assert load_hardware(str(mine)).memory_gib == 95
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_hardware(str(tmp_path / "none.yaml"))


@pytest.mark.slow
def test_suggestions_for_512_gpus_hold_the_papers_pipeline():
    text = plan(PAPER, overrides=PRETRAINING, suggest=512)
    assert "layouts" in text.splitlines()[0]
    layouts = [line for line in text.splitlines() if ". layout: {ranks: 512" in line]
    assert len(layouts) == 5
    assert text.count("   fits: peak") == 5
    assert 'pipeline: 16, context: 1, expert: 16, pipeline_split: "Et*3|(tttt|)*14ttmL"' in text


def test_an_uneven_split_of_v3_in_16_stages_is_the_published_one():
    shape = load_run(PAPER).value.model.shape()
    assert even_split(shape, pipeline=16) == "Et*3|(tttt|)*14ttmL"
    assert even_split(shape, pipeline=1) is None
    for pipeline in (2, 4, 8, 16):
        layout = Layout(
            ranks=pipeline, pipeline=pipeline, pipeline_split=even_split(shape, pipeline=pipeline)
        )
        assert problems(layout, shape) == []


@pytest.mark.slow
def test_reward_models_stay_beside_the_policy_and_are_planned_themselves():
    preferences = Path(__file__).parents[1] / "end_to_end" / "micro_preferences.yaml"
    overrides = ["stages.helpful.epochs=null", "stages.helpful.steps=3", "stages.all.checkpoint_every=4"]
    run = load_run(preferences, overrides=overrides).value
    found = make_plan(run, "h100")
    text = report(run, found)
    assert max(map(len, text.splitlines())) <= 80
    hours = sum(stage.work.hours for stage in found.stages)
    assert f"total of {len(found.stages)} stages: {hours:,.1f} h" in text
    stages = {stage.name: stage for stage in found.stages}
    assert found.unplanned == ["harmless"]  # as long as its data
    with_models = stages["all"].fullest
    assert with_models.other_models == 2 * (with_models.parameters + with_models.other)
    assert stages["zero"].fullest.other_models == stages["helpful"].fullest.other_models == 0
    assert stages["helpful"].fullest.gradients == with_models.gradients > 0
    away = make_plan(run.model_copy(update={"offload": ["reward_models"]}), "h100")
    rank = next(stage for stage in away.stages if stage.name == "all").fullest
    after = rank.phases()
    scoring = after.pop("scoring")
    freed = {name: size - after[name] for name, size in with_models.phases().items()}
    assert freed == dict.fromkeys(after, pytest.approx(rank.other_models))
    passes = max(rank.kv_cache, rank.forward + rank.logits)
    assert scoring - passes == pytest.approx(after["refit"] + rank.other_models / 2)  # one of the two
    assert rank.host == rank.moved == rank.other_models
    work = stages["all"].work
    assert work.checkpoint_s == pytest.approx(stages["all"].checkpoint_bytes / 20e9)
    assert work.hours * 3600 > 2 * work.checkpoint_s


@pytest.mark.slow
def test_offload_leaves_each_phase_what_it_uses_and_costs_host_memory_and_seconds():
    run = load_run(PAPER).value
    (stage,) = make_plan(run, "h800").stages
    (moved,) = make_plan(run.model_copy(update={"offload": ["optimizer", "reference"]}), "h800").stages
    still, rank = stage.memory[1].phases(), moved.memory[1]
    update = rank.gradients + rank.optimizer
    assert min(rank.reference, rank.optimizer) > 0
    freed = {name: still[name] - size for name, size in rank.phases().items()}
    assert freed == pytest.approx(
        {
            "rollout": update + rank.reference,
            "refit": update + rank.reference,
            "log-probs": update,
            "training": rank.reference,
            "checkpoint": 0,
        }
    )
    # masters and moments, 12 bytes an element; the gradients are not kept
    assert rank.host == rank.optimizer + rank.reference
    assert rank.optimizer % 12 == 0
    assert rank.moved == 2 * rank.optimizer + rank.reference
    busiest = max(one.moved for one in moved.memory)
    assert moved.work.offload_s == pytest.approx(busiest / (64e9 * run.plan.bandwidth_share))
    assert moved.work.hours - stage.work.hours == pytest.approx(stage.steps * moved.work.offload_s / 3600)
    assert stage.work.offload_s == stage.memory[1].host == 0
    text = " ".join(plan(PAPER, overrides=["offload=[optimizer,reference]"], hardware="h800").split())
    assert text.endswith("the optimizer and reference in stages with rollouts: optimizer, reference")
    node = max(one.host for one in moved.memory) * 8 / 1024**3
    assert f"offload: {node:,.0f} GiB of a node's memory" in text
