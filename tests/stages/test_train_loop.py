"""The loop of the training stages, without a model: what it calls, in which order."""

import pytest

from megatron_r1.errors import Interrupted
from megatron_r1.stages.train_loop import Measurement, train
from tests.stages.conftest import FakeJournal
from tests.stages.fake_policy import FakePolicy


@pytest.fixture
def loop(context):
    """`train` over steps that report their number; returns its metrics, the journal and the steps done."""

    def run(*, stop_after=None, start_step=0, state=None, keeps=dict, steps=4, **options):
        journal, begun = FakeJournal(stop_after=stop_after), []
        surroundings = context(FakePolicy(), journal, start_step=start_step, state=state or {})

        def step(number):
            begun.append(number)
            return {"train/loss": float(number)}

        try:
            metrics = train(surroundings, step, steps=steps, checkpoint_every=2, state=keeps, **options)
        except Interrupted:
            metrics = None
        return metrics, journal, begun

    return run


def accuracy(value, **options):
    return Measurement(lambda: {"eval/accuracy": value}, **options)


def test_checkpoints_come_after_every_so_many_steps_with_the_state_of_then(loop):
    counts = iter((1, 2))
    metrics, journal, begun = loop(steps=5, keeps=lambda: {"count": next(counts)})
    assert (metrics, begun, journal.expected) == ({"train/loss": 4.0}, [0, 1, 2, 3, 4], 5)
    assert journal.steps == [(n + 1, {"train/loss": float(n)}) for n in range(5)]
    assert journal.checkpoints == [(2, {"count": 1}), (4, {"count": 2})]


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"every": 2, "last": 5}, [2, 4, 5]),
        ({"every": 9, "last": 5}, [5]),
        ({"every": 2, "last": 5, "before_training": True}, [0, 2, 4, 5]),
        ({"every": 2, "last": 5, "first": 3}, [3, 5]),
    ],
)
def test_a_measurement_joins_the_lines_of_its_steps(loop, options, due):
    _, journal, _ = loop(steps=5, measurements=[accuracy(0.5, **options)])
    assert [step for step, metrics in journal.steps if "eval/accuracy" in metrics] == due


def test_of_two_measurements_the_later_one_has_the_last_word(loop):
    metrics, _, _ = loop(measurements=[accuracy(0.1, every=1, last=4), accuracy(0.2, every=1, last=4)])
    assert metrics == {"train/loss": 3.0, "eval/accuracy": 0.2}


def test_a_resumed_start_does_what_is_left_and_measures_no_base(loop):
    _, journal, begun = loop(
        start_step=3, measurements=[accuracy(0.5, every=9, last=4, before_training=True)]
    )
    assert begun == [3]
    assert [step for step, _ in journal.steps] == [4]


def test_where_nothing_is_left_the_metrics_are_those_of_the_checkpoint(loop):
    metrics, journal, begun = loop(start_step=4, state={"metrics": {"train/loss": 7.0}})
    assert (metrics, journal.steps, begun) == ({"train/loss": 7.0}, [], [])


def test_asked_to_stop_it_saves_after_the_line_of_the_step(loop):
    metrics, journal, begun = loop(stop_after=3)
    assert (metrics, begun) == (None, [0, 1, 2])
    assert [step for step, _ in journal.checkpoints] == [2, 3]


def test_it_goes_on_beyond_its_steps_while_it_is_told_to(loop):
    asked = []

    def goes_on(done, metrics):
        asked.append((done, metrics["train/loss"]))
        return done < 6

    _, _, begun = loop(goes_on=goes_on)
    assert begun == [0, 1, 2, 3, 4, 5]
    assert asked == [(4, 3.0), (5, 4.0), (6, 5.0)]
