"""benchmarks/overlap.py: its layouts can run, and what it says of a case is the slowest rank's median."""

import pytest

from benchmarks import overlap
from megatron_r1.config.layout import Layout, problems

FIRST = overlap.cases(2)[0].name


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_every_case_differs_from_its_off_side_and_fits_the_model(ranks: int):
    shape = overlap._family().shape()
    for case in overlap.cases(ranks):
        on, off = (Layout(ranks=ranks, **given) for given in (case.on, case.off))
        assert problems(on, shape) == problems(off, shape) == []
        assert on != off or case.megatron


def _timings(wall_s: list[float], loss: float) -> list[dict[str, float]]:
    return [{"wall_s": wall, "cpu_s": wall / 2, "loss": loss} for wall in wall_s]


def test_a_step_takes_as_long_as_its_slowest_rank():
    found = [
        {f"{FIRST}, on": _timings([1.0, 3.0, 2.0], 5.0), f"{FIRST}, off": _timings([4.0, 4.0, 6.0], 5.001)},
        {f"{FIRST}, on": _timings([2.0, 1.0, 2.5], 5.0), f"{FIRST}, off": _timings([3.0, 5.0, 5.0], 5.001)},
    ]
    row = overlap._row(FIRST, 2, found)
    assert (row["s a step"], row["s with it off"], row["times faster"]) == (2.5, 5.0, 2.0)
    assert (row["CPU s"], row["CPU s with it off"]) == (1.25, 2.5)


def test_losses_that_differ_are_no_measurement():
    found = [{f"{FIRST}, on": _timings([1.0], 5.0), f"{FIRST}, off": _timings([1.0], 5.1)}]
    with pytest.raises(AssertionError, match="losses"):
        overlap._row(FIRST, 1, found)
