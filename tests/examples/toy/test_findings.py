from pathlib import Path

import pytest

from examples.toy.findings import ends, findings
from megatron_r1.report.record import StageRecord


def record(name, *, results=None, metrics=()):
    return StageRecord(
        directory=Path(name),
        kind="",
        config={},
        config_text="",
        config_hash="",
        inputs=(),
        finished=True,
        results=results or {},
        metrics=list(metrics),
    )


def judged(*, before=None, after=None, lengths=(), reflection=(), curve=(), rewarded=True):
    """curve: what the stage measured on held-out questions, a mapping an evaluation."""
    steps = [{"step": i, "rollout/length": length} for i, length in enumerate(lengths)]
    steps += [{"step": i, **values} for i, values in enumerate(curve)]
    if rewarded:
        steps.append({"step": 1, "train/reward_language": 0.5})
    found = findings(
        record("zero", metrics=steps),
        None if before is None else record("before", results=before),
        None if after is None else record("after", results=after),
        list(enumerate(reflection)),
    )
    return dict(zip(["gain", "sharpening", "length", "reflection", "language"], found, strict=True))


def test_without_measurements_every_finding_says_so():
    assert {finding.verdict for finding in judged().values()} == {"not measured"}


def test_a_base_that_solves_most_in_k_tries_was_sharpened():
    found = judged(
        before={"eval/accuracy": 0.09, "eval/pass_at_k": 0.74},
        after={"eval/accuracy": 0.91, "eval/pass_at_k": 0.74},
    )
    assert found["gain"].verdict == "reproduced"
    assert found["sharpening"].verdict == "not reproduced"
    assert "74.0 % of the questions were already solved" in found["sharpening"].text
    assert "a single try now solves 91.0 %" in found["sharpening"].text


def test_a_base_that_solved_little_in_k_tries_was_taught():
    found = judged(before={"eval/pass_at_k": 0.1}, after={"eval/accuracy": 0.9})
    assert found["sharpening"].verdict == "reproduced"


def test_a_loss_of_accuracy_is_not_called_a_gain():
    found = judged(before={"eval/accuracy": 0.5}, after={"eval/accuracy": 0.4})
    assert found["gain"].verdict == "not reproduced"


@pytest.mark.parametrize(
    ("lengths", "verdict"),
    [
        ([10, 20, 30, 40, 50, 60, 70, 80], "reproduced"),
        ([10, 20, 26, 26, 26, 26, 26, 26], "in part"),  # saturates
        ([20, 20, 20, 20, 20, 20, 20, 20], "not reproduced"),
        ([20, 10], "not measured"),
    ],
)
def test_growth_of_the_length_is_told_from_saturation(lengths, verdict):
    assert judged(lengths=lengths)["length"].verdict == verdict


def test_the_length_of_held_out_questions_decides_where_it_was_measured():
    lengths = [14, 20, 22, 22, 23, 24, 25, 27]  # of training questions, which differ from step to step
    flat = [{"eval/length": value} for value in (11.7, 23.8, 24.4, 24.5, 24.7, 24.6, 24.6)]
    assert judged(lengths=lengths)["length"].verdict == "reproduced"
    found = judged(lengths=lengths, curve=flat)["length"]
    assert found.verdict == "in part"
    assert found.text.startswith("From 12 to 25 tokens in the mean of held-out questions")


def test_an_ablation_without_evaluations_around_it_is_judged_by_its_own_curve():
    curve = [
        {"eval/accuracy": 0.07, "eval/pass_at_k": 0.29, "eval/language": 0.61},
        {"eval/accuracy": 0.93, "eval/pass_at_k": 1.0, "eval/language": 0.48},
    ]
    found = judged(before={"eval/accuracy": 0.2, "eval/pass_at_k": 0.8}, curve=curve, rewarded=False)
    assert found["gain"].text == "pass@1 on held-out questions went from 7.0 % to 93.0 %."
    assert found["sharpening"].verdict == "reproduced"  # its own pass@k: that of the other asks more often
    assert found["language"].claim.startswith("Without a language reward")
    assert found["language"].verdict == "reproduced"
    around = {"before": {"eval/accuracy": 0.1}, "after": {"eval/accuracy": 0.9}}
    assert "10.0 % to 90.0 %" in judged(**around, curve=curve)["gain"].text


@pytest.mark.parametrize(
    ("shares", "verdict"), [([0.12, 0.1, 0.02, 0.0], "not reproduced"), ([0.02, 0.1, 0.2, 0.3], "reproduced")]
)
def test_re_evaluation_counts_only_if_it_rises(shares, verdict):
    assert judged(reflection=shares)["reflection"].verdict == verdict


def test_the_language_counts_as_kept_from_nine_words_in_ten():
    verdicts = [
        judged(before={"eval/language": 0.6}, after={"eval/language": end})["language"].verdict
        for end in (0.95, 0.7, 0.52)
    ]
    assert verdicts == ["reproduced", "in part", "not reproduced"]


def test_ends_are_means_of_a_tenth_a_quarter_and_a_tenth():
    assert ends([(i, float(i)) for i in range(20)]) == (0.5, 12.0, 18.5)  # 0-1, 10-14, 18-19
