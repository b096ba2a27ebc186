"""The chain of stages as inline SVG: a box a stage, in columns by what it waits for.

Evaluations are left out: they have a table. A solid line carries weights, a dashed one data or a reward
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from megatron_r1.report.plot import number
from megatron_r1.report.record import StageRecord
from megatron_r1.tracking.progress import duration

BOX_WIDTH, BOX_HEIGHT = 112.0, 40.0  # a box is wider where the longest name asks for it
LETTER = 7.4  # width of a name's character, at most
GAP_X, GAP_Y = 20.0, 52.0
MARGIN = 4.0
ARC = 9.0  # an arc's height over its boxes, for every column that it passes


@dataclass(frozen=True, slots=True)
class Box:
    """A stage at its place; (0, 0) is the top left."""

    stage: StageRecord
    column: int
    row: int
    width: float

    @property
    def x(self) -> float:
        return MARGIN + self.column * (self.width + GAP_X)

    @property
    def y(self) -> float:
        return MARGIN + GAP_Y + self.row * (BOX_HEIGHT + GAP_Y)


def chain_graph(stages: Sequence[StageRecord], measured: dict[str, float]) -> Markup:
    """stages: inputs come first. measured: pass@1 by the stage's name, where it is known."""
    boxes = place([stage for stage in stages if stage.kind != "evaluate"])
    if not boxes:
        return Markup("")
    width = max(box.x + box.width for box in boxes.values()) + MARGIN
    height = max(box.y for box in boxes.values()) + BOX_HEIGHT + MARGIN
    lines = [
        _line(boxes[name], box, is_weights=name == box.stage.section.get("init"))
        for box in boxes.values()
        for name in box.stage.inputs
        if name in boxes
    ]
    drawn = [_box(box, measured.get(name)) for name, box in boxes.items()]
    start = Markup(
        '<svg viewBox="0 0 {0:g} {1:g}" style="min-width: {2:.0f}px; max-width: {0:g}px" role="img" '
        'aria-label="the chain of stages">'
    )
    return Markup("").join([start.format(width, height, 0.75 * width), *lines, *drawn, Markup("</svg>")])


def place(stages: Sequence[StageRecord]) -> dict[str, Box]:
    """A column after all inputs; the row of the input that is furthest along, or the next free one below."""
    boxes: dict[str, Box] = {}
    width = max([BOX_WIDTH, *(LETTER * len(stage.name) + 12 for stage in stages)])
    taken: set[tuple[int, int]] = set()
    for stage in stages:
        inputs = [boxes[name] for name in stage.inputs if name in boxes]
        last = max(inputs, key=lambda box: box.column, default=None)
        column, row = (0, 0) if last is None else (last.column + 1, last.row)
        while (column, row) in taken:
            row += 1
        taken.add((column, row))
        boxes[stage.name] = Box(stage, column, row, width)
    return boxes


def _line(start: Box, end: Box, *, is_weights: bool) -> Markup:
    """Straight to the next column; over the boxes where it passes some."""
    if end.column == start.column + 1:
        x0, y0, x1, y1 = start.x + start.width, start.y + BOX_HEIGHT / 2, end.x, end.y + BOX_HEIGHT / 2
        middle = (x0 + x1) / 2
        path = f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    else:
        x0, x1 = start.x + start.width * 0.7, end.x + end.width * 0.3
        # a cubic reaches 3/4 of the height of its control points
        rise = min(0.8 * GAP_Y, ARC * (end.column - start.column)) * 4 / 3
        top = min(start.y, end.y) - rise
        path = f"M{x0:.1f} {start.y:.1f}C{x0:.1f} {top:.1f} {x1:.1f} {top:.1f} {x1:.1f} {end.y:.1f}"
    return Markup('<path class="{}" d="{}"/>').format("edge" if is_weights else "edge data", path)


def _box(box: Box, accuracy: float | None) -> Markup:
    stage = box.stage
    about = [stage.kind]
    if stage.num_steps:
        about.append(f"{stage.num_steps:,} steps")
    if stage.seconds is not None:
        about.append(duration(stage.seconds))
    if not stage.finished:
        about.append("unfinished")
    below = stage.kind if accuracy is None else f"{stage.kind} · {number(accuracy, 'share')}"
    return Markup(
        '<g class="stage{}"><title>{}</title><rect x="{:.1f}" y="{:.1f}" width="{:g}" height="{:g}" rx="7"/>'
        '<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>'
        '<text class="kind" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text></g>'
    ).format(
        "" if stage.finished else " open", " · ".join(about), box.x, box.y, box.width, BOX_HEIGHT,
        box.x + box.width / 2, box.y + 17, stage.name, box.x + box.width / 2, box.y + 32, below,
    )  # fmt: skip
