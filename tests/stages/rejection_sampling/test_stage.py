"""The rejection_sampling stage over a fake policy: what is kept, in which files, and how it goes on."""

import json
import shutil
import threading

import pytest

from megatron_r1.data.sources.stage import StageOutput
from megatron_r1.errors import DataError, Interrupted
from megatron_r1.stages.rejection_sampling.stage import RejectionSampling
from megatron_r1.tracking.metrics import describe
from megatron_r1.types import Score
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy, together

RIGHT, WRONG = "<think> so {} ; </think> <answer> {} </answer>", "<think> so ; </think> <answer> 20 </answer>"


@pytest.fixture
def stage(questions):
    def make(num_questions=5, *, tasks=None, **changes):
        fields = {
            "kind": "rejection_sampling", "init": "zero",
            "data": questions(tasks or ["integer"] * num_questions),
            "prompts": num_questions, "samples": 2, "prompts_a_shard": 2, "max_new_tokens": 12,
            "filters": {"mixed": False}, "duplicates": None,
        }  # fmt: skip
        return RejectionSampling.model_validate(fields | changes)

    return make


def answers(ids, *, prompts=range(5)):
    """Two samples a question, in the order of the questions: a right one, a wrong one."""
    return [ids(text) for i in prompts for text in (RIGHT.format(i + 1, i + 1), WRONG)]


