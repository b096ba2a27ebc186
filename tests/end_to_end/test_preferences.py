"""Reward models, and RL with them and with the code reward, on real ranks in several layouts."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from megatron_r1.rewards.coding.sandbox.run import Fate
from tests.end_to_end.micro_run import lines, log_of, metrics, run, start, tensor_digests, wait_until
from tests.end_to_end.preference_files import write_files
from tests.rewards.coding.sandbox.conftest import needs_sandbox

pytestmark = [pytest.mark.slow, needs_sandbox]

CONFIG = Path(__file__).with_name("micro_preferences.yaml")
SOURCES = {
    "stages.zero.data.code": "code",
    "stages.helpful.data.pairs": "pairs",
    "stages.helpful.evaluate.data.pairs": "pairs",
    "stages.harmless.data.points": "points",
    "stages.harmless.evaluate.data.points": "points",
    "stages.all.final.data.general": "general",
    "stages.all.watch.data.general": "general",
}
LAYOUTS = {"ep2": ["layout.ranks=2", "layout.expert=2"], "tp2": ["layout.ranks=2", "layout.tensor=2"]}


def run_chain(folder: Path, *arguments: str) -> Path:
    write_files(folder / "data")
    paths = [f"{key}.path={folder / 'data' / name}.jsonl" for key, name in SOURCES.items()]
    run(folder / "run", *paths, *arguments, config=CONFIG)
    return folder / "run"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_chain(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module", params=LAYOUTS)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_chain(tmp_path_factory.mktemp(request.param), *LAYOUTS[request.param])


def test_a_reward_model_learns_what_is_preferred(one: Path) -> None:
    found = metrics(one / "helpful")
    assert found[-1]["eval/preference_accuracy"] >= 0.9
    assert found[-1]["eval/preference_loss"] < found[0]["eval/preference_loss"] / 2
    assert found[-1]["eval/preference_calibration"] < 0.1


def test_general_prompts_and_preference_rewards_come_in_the_last_updates_only(one: Path) -> None:
    found = [line for line in metrics(one / "all") if line["step"] > 0]
    paid = {"train/reward_helpful", "train/reward_harmless"}
    assert [paid <= line.keys() for line in found] == [False, False, True, True]
    tasks = [
        {s["task"] for s in lines(one / "all" / "samples.jsonl") if s["step"] == i} for i in (1, 2, 3, 4)
    ]
    assert tasks[:2] == [{"integer"}] * 2
    assert set.union(*tasks[2:]) == {"integer", "general"}


def test_the_reward_models_are_watched_on_held_out_prompts(one: Path) -> None:
    found = [line for line in metrics(one / "all") if "watch/length" in line]
    assert [line["step"] for line in found] == [0, 2, 4]
    for line in found:
        assert 0 <= line["watch/summary"] <= 1
        assert "watch/judged" not in line or line["watch/judged"] == 0  # a tiny model has no verdict


def test_each_prompt_is_paid_by_the_rewards_of_its_task(one: Path) -> None:
    for sample in lines(one / "all" / "samples.jsonl"):
        general = {"format", "helpful", "harmless"} if sample["task"] == "general" else {"accuracy", "format"}
        assert sample["parts"].keys() == general
    for sample in lines(one / "zero" / "samples.jsonl"):
        assert ("code" in sample["parts"]) == (sample["task"] == "code")


def test_programs_are_graded_and_the_audit_says_why(one: Path) -> None:
    parts = [s["parts"]["code"] for s in lines(one / "zero" / "samples.jsonl") if s["task"] == "code"]
    assert parts
    assert {part["value"] for part in parts} == {0.0}  # words of a tiny model are no program
    assert {part["note"].split(":")[0] for part in parts} <= {"no program", *Fate, "wrong output"}


def test_the_reward_models_are_in_the_lineage(one: Path) -> None:
    artifact = json.loads((one / "all" / "artifact.json").read_text())
    general = str(one.parent / "data" / "general.jsonl")
    assert artifact["inputs"].keys() == {"zero", "helpful", "harmless", "tokenizer.model", general}


@pytest.mark.parametrize("stage", ["helpful", "harmless", "all"])
def test_two_ranks_train_as_one_does(one: Path, two: Path, stage: str) -> None:
    expected, found = metrics(one / stage), metrics(two / stage)
    for line in (*expected, *found):
        line.pop("train/expert_load", None)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-4)


def test_other_preferences_make_the_stages_behind_them_stale(one: Path) -> None:
    data = one.parent / "data"
    paths = [f"{key}.path={data / name}.jsonl" for key, name in SOURCES.items()]
    output = run(one, *paths, "stages.helpful.optim.lr=2e-2", config=CONFIG, expect=2)
    assert "stages.helpful.optim.lr: 0.01 then, 0.02 now" in output


def test_an_interrupted_reward_model_is_bit_for_bit_the_uninterrupted_one(one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("base", "zero", "measure", "tokenizer.model"):
        source = one / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    paths = [f"{key}.path={one.parent / 'data' / name}.jsonl" for key, name in SOURCES.items()]
    process = start(folder, *paths, config=CONFIG)
    wait_until(lambda: len(lines(folder / "helpful" / "metrics.jsonl")) >= 2, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75, log_of(folder).read_text()
    run(folder, *paths, config=CONFIG)
    for stage in ("helpful", "harmless", "all"):
        assert metrics(folder / stage) == metrics(one / stage)
        assert tensor_digests(folder / stage) == tensor_digests(one / stage)
