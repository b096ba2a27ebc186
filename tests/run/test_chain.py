"""The chain on one real rank in this process: what is skipped, what is refused, and in which words."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from megatron_r1.config import resolved
from megatron_r1.errors import CheckpointError, ConfigError, DataError, GateError
from megatron_r1.run.config import load_run
from megatron_r1.runtime import env_vars

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]

MICRO = Path(__file__).parents[1] / "end_to_end" / "micro.yaml"
SHORT = ("stages.base.steps=2", "stages.zero.steps=1", "stages.measure.evaluation.greedy=false")


@pytest.fixture
def run_chain(tmp_path, monkeypatch):
    """Runs micro.yaml's chain in a directory of the test, as a launched rank does."""
    from megatron_r1.backend.parallel import process_groups
    from megatron_r1.run.chain import run_rank

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in rank.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv(env_vars.HEARTBEATS, raising=False)

    def run(*overrides: str, from_stage: str | None = None) -> Path:
        monkeypatch.delenv(env_vars.FROM_STAGE, raising=False)
        if from_stage is not None:
            monkeypatch.setenv(env_vars.FROM_STAGE, from_stage)
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        config = load_run(MICRO, overrides=[*SHORT, *overrides]).value
        (folder / "resolved.yaml").write_text(resolved(config))
        run_rank(folder)
        return folder

    yield run
    process_groups.stop()


def written(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/artifact.json")}


def test_finished_stages_are_skipped_refused_when_changed_and_done_again_on_demand(run_chain):
    first = written(folder := run_chain())
    assert first.keys() == {"base", "zero", "measure"}
    assert written(run_chain()) == first

    changed = r"zero is finished .* \(stages\.zero\.optim\.lr: 0\.001 then, 0\.002 now\) .* --from zero"
    with pytest.raises(ConfigError, match=changed):
        run_chain("stages.zero.optim.lr=2e-3")
    assert written(folder) == first

    again = written(run_chain("stages.zero.optim.lr=2e-3", from_stage="zero"))
    assert again["base"] == first["base"]
    assert again["zero"] > first["zero"]
    assert again["measure"] > first["measure"]

    shutil.rmtree(folder / "base")
    with pytest.raises(ConfigError, match=r"zero is finished .* but base changed since"):
        run_chain("stages.zero.optim.lr=2e-3", "stages.base.optim.lr=2e-3")


def test_a_vocabulary_that_the_model_cannot_hold_is_refused(run_chain):
    with pytest.raises(ConfigError, match=r"model\.vocab_size: 32 rows can't hold .* 5\d pieces"):
        run_chain("model.vocab_size=32")


def test_a_tokenizer_without_the_tags_is_refused(run_chain, tmp_path):
    from megatron_r1.data.tokenizers.sentencepiece_tokenizer import train_sentencepiece

    path = tmp_path / "plain.model"
    train_sentencepiece(["1 plus 1 is 2"], path=path, vocab_size=64, model_type="word", special_pieces=())
    tokenizer = json.dumps({"kind": "sentencepiece", "path": str(path)})
    with pytest.raises(DataError, match=r"plain\.model: the template needs <user>, <assistant>, <think>"):
        run_chain(f"tokenizer={tokenizer}")


def jsonl(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return "stages.base.data=" + json.dumps({"mine": {"source": "jsonl", "path": str(path)}})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "mine.jsonl: the file is empty"),
        (['{"text": "1 plus 1 is 2 ;"}', '{"text": "1'], "mine.jsonl:2: not JSON"),
        (['{"txt": "1 plus 1 is 2 ;"}'], "mine.jsonl:1: unknown key 'txt'"),
    ],
)
def test_a_data_file_that_cannot_serve_names_file_and_line(run_chain, tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        run_chain(jsonl(tmp_path / "mine.jsonl", *lines))
    assert not (tmp_path / "run" / "base" / "metrics.jsonl").exists(), "no step was made"


def test_a_document_longer_than_the_positions_is_refused(run_chain, tmp_path):
    long = json.dumps({"text": "1 plus 1 is 2 ; " * 20})
    with pytest.raises(DataError, match=r"a sequence: 121 tokens, above model\.max_position_embeddings = 64"):
        run_chain(jsonl(tmp_path / "mine.jsonl", long))


def test_a_prompt_too_long_for_the_positions_is_refused_before_any_step(run_chain, tmp_path):
    line = {"messages": [{"role": "user", "content": "1 + " * 28}], "reference": "28", "task": "integer"}
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(line) + "\n")
    data = json.dumps({"mine": {"source": "jsonl", "path": str(path)}})
    with pytest.raises(DataError, match=r"a prompt and max_new_tokens: 71 tokens, above model\.max_position"):
        run_chain(f"stages.zero.data={data}", "stages.zero.evaluate=null")
    assert not (tmp_path / "run" / "zero" / "metrics.jsonl").exists()


