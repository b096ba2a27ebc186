"""Line and area charts as inline SVG: text stays text, and colours come from the page's style sheet.

Written by hand instead of with matplotlib: a chart has 5-20 KB, follows the reader's light or dark
theme, and the report needs no script. Series beyond MAX_POINTS are averaged in buckets.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup, escape

MAX_POINTS = 240
NUM_COLOURS = 6

WIDTH, HEIGHT = 560.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 14.0, 38.0
DIGIT = 7.0  # width of a tick label's character
UNIT_WIDTH = 24.0  # of the turned name of the value axis, with its gap to the tick labels

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. error: half the height of the band around each point, () for none.

    style: "line"; "noisy" (a running mean over a faint line); "dots" (a line with its few points
    marked); "level" (one dashed horizontal line at the last value).
    """

    label: str
    points: Sequence[Point]
    error: Sequence[float] = ()
    style: Literal["line", "noisy", "dots", "level"] = "line"


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot with its words; `svg` is empty where nothing was measured."""

    title: str
    caption: str
    svg: Markup
    legend: list[tuple[int, str, str]]  # colour number, label, last value


@dataclass(frozen=True, slots=True)
class Axis:
    """The data range of an axis with its ticks, mapped onto `start`..`end` of the drawing."""

    ticks: list[float]
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    caption: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Chart:
    """Lines over steps. low, high: fix an end of the value axis; unit "share" is written in per cent."""
    drawn = [thin(one) for one in series if one.points]
    if not drawn:
        return Chart(title, caption, Markup(""), [])
    y = value_axis(drawn, low=low, high=high)
    x = step_axis([x for one in drawn for x, _ in one.points], start=_left(y, unit))
    tinted = [(colour(i), one) for i, one in enumerate(drawn)]
    marks = Markup("").join(_marks(one, tint, x, y) for tint, one in reversed(tinted))  # the first on top
    # The last value is that of the line as the reader sees it: of a noisy one, its running mean.
    legend = [(tint, one.label, number(_shown(one)[-1][1], unit)) for tint, one in tinted]
    return Chart(title, caption, _svg(title, x, y, unit, marks), legend)


def stacked_chart(title: str, series: Sequence[Series], *, unit: str = "share", caption: str = "") -> Chart:
    """Areas on top of each other, the first at the bottom; all series need the same steps."""
    drawn = [thin(one) for one in series if one.points]
    if not drawn:
        return Chart(title, caption, Markup(""), [])
    x = step_axis([x for x, _ in drawn[0].points])
    base = [0.0] * len(drawn[0].points)
    areas = []
    tops = []
    for one in drawn:
        top = [below + value for below, (_, value) in zip(base, one.points, strict=True)]
        tops.append((base, top))
        base = top
    y = value_axis(drawn, low=0.0, high=max(1.0, *base) if unit == "share" else max(base))
    x = step_axis([x for x, _ in drawn[0].points], start=_left(y, unit))
    areas = []
    for i, (one, (lower, upper)) in enumerate(zip(drawn, tops, strict=True)):
        steps = [step for step, _ in one.points]
        outline = list(zip(steps, upper, strict=True)) + list(zip(steps, lower, strict=True))[::-1]
        areas.append(Markup('<path class="c{} area" d="{}Z"/>').format(colour(i), _path(outline, x, y)))
    legend = [(colour(i), one.label, number(_mean(one.points), unit)) for i, one in enumerate(drawn)]
    return Chart(title, caption, _svg(title, x, y, unit, Markup("").join(areas)), legend)


def colour(index: int) -> int:
    return index % NUM_COLOURS + 1


def thin(series: Series) -> Series:
    """At most MAX_POINTS points: means of equal buckets of neighbours."""
    count = len(series.points)
    if count <= MAX_POINTS:
        return series
    edges = [round(i * count / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    buckets = list(itertools.pairwise(edges))
    points = [
        (sum(x for x, _ in series.points[a:b]) / (b - a), _mean(series.points[a:b])) for a, b in buckets
    ]
    error = [max(series.error[a:b]) for a, b in buckets] if series.error else ()
    return replace(series, points=points, error=error)


def running_mean(points: Sequence[Point], window: int) -> list[Point]:
    """Centred mean over `window` neighbours, fewer at the ends."""
    half = window // 2
    return [(x, _mean(points[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def nice_step(low: float, high: float, count: int) -> float:
    """1, 2, 2.5 or 5 times a power of ten, so that about `count` ticks lie between low and high."""
    raw = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)


def ticks_between(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)]


def step_axis(steps: Sequence[float], *, start: float = LEFT) -> Axis:
    low, high = min(steps), max(steps)
    if low <= 0.1 * high:
        low = 0.0
    if low == high:
        high = low + 1
    ticks = ticks_between(low, high, max(1.0, nice_step(low, high, 6)))
    return Axis(ticks, low, high, start, WIDTH - RIGHT)


def value_axis(series: Sequence[Series], *, low: float | None, high: float | None) -> Axis:
    """The range of the values and their bands; an end that is not fixed moves out to the next tick."""
    values = [
        value + sign * error
        for one in series
        for (_, value), error in zip(one.points, one.error or [0.0] * len(one.points), strict=True)
        for sign in (-1, 1)
    ]
    bottom = min(values) if low is None else low
    top = max(values) if high is None else high
    if top <= bottom:
        top = bottom + (abs(bottom) * 0.1 or 1.0)
    step = nice_step(bottom, top, 5)
    bottom = math.floor(bottom / step + 1e-6) * step if low is None else bottom
    top = math.ceil(top / step - 1e-6) * step if high is None else top
    return Axis(ticks_between(bottom, top, step), bottom, top, HEIGHT - BOTTOM, TOP)


def _left(y: Axis, unit: str) -> float:
    """Where the drawing begins: behind the axis's name and its longest tick label."""
    return max(LEFT, UNIT_WIDTH + DIGIT * max((len(text) for text in tick_labels(y.ticks, unit)), default=0))


