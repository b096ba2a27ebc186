import json

import pytest

from megatron_r1.data.sources.stage import StageOutput, stage_outputs
from megatron_r1.errors import DataError
from megatron_r1.stages.sft import Sft


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "rejection" / "data"
    folder.mkdir(parents=True)
    for number in range(3):
        line = {
            "messages": [{"role": "user", "content": f"{number} + 1"}, {"role": "assistant", "content": "x"}],
            "reference": f"{number + 1}", "task": "integer", "metadata": {"num_operators": 1},
        }  # fmt: skip
        (folder / f"shard_{number}.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


def built(run_dir, **options):
    source = StageOutput(stage="rejection", shuffle=False, **options)
    source.find_in(run_dir)
    return source.build(seed=0)


def test_all_files_of_the_stage_are_one_source(run_dir):
    source = built(run_dir)
    assert source.size == 3
    assert [source.document(i).messages[0].content for i in range(4)] == ["0 + 1", "1 + 1", "2 + 1", "0 + 1"]
    assert source.document(0).response == "x"


def test_as_a_prompt_a_line_goes_without_its_answer(run_dir):
    prompt = built(run_dir).prompt(1)
    assert [m.content for m in prompt.messages] == ["1 + 1"]
    assert (prompt.reference, prompt.task, prompt.metadata) == ("2", "integer", {"num_operators": 1})


def test_a_stage_without_data_is_named(run_dir):
    source = StageOutput(stage="zero")
    source.find_in(run_dir)
    with pytest.raises(DataError, match=r"zero/data: stage zero made no data; name one that does"):
        source.build(seed=0)


def test_the_chain_finds_the_sources_of_a_section_however_deep():
    own = {"own": {"source": "stage", "stage": "rejection"}}
    evaluation = {"data": {"more": {"source": "stage", "stage": "cold"}, "sums": {"source": "arithmetic"}}}
    stage = Sft.model_validate({
        "kind": "sft", "init": "base", "data": own, "examples": 2, "steps": 1, "optim": {"lr": 1e-3},
        "evaluate": {"evaluation": evaluation},
    })  # fmt: skip
    assert [source.stage for source in stage_outputs(stage)] == ["rejection", "cold"]
    assert stage.inputs() == ["base", "rejection", "cold"]


def test_a_tenth_of_the_questions_can_be_held_out(tmp_path):
    folder = tmp_path / "rejection" / "data"
    folder.mkdir(parents=True)
    lines = [{"messages": [{"role": "user", "content": f"{i} + 1"}], "reference": "x"} for i in range(200)]
    (folder / "shard.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = StageOutput(stage="rejection", held_out="tenth")
    source.find_in(tmp_path)
    sides = [source.build(seed=0, split=split) for split in ("train", "held_out")]
    asked = [{side.prompt(i).question for i in range(side.size or 0)} for side in sides]
    assert len(asked[0]) + len(asked[1]) == 200
    assert not asked[0] & asked[1]
    assert 8 <= len(asked[1]) <= 35
