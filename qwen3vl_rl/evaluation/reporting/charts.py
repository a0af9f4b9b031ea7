"""The report's charts as numbers: accuracy with 95 % intervals, and accuracy against tokens per answer.

`charts.html.j2` draws them as SVG. Accuracies are in percent. Positions are px of a drawing, which the page scales.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from qwen3vl_rl.evaluation.reporting.tables import DASH, mark, percent, scores_at, summary_places
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE
from qwen3vl_rl.evaluation.scoring.results import Result

PANEL_PX = (8, 326)  # left and right end of an accuracy axis; the panel is 340 px wide
PLOT_PX = (34, 12, 252, 208)  # left, top, right and bottom of the plot against tokens; the chart is 400 px wide
LABEL_PX = 16  # from one label to the next
NAME_LETTERS, LABEL_LETTERS = 24, 16  # of a name that fit before a value, and to the right of the plot
MAX_TICKS = 6
MARGIN = 2  # points of accuracy between the outermost interval and the end of the axis


@dataclass(frozen=True, slots=True)
class Point:
    """One model. `model` is its position in the results. Without an interval, `low` and `high` equal `acc`."""

    model: int
    name: str
    acc: float
    low: float
    high: float
    tokens: float
    text: str  # accuracy and interval


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale: `ticks[0]` lies at `start_px`, `ticks[-1]` at `end_px`."""

    ticks: Sequence[int]
    start_px: float
    end_px: float

    def at(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(self.start_px + share * (self.end_px - self.start_px), 1)


@dataclass(frozen=True, slots=True)
class Panel:
    """All models on one split, or on average."""

    title: str
    points: Sequence[Point]
    axis: Axis


@dataclass(frozen=True, slots=True)
class TokenChart:
    """Accuracy against tokens per answer. `labels`: text and height of each point's label."""

    title: str
    points: Sequence[Point]
    labels: Sequence[tuple[str, float]]
    tokens: Axis
    acc: Axis


def accuracy_panels(results: Sequence[Result]) -> list[Panel]:
    """The average, then every split. All have the same axis."""
    averaged = {AVERAGE}.union(*(result.summary["average"]["of"] for result in results))
    points = {place: _points(results, place) for place in summary_places(results)}
    axis = Axis(_accuracy_ticks([point for members in points.values() for point in members]), *PANEL_PX)
    titles = {place: place if place in averaged else f"{place} (not in the average)" for place in points}
    return [Panel(titles[place], members, axis) for place, members in points.items()]


def token_chart(results: Sequence[Result]) -> TokenChart:
    left, top, right, bottom = PLOT_PX
    place = summary_places(results)[0]
    points = _points(results, place)
    acc = Axis(_accuracy_ticks(points), bottom, top)
    tokens = Axis(ticks(0, max(1, *(1.05 * point.tokens for point in points))), left, right)
    heights = spread_labels([acc.at(point.acc) for point in points], bottom)
    labels = [(shorten(point.name, LABEL_LETTERS), height) for point, height in zip(points, heights, strict=True)]
    return TokenChart(f"Acc@0.5 ({place}, %) against tokens per answer", points, labels, tokens, acc)


def ticks(low: float, high: float) -> list[int]:
    """At most `MAX_TICKS` numbers that enclose `low` and `high`, in even steps of 1, 2 or 5 times a power of ten."""
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    step = next(step for step in steps if math.ceil(high / step) - math.floor(low / step) < MAX_TICKS)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def spread_labels(heights: Sequence[float], bottom: float) -> list[float]:
    """The heights, moved apart to `LABEL_PX` and, where they were moved beyond `bottom`, up again."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for upper, lower in pairwise(order):
        placed[lower] = max(placed[lower], placed[upper] + LABEL_PX)
    limit = bottom
    for number in reversed(order):
        placed[number] = min(placed[number], limit)
        limit = placed[number] - LABEL_PX
    return placed


def shorten(name: str, letters: int) -> str:
    """The name, or the beginning and the end of a long one."""
    half = letters // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[1 - half :]}"


def _points(results: Sequence[Result], place: str) -> list[Point]:
    return [_point(number, result, place) for number, result in enumerate(results) if scores_at(result, place)]


def _point(number: int, result: Result, place: str) -> Point:
    scores = scores_at(result, place)
    interval = scores["acc_interval"]
    low, high = interval or (scores["acc"], scores["acc"])
    text = percent(scores["acc"]) + mark(result, place)
    text += f" ({percent(low)}{DASH}{percent(high)})" if interval else ""
    name = shorten(result.name, NAME_LETTERS)
    return Point(number, name, 100 * scores["acc"], 100 * low, 100 * high, scores["mean_tokens"], text)


def _accuracy_ticks(points: Sequence[Point]) -> list[int]:
    low, high = min(point.low for point in points), max(point.high for point in points)
    return ticks(max(0, low - MARGIN), min(100, high + MARGIN))
