"""The rendered script: what it asks for, bash can read it, and no value can break out of its line."""

import json
import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from megatron_r1.config.slurm import Slurm, duration_s
from megatron_r1.errors import ConfigError
from megatron_r1.files.run_directory import LOGS, job_file, rank_log
from megatron_r1.launch.git_snapshot import REPOSITORY
from megatron_r1.launch.slurm.script import StageScript
from megatron_r1.run.config import load_run
from tests.end_to_end.micro_run import micro_text

FULL = """
partition: gpu
account: physics
qos: high
constraint: h100
reservation: ours
time: 1-00:00:00
memory: 900G
exclusive: true
mail_user: someone@example.org
extra: [--switches=1]
srun: [--cpu-bind=cores]
modules: [cuda/12.4]
setup: [ulimit -l unlimited]
environment: {NCCL_IB_HCA: "mlx5; rm -rf /", WHO: "it's me"}
container: {image: registry/r1:1, mounts: ["/data:/data", "/runs:/runs"]}
stages: {zero: {time: 2-00:00:00, partition: long}}
"""


def render(
    text: str = "{}", *, ranks: int = 16, stage: str = "zero", run_dir: str = "/runs/50% done",
    directory: str = "/home",
) -> str:  # fmt: skip
    slurm = Slurm.model_validate_json(json.dumps(YAML(typ="safe").load(text)))
    return StageScript(
        run="toy",
        stage=stage,
        run_dir=Path(run_dir),
        directory=Path(directory),
        ranks=ranks,
        slurm=slurm,
        commit="abc",
    ).render()


def bash_reads(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_default_asks_for_nodes_tasks_and_a_gpu_a_rank():
    script = render()
    bash_reads(script)
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue", "--signal=USR1@300"):
        assert f"#SBATCH {line}\n" in script
    assert "--partition" not in script
    assert "#SBATCH --output='/runs/50%% done/slurm/zero.log'\n" in script


def test_few_ranks_take_one_node():
    script = render(ranks=4)
    assert "--nodes=1\n#SBATCH --ntasks-per-node=4\n" in script
    assert "--gpus-per-node=4\n" in script


def test_everything_of_the_section_is_in_the_script_where_it_belongs():
    script = render(FULL)
    bash_reads(script)
    for line in ("--partition=long", "--account=physics", "--qos=high", "--constraint=h100", "--mem=900G",
                 "--reservation=ours", "--time=2-00:00:00", "--exclusive", "--mail-user=someone@example.org",
                 "--mail-type=FAIL,END", "--switches=1"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --partition=gpu\n#SBATCH --account" in render(FULL, stage="base")
    assert "module load cuda/12.4\nulimit -l unlimited\nexport NCCL_IB_HCA='mlx5; rm -rf /'\n" in script
    assert "--container-image=registry/r1:1 --container-mounts=/data:/data,/runs:/runs" in script
    assert "--cpu-bind=cores" in script


@pytest.mark.parametrize("value", ['"a\\nb"', '""', '"a\\u0000b"'])
def test_a_value_is_one_line(value):
    with pytest.raises(ValueError, match="must be one line"):
        render(f"partition: {value}")


@pytest.mark.parametrize("name", ["a\n#SBATCH --wrap=x", "a\r", "a\x85b", "a\u2028b", "a\x1b[2J", "a\\b"])
def test_a_path_that_no_line_can_hold_is_refused(name):
    with pytest.raises(ConfigError, match="run_dir: a job script can't hold the path '/runs/a"):
        render(run_dir=f"/runs/{name}")
    if "\\" not in name:
        with pytest.raises(ConfigError, match="directory: a job script can't hold the path"):
            render(directory=f"/{name}")


@pytest.mark.parametrize("name", ["it's", "a b", "a#b", 'a"b', "a;b", "$(touch x)", "`id`", "é", "-x", "a&b"])
def test_any_other_path_stays_one_word(name, tmp_path):
    script = render(run_dir=f"{tmp_path}/{name}", directory=f"{tmp_path}/{name}")
    bash_reads(script)
    (output,) = [line for line in script.splitlines() if line.startswith("#SBATCH --output=")]
    assert shlex.split(output.removeprefix("#SBATCH ")) == [f"--output={tmp_path}/{name}/slurm/zero.log"]
    shown = subprocess.run(
        ["bash", "-c", "cd() { printf '%s\\n' \"$1\"; }\n" + _lines(script, "cd ", "RUN=") + 'echo "$RUN"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == f"{tmp_path}/{name}\n" * 2


def _lines(script: str, *starts: str) -> str:
    return "".join(f"{line}\n" for line in script.splitlines() if line.startswith(starts))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("extra: ['--time=1']", "--time is in the script already, from slurm.time; remove it here"),
        ("extra: ['-t30']", "-t is in the script already, from slurm.time"),
        ("stages: {zero: {extra: ['--signal=USR1@5']}}", "from slurm.warning_s"),
        ("extra: ['-N 3']", "from layout.ranks and slurm.ranks_per_node"),
        ("extra: ['switches=1']", "an option begins with -"),
        ('extra: ["--switches=1\\nrm -rf /"]', "must be one line"),
        ("srun: ['-l']", "an option of srun is --NAME or --NAME=VALUE, got '-l'"),
        ("srun: ['--cpu-bind', 'cores']", "got 'cores'"),
        ("srun: ['--cpu-bind cores']", "got '--cpu-bind cores'"),
        ("srun: ['--output=x']", "--output is in the script already"),
        ("container: {image: x, options: ['writable']}", "got 'writable'"),
        ("environment: {RUN: /tmp}", "RUN is the job script's own"),
        ("environment: {MASTER_ADDR: localhost}", "MASTER_ADDR is the job script's own"),
        ("environment: {É: x}", "is no name of an environment variable"),
        ('environment: {A: "x\\ny"}', "must be one line"),
        ("time: '٣٠'", "must look like 30"),
        ("time: 1:2:3", "must look like 30"),
        ("time: 999999999-00", "must be at most 100000 days"),
    ],
)
def test_what_would_break_the_script_is_refused(section, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        render(section)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("30:10", 1810), ("04:00:00", 14400), ("1-2", 93600), ("1-2:03", 93780),
     ("2-00:00:01", 172801), ("0", 0)],
)  # fmt: skip
def test_a_time_limit_is_read_as_sbatch_reads_it(time, seconds):
    assert duration_s(time) == seconds


@pytest.mark.parametrize(
    ("section", "found"),
    [
        ({"time": "5"}, ["time: 5 is 300 s"]),
        ({"time": "00:04:59"}, ["time: 00:04:59 is 299 s"]),
        ({"time": "10", "warning_s": 600}, ["time: 10 is 600 s"]),
        ({"stages": {"zero": {"time": "00:01:00"}}}, ["stages.zero.time: 00:01:00 is 60 s"]),
        (
            {"time": "1", "stages": {"zero": {"time": "10"}, "base": {"time": "2"}}},
            ["stages.base.time: 2 is 120 s"],
        ),
        ({"time": "00:05:01"}, []),
        ({"time": "0"}, []),
    ],
)
def test_a_job_that_would_be_told_to_stop_as_it_starts_is_refused(section, found):
    slurm = Slurm.model_validate_json(json.dumps(section))
    problems = slurm.problems(ranks=8, stages=["base", "zero"])
    assert [text.split(", and the ranks")[0] for text in problems] == found


def test_a_limit_that_slurms_early_warning_may_reach_is_warned_of():
    assert Slurm(time="6").warnings(["zero"]) == []
    (text,) = Slurm(time="00:05:59").warnings(["zero"])
    assert "time: 00:05:59 is 59 s more than warning_s" in text


def test_the_cores_of_a_rank_reach_srun_and_the_job_runs_where_it_was_submitted():
    script = render("cpus_per_rank: 3\ncontainer: {image: x}", directory="/home/me")
    assert "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-3}\n" in script
    assert "\ncd /home/me\n" in script
    assert f"\nexport PYTHONPATH={REPOSITORY}${{PYTHONPATH:+:$PYTHONPATH}}\n" in script
    assert "--container-workdir=/home/me" in script


def test_a_template_of_ones_own_is_used_and_its_mistakes_are_named(tmp_path):
    mine = tmp_path / "mine.jinja"
    mine.write_text("#!/bin/bash\n# {{ stage }} on {{ nodes }}\n")
    assert render(f"template: {mine}") == "#!/bin/bash\n# zero on 2\n"
    for text, words in (
        ("{{ nonsense }}", "'nonsense' is undefined; correct the template"),
        ("{% if %}", "mine.jinja:1: .*; correct the template"),
        ("{{ 1 / 0 }}", "division by zero; correct the template"),
        ("{% include 'other' %}", "; correct the template"),
    ):
        mine.write_text(text)
        with pytest.raises(ConfigError, match=words):
            render(f"template: {mine}")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "is no file"), ("", "is no file"), ("gone", "no such file")):
        with pytest.raises(ConfigError, match=words):
            render(f"template: {tmp_path / name}")


