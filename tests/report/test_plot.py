import re

from megatron_r1.report.plot import (
    MAX_POINTS,
    Series,
    line_chart,
    nice_step,
    number,
    running_mean,
    stacked_chart,
    step_axis,
    thin,
    tick_labels,
    value_axis,
)


def test_ticks_are_round_and_an_open_end_moves_out_to_one():
    assert nice_step(0, 1, 5) == 0.25
    assert nice_step(0, 26, 5) == 10
    axis = value_axis([Series("length", [(1, 12.0), (2, 26.0)])], low=0, high=None)
    assert (axis.ticks, axis.high) == ([0, 10, 20, 30], 30)


def test_values_map_linearly_and_stay_inside():
    axis = value_axis([Series("share", [(1, 0.5)])], low=0, high=1)
    middle, outside = axis.place(0.5), axis.place(7.0)
    assert middle == (axis.start + axis.end) / 2
    assert outside == axis.end


def test_a_step_axis_starts_at_zero_unless_the_run_was_cut():
    assert step_axis([1, 150]).low == 0
    assert step_axis([400, 500]).low == 400
    assert all(tick == int(tick) for tick in step_axis([1, 3]).ticks)


def test_labels_tell_close_ticks_apart():
    assert tick_labels([1.0, 1.0001, 1.0002], "ratio") == ["1.0000", "1.0001", "1.0002"]
    assert tick_labels([0, 0.25, 0.5], "share") == ["0", "25", "50"]
    assert tick_labels([0, 2500, 5000], "tokens") == ["0", "2,500", "5,000"]


def test_numbers_keep_what_matters():
    assert number(0.0914, "share") == "9.1 %"
    assert number(1.00023, "ratio") == "1.0002"
    assert [number(x) for x in (0, 26.14, 12345.6, 4e-7)] == ["0", "26.1", "12,346", "4.0e-07"]


def test_the_running_mean_is_centred_and_shorter_at_the_ends():
    points = [(1, 0.0), (2, 3.0), (3, 6.0)]
    assert running_mean(points, 3) == [(1, 1.5), (2, 3.0), (3, 4.5)]


def test_a_long_series_becomes_means_of_equal_buckets():
    count = MAX_POINTS * 10
    short = thin(Series("x", [(float(i), float(i)) for i in range(count)], error=[1.0] * count))
    assert len(short.points) == len(short.error) == MAX_POINTS
    assert short.points[0] == (4.5, 4.5)  # the mean of 0 .. 9
    assert short.points[-1] == (count - 5.5, count - 5.5)


def test_a_chart_has_its_axes_lines_bands_and_last_values():
    chart = line_chart(
        "Accuracy",
        [
            Series("pass@1", [(0, 0.1), (10, 0.9)], error=[0.02, 0.02], style="dots"),
            Series("none", []),
            Series("base", [(0, 0.7)], style="level"),
        ],
        unit="share",
        low=0,
        high=1,
    )
    assert chart.legend == [(1, "pass@1", "90.0 %"), (2, "base", "70.0 %")]
    assert chart.svg.count('class="c1 band"') == 1
    assert chart.svg.count("<circle") == 2
    # 0.7 of the way from the bottom (232) to the top (14) of the plot
    assert 'class="c2 line level" d="M52.0 79.4H546.0"' in chart.svg
    assert re.findall(r">(\d+)</text>", chart.svg) == [
        "0",
        "25",
        "50",
        "75",
        "100",
        "0",
        "2",
        "4",
        "6",
        "8",
        "10",
    ]


def test_areas_are_stacked_from_the_bottom():
    parts = [Series("rollout", [(0, 0.5), (1, 0.5)]), Series("train", [(0, 0.5), (1, 0.5)])]
    chart = stacked_chart("Time", parts)
    # the second area runs along the top (14), and back along the middle (123)
    assert 'class="c2 area" d="M52.0 14.0L546.0 14.0L546.0 123.0L52.0 123.0Z"' in chart.svg


def test_text_is_escaped():
    chart = line_chart("<b>", [Series("<i>", [(0, 1.0)], style="dots")], unit="<u>")
    assert "<b>" not in chart.svg
    assert "<i>" not in chart.svg
    assert "<u>" not in chart.svg


def test_a_chart_without_values_is_empty():
    assert line_chart("KL", [Series("KL", [])]).svg == ""
    assert stacked_chart("Time", []).svg == ""


def test_long_tick_labels_stay_off_the_axis_name():
    points = [(1.0, 1.00001), (100.0, 1.00004)]
    svg = str(line_chart("Drift", [Series("drift", points)], unit="ratio").svg)
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]+)</text>', svg)
    assert max(len(label) for _, label in found) == 7
    name_ends = 16  # its baseline is at 11
    assert all(float(x) - 7 * len(label) >= name_ends for x, label in found)
