"""The distributions: the source one holds the repository, and the wheel works outside of a checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".git", ".venv", ".venv-nemo", "runs", "*.egg-info", "build", "dist", ".*_cache")
TIMEOUT_S = 300
CONF = """\
name: first
plugins: [own_source.py]
seed: 1
tokenizer: {kind: sentencepiece, train: {source: larger, vocab_size: 64, model_type: word}}
template: minimal
model:
  family: qwen2
  vocab_size: 64
  num_layers: 1
  hidden_size: 16
  num_attention_heads: 2
  num_query_groups: 1
  ffn_hidden_size: 32
  max_position_embeddings: 128
layout: {ranks: 1}
stages:
  base:
    kind: pretrain
    data: {numbers: {source: larger}}
    steps: 2
    documents: 4
    sample_mask: true
    tokens_per_pack: 512
    optim: {lr: 1e-3}
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it alone."""
    place = tmp_path_factory.mktemp("distributions")
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    pack = f"from setuptools.build_meta import build_sdist; build_sdist({str(place)!r})"
    call([sys.executable, "-c", pack], source)
    (archive,) = place.glob("*.tar.gz")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    call([*build, str(archive), "-w", str(place)], place)
    return place


@pytest.fixture(scope="module")
def installed(distributions) -> Path:
    """The scripts of an environment that has the wheel, and of the rest what these tests run with."""
    place = distributions / "venv"
    venv.create(place, symlinks=True)
    (wheel,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(place), "install", "--no-deps", "--no-index"]
    call([*pip, str(wheel)], distributions)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def call(command: list[str], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_source_distribution_holds_what_the_repository_tracks(distributions):
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        packed = {member.name.partition("/")[2] for member in files.getmembers() if member.isfile()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = {name for name in call(listing, ROOT).split("\n")[:-1] if (ROOT / name).exists()}
    own = {"PKG-INFO", "setup.cfg"}
    assert {name for name in packed - tracked - own if ".egg-info/" not in name} == set()
    assert {name for name in tracked - packed if not name.startswith(".")} == set()


def test_every_command_works_from_the_wheel_outside_of_a_checkout(installed, tmp_path):
    where = call(
        [str(installed / "python"), "-c", "import megatron_r1; print(megatron_r1.__file__)"], tmp_path
    )
    assert where.startswith(str(installed.parent))
    (tmp_path / "first.yaml").write_text(CONF)
    shutil.copy(ROOT / "examples" / "own_source.py", tmp_path)

    def r1(*words: str) -> str:
        return call([str(installed / "megatron-r1"), *words], tmp_path)

    def before_a_run() -> None:
        assert "doctor" in r1("--help")
        assert "megatron-core" in r1("doctor")
        assert "first: no problems found" in r1("check", "first.yaml")
        assert "first on 1 x h100" in r1("plan", "first.yaml", "--hardware", "h100")
        script = r1("submit", "first.yaml", "--dry-run", "--run-dir", "runs/submitted")
        assert "code: megatron-r1 0." in script
        assert "PYTHONPATH" not in script

    def a_run_and_its_results() -> None:
        r1("run", "first.yaml")
        assert "wrote runs/first/report.html" in r1("report", "runs/first")
        r1("convert", "export", "runs/first/base/checkpoint/step_00000002", "exported")
        assert "qwen2" in r1("convert", "inspect", "exported")

    with ThreadPoolExecutor() as side_by_side:
        for work in [side_by_side.submit(before_a_run), side_by_side.submit(a_run_and_its_results)]:
            work.result()