def test_a_loss_that_is_not_finite_stops_before_the_weights_follow(run_chain, tmp_path):
    with pytest.raises(
        GateError, match=r"update 2 of the stage: the .* is (nan|inf); on rank 0, the gradient of "
    ):
        run_chain("stages.base.optim.lr=1e30", "stages.base.optim.warmup_steps=0")
    steps = (tmp_path / "run" / "base" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 1


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The stage ends, as by a kill, when the checkpoint of this step is written."""
    from megatron_r1.run import stage_runner

    saved = stage_runner.note_saved

    def note_and_die(directory: Path, at: int) -> None:
        saved(directory, at)
        if at == step:
            raise Killed

    monkeypatch.setattr(stage_runner, "note_saved", note_and_die)


CHECKPOINTED = ("stages.base.steps=4", "stages.base.checkpoint_every=1", "stages.base.keep_checkpoints=2")


def test_an_interrupted_stage_goes_on_over_the_same_data_only_and_a_finished_one_stays(
    run_chain, tmp_path, monkeypatch, caplog
):
    path = tmp_path / "mine.jsonl"
    lines = [json.dumps({"text": f"{n} plus 1 is {n + 1} ;"}) for n in range(8)]
    asked = (*CHECKPOINTED, jsonl(path, *lines))
    with monkeypatch.context() as patch:
        killed_after(patch, 3)
        with pytest.raises(Killed):
            run_chain(*asked)
    metrics = (tmp_path / "run" / "base" / "metrics.jsonl").read_text()
    jsonl(path, *lines[:6])
    with pytest.raises(
        DataError, match=r"base was begun with other inputs: .*mine\.jsonl changed \(\d+ bytes"
    ):
        run_chain(*asked)
    assert (tmp_path / "run" / "base" / "metrics.jsonl").read_text() == metrics
    jsonl(path, *lines)

    checkpoints = tmp_path / "run" / "base" / "checkpoint"
    kept = shutil.copytree(checkpoints, tmp_path / "kept")
    for damaged in checkpoints.iterdir():
        (damaged / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"3 checkpoints, and none to go on from: .*state\.json"):
        run_chain(*asked)
    assert (tmp_path / "run" / "base" / "metrics.jsonl").read_text() == metrics

    shutil.rmtree(checkpoints)
    with pytest.raises(CheckpointError, match=r"had checkpoints up to step 3, and none is there"):
        run_chain(*asked)

    shutil.copytree(kept, checkpoints)
    tensors = checkpoints / "step_00000003" / "__0_0.distcp"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    run_chain(*asked)
    assert "goes on from step_00000002, the newest checkpoint that is sound" in caplog.text
    steps = [json.loads(line)["step"] for line in metrics_of(tmp_path)]
    assert steps == [1, 2, 3, 4]

    jsonl(path, *lines[:6])
    with pytest.raises(DataError, match=r"base is finished .*mine\.jsonl changed .* --from base"):
        run_chain(*asked)


def metrics_of(folder: Path) -> list[str]:
    return (folder / "run" / "base" / "metrics.jsonl").read_text().splitlines()
