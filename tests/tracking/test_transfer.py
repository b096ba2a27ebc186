import io

from rich.console import Console

from megatron_r1.tracking.transfer import Transfer


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines(steps, *, is_main=True, interval_s=5.0):
    """What a log shows of (seconds, bytes done, bytes in all) one after the other."""
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, width=200)
    with Transfer("import", is_main=is_main, interval_s=interval_s, console=console, clock=clock) as transfer:
        for now, done, total in steps:
            clock.now = now
            transfer.update(done, total)
    return text.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left():
    assert lines([(1, 0, 4e9), (2, 1e9, 4e9), (6, 2e9, 4e9), (7, 3e9, 4e9)]) == [
        "import  2.00/4.00 GB  0.33 GB/s  left 6 s"
    ]


def test_the_end_is_said_once():
    assert lines([(2, 4e9, 4e9), (2, 4e9, 4e9)]) == ["import  4.00/4.00 GB  2.00 GB/s  took 2 s"]


def test_what_an_earlier_start_did_does_not_count_as_speed():
    assert lines([(1, 3e9, 4e9), (6, 3.5e9, 4e9)])[-1] == "import  3.50/4.00 GB  0.08 GB/s  left 6 s"


def test_other_ranks_say_nothing():
    assert lines([(6, 1e9, 4e9), (9, 4e9, 4e9)], is_main=False) == []


def test_a_terminal_shows_a_bar():
    text = io.StringIO()
    with Transfer("export", console=Console(file=text, force_terminal=True, width=80)) as transfer:
        transfer.update(int(1e9), int(4e9))
        transfer.update(int(4e9), int(4e9))
    assert "4.00/4.00 GB" in text.getvalue()