def tick_labels(ticks: Sequence[float], unit: str) -> list[str]:
    """With as many decimals as it takes to tell them apart; shares in per cent."""
    values = [tick * 100 for tick in ticks] if unit == "share" else ticks
    spacing = abs(values[1] - values[0]) if len(values) > 1 else 1.0
    decimals = next((d for d in range(8) if abs(round(spacing, d) - spacing) < spacing * 1e-6), 8)
    return [f"{value:,.{decimals}f}" for value in values]


def number(value: float, unit: str = "") -> str:
    """Three digits that matter; a share as per cent; thousands grouped."""
    if unit == "share":
        return f"{value * 100:.1f} %"
    if unit == "ratio":
        return f"{value:.5g}"  # of interest is how far it is from 1
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}"


def _shown(series: Series) -> Sequence[Point]:
    if series.style != "noisy":
        return series.points
    return running_mean(series.points, max(3, len(series.points) // 20))


def _marks(series: Series, tint: int, x: Axis, y: Axis) -> Markup:
    if series.style == "level":
        height = y.place(series.points[-1][1])
        return Markup('<path class="c{} line level" d="M{} {:.1f}H{}"/>').format(tint, x.start, height, x.end)
    parts = []
    if series.error:
        upper = [(s, v + e) for (s, v), e in zip(series.points, series.error, strict=True)]
        lower = [(s, v - e) for (s, v), e in zip(series.points, series.error, strict=True)]
        parts.append(
            Markup('<path class="c{} band" d="{}Z"/>').format(tint, _path(upper + lower[::-1], x, y))
        )
    if series.style == "noisy":
        parts.append(Markup('<path class="c{} line raw" d="{}"/>').format(tint, _path(series.points, x, y)))
    parts.append(Markup('<path class="c{} line" d="{}"/>').format(tint, _path(_shown(series), x, y)))
    if series.style == "dots" or len(series.points) == 1:
        dot = Markup('<circle class="c{} dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
        for step, value in series.points:
            hint = f"{series.label}, step {step:g}: {value:.4g}"
            parts.append(dot.format(tint, x.place(step), y.place(value), hint))
    return Markup("").join(parts)


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    return "M" + "L".join(f"{x.place(step):.1f} {y.place(value):.1f}" for step, value in points)


def _svg(title: str, x: Axis, y: Axis, unit: str, marks: Markup) -> Markup:
    parts = [Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)]
    for tick, label in zip(y.ticks, tick_labels(y.ticks, unit), strict=True):
        height = y.place(tick)
        parts.append(Markup('<path class="grid" d="M{:g} {:.1f}H{:g}"/>').format(x.start, height, x.end))
        parts.append(_text(x.start - 8, height + 4, "end", label))
    parts.append(Markup('<path class="axis" d="M{:g} {:g}H{:g}"/>').format(x.start, y.start, x.end))
    parts.extend(_text(x.place(tick), y.start + 17, "middle", f"{tick:,.0f}") for tick in x.ticks)
    parts.append(_text((x.start + x.end) / 2, HEIGHT - 4, "middle", "step"))
    name = "%" if unit == "share" else unit
    parts.append(
        Markup(
            '<text class="unit" transform="rotate(-90)" x="{:.1f}" y="11" text-anchor="middle">{}</text>'
        ).format(-(TOP + y.start) / 2, name)
    )
    return Markup("").join([*parts, marks, Markup("</svg>")])


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))


def _mean(points: Sequence[Point]) -> float:
    return sum(value for _, value in points) / len(points)