def test_the_sites_profile_that_the_docs_name_is_taken():
    slurm = load_run(
        REPOSITORY / "conf" / "tiny_zero.yaml", site=REPOSITORY / "slurm" / "site.yaml"
    ).value.slurm
    assert (slurm.partition, slurm.ranks_per_node, slurm.modules) == ("gpu", 8, ("cuda/12.8",))


def test_a_sites_profile_lies_below_the_run(tmp_path):
    site, conf = tmp_path / "site.yaml", tmp_path / "micro.yaml"
    conf.write_text(micro_text() + "slurm: {partition: debug}\n")
    site.write_text("slurm: {partition: gpu, account: physics}\n")
    slurm = load_run(conf, site=site).value.slurm
    assert (slurm.partition, slurm.account) == ("debug", "physics")
    site.write_text("slrm: {}\n")
    with pytest.raises(ConfigError, match=r"site\.yaml:1: slrm"):
        load_run(conf, site=site)


@pytest.mark.parametrize("text", ["{}", FULL])
def test_the_script_starts_modules_that_there_are_and_names_files_as_the_run_does(text):
    script = render(text)
    called = re.findall(r"in_ranks_environment (?:[^ ]+ )*?(\w+) (?:begin|end) ", script)
    called += re.findall(r'^    (\w+) "\$RUN"', script, flags=re.M)
    called += re.findall(r"-m megatron_r1\.launch\.slurm\.(\w+) ", script)
    assert called.count("restarts") == 2
    assert called.count("task") == 1
    assert all(find_spec(f"megatron_r1.launch.slurm.{module}") for module in called)
    assert f'"$RUN/{job_file(Path(), "$STAGE", "srun")}"' in script
    assert f"/{rank_log(Path(LOGS), 0)}".replace("0", "%t") in script