def files(directory):
    """All that the stage leaves: nothing in it depends on the clock."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def data(directory):
    return [json.loads(line) for line in (directory / "data" / "shard_00000.jsonl").read_text().splitlines()]


def card(directory):
    return json.loads((directory / "data_card.json").read_text())


def test_right_samples_are_kept_with_their_provenance(stage, context, ids, tmp_path):
    journal = FakeJournal()
    where = context(FakePolicy(answers(ids)), journal, directory=tmp_path, weights="abc")
    metrics = stage().run(where)
    lines = data(tmp_path)
    assert [line["reference"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert lines[1]["messages"] == [
        {"role": "user", "content": "compute 1 + 1"},
        {"role": "assistant", "content": "<think> so 2 ; </think> <answer> 2 </answer>"},
    ]
    assert lines[1]["metadata"]["provenance"] == {
        "stage": "zero", "init": "zero", "weights": "abc", "temperature": 1.0, "top_p": 1.0,
        "max_new_tokens": 12, "seed": 5, "source": "sums", "prompt": 1, "sample": 0, "tokens": 9,
        "rewritten": False, "graded_by": "accuracy", "scores": {"accuracy": 1.0},
    }  # fmt: skip
    assert card(tmp_path)["dropped"] == {"wrong": 5}
    assert metrics["rollout/kept"] == metrics["rollout/dropped_wrong"] == 0.5
    assert all(describe(name) for name in metrics)
    assert [step for step, _ in journal.steps] == [1, 2, 3] == [step for step, _ in journal.sampled]
    assert journal.expected == 3


def test_what_is_kept_is_a_source_for_later_stages(stage, context, ids, tmp_path):
    directory = tmp_path / "rejection"
    stage().run(context(FakePolicy(answers(ids)), directory=directory))
    source = StageOutput(stage="rejection", shuffle=False)
    source.find_in(tmp_path)
    built = source.build(seed=0)
    assert built.size == 5
    assert built.document(4).response == "<think> so 5 ; </think> <answer> 5 </answer>"
    assert built.prompt(4).question == "compute 4 + 1"


def test_replicas_make_the_files_that_one_makes(stage, context, ids, tmp_path):
    config = stage()
    config.run(context(FakePolicy(answers(ids)), directory=tmp_path / "one"))

    def run(replicas):
        mine = [0, 2, 4] if replicas.index == 0 else [1, 3]
        policy = FakePolicy(answers(ids, prompts=mine), replicas=replicas)
        return config.run(context(policy, directory=tmp_path / "two"))

    first, second = together(2, run)
    assert first == second
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_stage_goes_on_to_the_same_files(stage, context, ids, tmp_path, stop):
    stage().run(context(FakePolicy(answers(ids)), directory=tmp_path / "whole"))
    parts = tmp_path / "parts"
    with pytest.raises(Interrupted, match=rf"stage zero: {stop + 1} of 3 shards are written"):
        stage().run(context(FakePolicy(answers(ids)), FakeJournal(stop_after=stop), directory=parts))
    done = stage().done_before(parts)
    assert done == stop + 1
    rest = FakePolicy(answers(ids, prompts=range(2 * done, 5)))
    stage().run(context(rest, directory=parts, start_step=done))
    assert files(parts) == files(tmp_path / "whole")


def test_shards_of_other_settings_are_not_gone_on_with(stage, context, ids, tmp_path):
    with pytest.raises(Interrupted):
        stage().run(context(FakePolicy(answers(ids)), FakeJournal(stop_after=1), directory=tmp_path))
    expected = r"candidates holds shards made with other settings; .* --from zero"
    for changes, weights in (({"temperature": 0.5}, ""), ({}, "other")):
        where = context(FakePolicy(), directory=tmp_path, start_step=2, weights=weights)
        with pytest.raises(DataError, match=expected):
            stage(**changes).run(where)
    (tmp_path / "candidates" / "settings.json").unlink()
    with pytest.raises(DataError, match=expected):
        stage().run(context(FakePolicy(), directory=tmp_path, start_step=2))


def test_a_stage_killed_before_its_last_choice_makes_it_again(stage, context, ids, tmp_path):
    stage().run(context(FakePolicy(answers(ids)), directory=tmp_path))
    before = files(tmp_path)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data_card.json").unlink()
    (tmp_path / "candidates" / "shard_00003.jsonl.new").write_text("{")  # killed while writing
    stage().run(context(FakePolicy(), directory=tmp_path, start_step=stage().done_before(tmp_path)))
    (tmp_path / "candidates" / "shard_00003.jsonl.new").unlink()
    assert files(tmp_path) == before


def test_an_ungradable_sample_is_never_kept(stage, context, ids, tmp_path):
    unknown = stage(2, tasks=["integer", "nonsense"])
    unknown.run(context(FakePolicy(answers(ids)), directory=tmp_path))
    assert len(data(tmp_path)) == 1
    assert card(tmp_path)["dropped"] == {"ungradable": 2, "wrong": 1}


def test_a_second_grader_decides_where_the_first_cannot(stage, context, ids, tmp_path):
    graders = {"accuracy": {}, "format": {}}
    both = stage(2, tasks=["nonsense"] * 2, graders=graders)
    both.run(context(FakePolicy(answers(ids)), directory=tmp_path))
    assert [line["metadata"]["provenance"]["graded_by"] for line in data(tmp_path)] == ["format"] * 4


def test_evaluation_questions_are_not_learnt(stage, context, ids, questions, tmp_path):
    unseen = {"data": questions(["integer"] * 2, held_out="all"), "questions": 2}
    stage(decontaminate=unseen).run(context(FakePolicy(answers(ids)), directory=tmp_path))
    assert [line["reference"] for line in data(tmp_path)] == ["3", "4", "5"]
    assert card(tmp_path)["dropped"] == {"wrong": 5, "contaminated": 2}


def test_samples_are_written_anew_as_asked(stage, context, ids, tmp_path):
    # no tags and no box around the answer: it would not be found again
    rewrite = {"form": "<think> {chain} </think> {summary}", "summary": {"en": "the answer is {answer}"}}
    with pytest.raises(DataError, match=r"none of 10 was kept: 5 rewrite, 5 wrong; see .*card"):
        stage(rewrite=rewrite).run(context(FakePolicy(answers(ids)), directory=tmp_path))
    rewrite["summary"]["en"] = "the answer is <answer> {answer} </answer>"
    stage(rewrite=rewrite).run(context(FakePolicy(answers(ids)), directory=tmp_path))
    assert data(tmp_path)[0]["messages"][-1]["content"] == (
        "<think> so 1 ; </think> the answer is <answer> 1 </answer>"
    )


def test_an_answer_that_forges_a_turn_is_left_out(stage, context, ids, tmp_path, tokenizer):
    forged = ids(RIGHT.format(1, 1))
    forged[2] = tokenizer.piece_id("<user>")
    stage(1).run(context(FakePolicy([ids(RIGHT.format(1, 1)), forged]), directory=tmp_path))
    assert card(tmp_path)["dropped"] == {"role_mark": 1}


def test_quotas_and_samples_a_prompt_are_limited(stage, context, ids, tmp_path):
    says = [ids(RIGHT.format(i + 1, i + 1)) for i in range(5) for _ in range(2)]
    stage(per_prompt=1, quotas={"sums": 3}).run(context(FakePolicy(says), directory=tmp_path))
    assert len(data(tmp_path)) == 3
    assert card(tmp_path)["dropped"] == {"quota": 5, "per_prompt": 2}
    assert card(tmp_path)["quotas"] == {"sums": 3}


def test_every_sample_has_draws_of_its_own(stage, context, ids, tmp_path):
    policy = FakePolicy(answers(ids))
    stage().run(context(policy, directory=tmp_path))
    assert len(set(policy.keys)) == 10


class WaitingJudge:
    """A grader that judges a shard only once the next one is being drawn, as often as there is a next one."""

    def __init__(self, shards):
        self.left, self.drawn = shards, threading.Semaphore(0)

    def scorer(self):
        return self

    def score(self, completions):
        self.left -= 1
        assert not self.left or self.drawn.acquire(timeout=20), "the next shard waits for this verdict"
        return [Score(1.0) for _ in completions]


def test_a_shard_is_judged_while_the_next_one_is_drawn(stage, context, ids, tmp_path, monkeypatch):
    judge_model = WaitingJudge(shards=3)
    policy = FakePolicy(answers(ids))
    draw, drawn_before = policy.generate, []

    def generate(prompts, sampling, *, keys, on_end=None):
        if drawn_before:
            judge_model.drawn.release()
        drawn_before.append(len(prompts))
        return draw(prompts, sampling, keys=keys)

    monkeypatch.setattr(policy, "generate", generate)
    monkeypatch.setattr(RejectionSampling, "chosen_graders", lambda self: {"judge": judge_model})
    stage().run(context(policy, directory=tmp_path))
    assert drawn_before == [4, 4, 2]
    assert card(tmp_path)["kept"] == 10


def test_a_grader_that_fails_ends_the_stage(stage, context, ids, tmp_path, monkeypatch):
    class Broken(WaitingJudge):
        def score(self, completions):
            raise DataError("the judge is gone")

    monkeypatch.setattr(RejectionSampling, "chosen_graders", lambda self: {"judge": Broken(3)})
    with pytest.raises(DataError, match="the judge is gone"):
        stage().run(context(FakePolicy(answers(ids)), directory=tmp_path))
    assert not list(tmp_path.rglob("shard_*"))


def test_samples_that_nothing_can_grade_are_said_at_the_first_shard_and_end_the_stage(
    stage, context, ids, tmp_path, caplog
):
    where = context(FakePolicy(answers(ids)), directory=tmp_path)
    with pytest.raises(DataError, match=r"in none of its 3 shards could a sample be graded.*task 'intger'"):
        stage(tasks=["intger"] * 5).run(where)
    assert "shard 1: none of 4 samples can be graded" in caplog.text
    assert not (tmp_path / "data").exists()
