import pytest

from megatron_r1.curation.verdict import judge
from megatron_r1.types import Score
from tests.rewards.samples import completion


class Table:
    """A grader that knows some texts; it notes what it was asked."""

    def __init__(self, **values):
        self.values, self.asked = values, []

    def score(self, completions):
        self.asked += [c.text for c in completions]
        notes = ["" if c.text in self.values else "unknown" for c in completions]
        return [Score(self.values.get(c.text), note) for c, note in zip(completions, notes, strict=True)]


def test_the_first_grader_that_can_tell_decides_and_later_ones_are_not_asked():
    rule, judge_model = Table(a=1.0, b=0.0), Table(a=0.0, b=1.0, c=1.0, d=0.0)
    samples = [completion(text) for text in "abcde"]
    verdicts = judge(samples, {"accuracy": rule, "judge": judge_model})
    assert [v.right for v in verdicts] == [True, False, True, False, None]
    assert [v.by for v in verdicts] == ["accuracy", "accuracy", "judge", "judge", ""]
    assert judge_model.asked == ["c", "d", "e"]
    assert verdicts[4].scores["judge"].note == "unknown"
    assert list(verdicts[0].scores) == ["accuracy"]


def test_a_sample_is_right_from_the_threshold_on():
    (low, high) = judge([completion("a"), completion("b")], {"x": Table(a=0.79, b=0.8)}, at_least=0.8)
    assert (low.right, high.right) == (False, True)


def test_a_grader_that_loses_a_sample_is_our_mistake():
    class Short:
        def score(self, completions):
            return []

    with pytest.raises(AssertionError, match="x: one score a completion"):
        judge([completion("a")], {"x": Short()})
