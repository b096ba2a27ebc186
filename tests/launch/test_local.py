"""`launch` with a real configuration, real ranks, and a pipeline put in the place of training."""

import os

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.launch.local import launch
from megatron_r1.run.config import load_run
from megatron_r1.runtime import run_lock

from .conftest import ROOT

CONFIG = f"""
name: tiny
plugins: [{ROOT}/examples/toy/arithmetic.py]
tokenizer: {{kind: sentencepiece, train: {{source: arithmetic}}}}
template: minimal
model:
  family: llama
  vocab_size: 64
  num_layers: 2
  hidden_size: 64
  num_attention_heads: 2
  num_query_groups: 2
  ffn_hidden_size: 128
layout: {{ranks: 2}}
stages:
  base:
    kind: pretrain
    data: {{sums: {{source: arithmetic}}}}
    steps: 10
    documents: 8
    optim: {{lr: 1e-3}}
"""
PIPELINE = """
import os, sys, types

def run_rank(run_dir):
    from megatron_r1.errors import GateError
    from megatron_r1.runtime.heartbeat import beat
    beat("base", 3)
    print(sorted(path.name for path in run_dir.iterdir()))
    print({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MEGATRON_R1_FROM_STAGE")})
    if os.environ["RANK"] == "1" and "FAIL" in os.environ:
        raise GateError("base: loss is NaN")

sys.modules["megatron_r1.run.chain"] = types.SimpleNamespace(run_rank=run_rank)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration, in a directory where ranks find PIPELINE instead of the package's own."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    (tmp_path / "sitecustomize.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path / "tiny.yaml"


def test_ranks_find_the_resolved_configuration_in_the_locked_run_directory(config, tmp_path):
    assert launch(config, overrides=["stages.base.steps=20"]) == 0
    resolved = load_run(tmp_path / "runs/tiny/resolved.yaml").value
    assert resolved == load_run(config, overrides=["stages.base.steps=20"]).value
    assert resolved.stages["base"].steps == 20
    log = (tmp_path / "runs/tiny/logs/rank1.log").read_text()
    assert "['.lock', 'logs', 'resolved.yaml']" in log


def test_the_users_threads_and_the_stage_to_repeat_reach_the_ranks(config, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch(config, from_stage="base", run_dir=tmp_path / "elsewhere") == 0
    log = (tmp_path / "elsewhere/logs/rank0.log").read_text()
    assert "{'OMP_NUM_THREADS': '3', 'MEGATRON_R1_FROM_STAGE': 'base'}" in log


def test_the_exit_code_is_that_of_the_error_on_any_rank(config, monkeypatch, caplog):
    monkeypatch.setenv("FAIL", "1")
    assert launch(config) == 5
    message = caplog.messages[-1]
    assert message.index("error: base: loss is NaN") < message.index("error: rank 1 of 2")
    assert "stage base, step 3" in message


def test_nothing_starts_with_a_mistake_in_the_configuration(config, tmp_path):
    for wrong in (
        {"overrides": ["layout.tensor=4"]},
        {"overrides": ["template=none"]},
        {"from_stage": "bas"},
    ):
        with pytest.raises(ConfigError):
            launch(config, **wrong)
    assert not (tmp_path / "runs").exists()


def test_a_run_directory_in_use_is_left_as_it_is(config, tmp_path):
    run_dir = tmp_path / "runs/tiny"
    run_dir.mkdir(parents=True)
    with run_lock.hold(run_dir), pytest.raises(run_lock.RunLockedError):
        launch(config)
    assert [path.name for path in run_dir.iterdir()] == [".lock"]


def test_more_ranks_than_cores_are_warned_of(config, monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert launch(config) == 0
    assert any("2 ranks share 1 core:" in message for message in caplog.messages)
