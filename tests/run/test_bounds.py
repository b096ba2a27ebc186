"""Values that no run can have are refused before anything is built: one finding, its key, the value."""

import re

import pytest

from megatron_r1.check.findings import check
from megatron_r1.errors import ConfigError
from megatron_r1.run.config import load_run
from tests.end_to_end.micro_run import CONFIG, micro_text

OPTIM = "stages.base.optim"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        *[(f"{OPTIM}.{key}={value}", f"{OPTIM}.{key}: must be a finite number, got")
          for key in ("lr", "weight_decay", "beta1", "beta2", "epsilon", "clip_grad", "final_share")
          for value in (".inf", "-.inf", ".nan", "1e999")],
        (f"{OPTIM}.lr=0", "must be greater than 0.0, got 0"),
        (f"{OPTIM}.lr=1e31", "must be at most 1e+30, got 1e+31"),
        (f"{OPTIM}.epsilon=0", "must be at least 1e-30, got 0"),
        (f"{OPTIM}.epsilon=1e-50", "must be at least 1e-30"),
        (f"{OPTIM}.clip_grad=0", "must be at least 1e-30"),
        (f"{OPTIM}.weight_decay=11", "must be at most 10"),
        (f"{OPTIM}.beta2=1.0", "must be less than 1"),
        ("stages.zero.temperature=.inf", "stages.zero.temperature: must be a finite number"),
        ("stages.zero.rewards.format.weight=.nan", "must be a finite number"),
        ("stages.zero.loss.clip_low=.nan", "must be a finite number"),
        ("timeout_s=.inf", "timeout_s: must be a finite number"),
        ("plan.mfu=.nan", "plan.mfu: must be a finite number"),
        ("model.num_layers=10000000", "model.num_layers: must be at most 10000, got 10000000"),
        ("model.num_layers=0", "must be at least 1"),
        ("model.hidden_size=-16", "must be at least 1"),
        ("model.num_experts=1000000000", "must be at most 65536"),
        ("model.mtp_layers=1000000", "must be at most 1000"),
        ("model.vocab_size=99999999999", "must be at most 16777216"),
        ("model.rope_theta=0", "must be at least 1e-30, got 0"),
        ("model.rope_theta=.inf", "must be a finite number"),
        ("model.norm_epsilon=0.0", "must be at least 1e-30"),
        ("model.norm_epsilon=.nan", "must be a finite number"),
        ("model.megatron.layernorm_epsilon=.nan", "layernorm_epsilon: nan is no finite number"),
        ("layout.ranks=1000000000", "layout.ranks: must be at most 1048576"),
        ("layout.pipeline_split=Et*99999999999L", "stands for more than 100000 layers"),
        ("layout.pipeline_split=E(t*9999|)*9999L", "stands for more than 100000 layers"),
        ("stages.zero.temperature=1e30", "stages.zero.temperature: must be at most 100.0, got 1e+30"),
        ("stages.zero.temperature=1e-30", "stages.zero.temperature: must be at least 0.01, got 1e-30"),
        ("stages.measure.evaluation.temperature=101", "temperature: must be at most 100.0, got 101"),
        ("stages.measure.evaluation.temperature=1e-30", "must be 0, which takes the most likely token"),
        ("stages.zero.loss.kl_coef=1e30", "loss.kl_coef: must be at most 1000.0, got 1e+30"),
        ("stages.zero.rewards.format.weight=-1e300", "must be at least -1000000.0, got -1e+300"),
        ("stages.zero.loss.sapo.temperature_positive=1e9", "must be at most 1000.0, got 1000000000.0"),
        ("stages.zero.loss.vespo.k_negative=1e9", "must be at most 100.0"),
        ("stages.zero.data.chains.weight=1e300", "must be at most 1000000000000000.0"),
        ("stages.zero.steps=999999999999999", "stages.zero.steps: must be at most 1000000000, got"),
        ("stages.zero.questions=999999999999999", "stages.zero.questions: must be at most 1000000000, got"),
        ("stages.zero.samples=999999999999999", "must be at most 1000000000, got"),
        ("stages.zero.tokens_per_pack=800000000000", "must be at most 67108864, got"),
        ("timeout_s=1e300", "timeout_s: must be at most 100000000.0, got 1e+300"),
        ("watchdog_s=1e300", "watchdog_s: must be at most 100000000.0, got 1e+300"),
        ("slurm.warning_s=70000", "slurm.warning_s: must be at most 65535, got 70000"),
        ("stages.zero.final={updates: 2}", "stages.zero.final: it adds neither data nor rewards"),
        ("stages.zero.rewards={accuracy: {weight: 0}, format: {weight: 0}}", "rewards: every weight is 0"),
        ("stages.zero.updates=4096", "stages.zero.updates: 4096, and a step has"),
        ("stages.zero.watch={data: {a: {source: assistant, topic: general}}, models: {x: base}}",
         "stages.zero.watch.models.x: base is a pretrain stage; only a reward_model has scores"),
        ("stages.zero.export={max_shard_size: 0GB}", "max_shard_size: must be text that matches"),
        ("stages.zero.data={a: {source: stage, stage: base}}", "base is a pretrain stage and makes no data"),
        ("seed=-1", "seed: must be at least 0, got -1"),
        ("seed=99999999999999999999", "too large for an integer of 64 bits"),
        ("seed=0x" + "f" * 9000, "too large for an integer of 64 bits"),
        ('run_dir="a\\nb"', "run_dir: must be one line without control characters, got 'a\\nb'"),
        ('run_dir="a\\0b"', "run_dir: must be one line"),
        ('name="a\\nb"', "name: a name is letters, digits, _ and -, got 'a\\nb'"),
        (f"name={'a' * 81}", "a name has at most 80 characters"),
        ("slurm.time=00:05:00", "slurm.time: 00:05:00 is 300 s"),
        ("slurm.stages.zero.time=00:02:00", "slurm.stages.zero.time: 00:02:00 is 120 s"),
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_have_is_refused_in_one_line(override, words):
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        check(CONFIG, overrides=[override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["logs", "slurm", "tokenizers", "Logs"])
def test_a_stage_can_t_have_the_name_of_a_directory_of_the_run(name, tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(micro_text().replace("  measure:", f"  {name}:"))
    with pytest.raises(ConfigError, match=rf"yaml:\d+: stages\.{name}: {name} is the name of a directory"):
        load_run(conf)


def test_a_rate_above_1_is_allowed_and_warned_of():
    assert "stages.base.optim.lr: 3e+06 moves every weight" in check(CONFIG, overrides=[f"{OPTIM}.lr=3e+6"])


def test_a_warmup_that_the_stage_never_ends_is_warned_of():
    steps = load_run(CONFIG).value.stages["base"].steps
    words = f"stages.base.optim.warmup_steps: {steps + 1}, and the stage has {steps} steps"
    assert words in check(CONFIG, overrides=[f"{OPTIM}.warmup_steps={steps + 1}"])
    assert words not in check(CONFIG, overrides=[f"{OPTIM}.warmup_steps={steps}"])
