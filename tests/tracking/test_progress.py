import io

import pytest
from rich.console import Console

from megatron_r1.tracking.progress import Progress, duration


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def plain(clock, **options):
    output = io.StringIO()
    return output, Progress(100, "zero", console=Console(file=output), clock=clock, **options)


def test_the_time_left_is_at_the_pace_of_this_process():
    clock = Clock()
    output, progress = plain(clock, start=40)  # resumed: 40 steps cost this process nothing
    clock.now_s += 20
    progress.update(50, {"reward": 0.41234, "length": 21.5})  # 10 steps in 20 s, 50 to go
    assert output.getvalue() == "zero 50/100  reward 0.412  length 21.5  left 1 min 40 s\n"


def test_a_log_gets_a_line_every_few_seconds_and_the_last():
    clock = Clock()
    output, progress = plain(clock, interval_s=5.0)
    for step in range(1, 101):
        clock.now_s += 0.125
        progress.update(step)
    assert [line.split()[1] for line in output.getvalue().splitlines()] == [
        "1/100",
        "41/100",
        "81/100",
        "100/100",
    ]
    assert output.getvalue().endswith("took 12 s\n")


def test_other_ranks_are_silent():
    output, progress = plain(Clock(), is_main=False)
    with progress:
        progress.update(1)
    assert output.getvalue() == ""


def test_a_terminal_gets_a_bar():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with Progress(4, "zero", console=console) as progress:
        progress.update(2, {"reward": 0.5})
    assert "2/4" in output.getvalue()
    assert "reward 0.5" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18_430, "5 h 07 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
