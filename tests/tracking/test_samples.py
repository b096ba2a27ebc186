from megatron_r1.tracking.samples import Sample, SamplesWriter, read_samples
from megatron_r1.types import Completion, Message, Prompt, Score, Scored


def scored(accuracy, text="<think> 3 加 4 得 7 </think><answer> 7 </answer>"):
    prompt = Prompt(
        "p1", (Message("system", "be brief"), Message("user", "计算 3 + 4")), "7", "integer", "zh"
    )
    completion = Completion(prompt, [1, 2], [5, 6, 7], [-0.1] * 3, text, finished=True, policy_version=4)
    return Scored(completion, accuracy, {"accuracy": Score(accuracy, "7 = 7")})


def test_a_sample_keeps_what_was_asked_answered_and_why_it_scored(tmp_path):
    writer = SamplesWriter(tmp_path, is_main=True)
    writer.write([Sample.of(scored(1.0), step=9)])
    (sample,) = read_samples(tmp_path / "samples.jsonl")
    assert sample == Sample.of(scored(1.0), step=9)
    assert (sample.question, sample.reference, sample.length) == ("计算 3 + 4", "7", 3)
    assert sample.parts == {"accuracy": {"value": 1.0, "note": "7 = 7"}}
    assert "加" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")  # readable, not \u escapes


def test_the_verdict_has_three_values_and_one_for_no_grading():
    verdicts = [Sample.of(scored(value), step=1).verdict for value in (1.0, 0.0, None)]
    assert verdicts == ["right", "wrong", "ungradable"]
    plain = Scored(scored(1.0).completion, 0.5, {"format": Score(0.5)})
    assert Sample.of(plain, step=1).verdict == "not graded"


def test_samples_after_the_checkpoint_are_cut(tmp_path):
    writer = SamplesWriter(tmp_path, is_main=True)
    for step in (1, 1, 2, 3):
        writer.write([Sample.of(scored(0.0), step=step)])
    writer.truncate_after(1)
    assert [sample.step for sample in read_samples(writer.path)] == [1, 1]


def test_only_the_main_rank_writes_samples(tmp_path):
    SamplesWriter(tmp_path, is_main=False).write([Sample.of(scored(1.0), step=1)])
    assert list(tmp_path.iterdir()) == []
