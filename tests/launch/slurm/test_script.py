"""The rendered script: what it asks for, bash can read it, and no value can break out of its line."""

import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from megatron_r1.errors import ConfigError
from megatron_r1.launch.slurm.script import StageScript
from megatron_r1.launch.slurm.section import Slurm
from megatron_r1.run_config import load_run
from tests.end_to_end.micro_run import CONFIG as MICRO

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


def render(text: str = "{}", *, ranks: int = 16, stage: str = "zero", run_dir: str = "/runs/50% done") -> str:
    slurm = Slurm.model_validate_json(json.dumps(YAML(typ="safe").load(text)))
    return StageScript(
        run="toy", stage=stage, run_dir=Path(run_dir), ranks=ranks, slurm=slurm, commit="abc"
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
    assert "#SBATCH --output=/runs/50%% done/slurm/zero.log\n" in script


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


def test_a_template_of_ones_own_is_used_and_its_mistakes_are_named(tmp_path):
    mine = tmp_path / "mine.jinja"
    mine.write_text("#!/bin/bash\n# {{ stage }} on {{ nodes }}\n")
    assert render(f"template: {mine}") == "#!/bin/bash\n# zero on 2\n"
    mine.write_text("{{ nonsense }}")
    with pytest.raises(ConfigError, match="'nonsense' is undefined; correct the template"):
        render(f"template: {mine}")


def test_a_sites_profile_lies_below_the_run(tmp_path):
    site, conf = tmp_path / "site.yaml", tmp_path / "micro.yaml"
    conf.write_text(MICRO.read_text() + "slurm: {partition: debug}\n")
    site.write_text("slurm: {partition: gpu, account: physics}\n")
    slurm = load_run(conf, site=site).value.slurm
    assert (slurm.partition, slurm.account) == ("debug", "physics")
    site.write_text("slrm: {}\n")
    with pytest.raises(ConfigError, match=r"site\.yaml:1: slrm"):
        load_run(conf, site=site)
