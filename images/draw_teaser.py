"""Draw the paper's claim on one picture: a large model answers at once, a small one reasons first.

    python -m images.draw_teaser --out images/teaser.png

The numbers are the paper's (arXiv 2601.13633). Sizes, latency and accuracy come from
qwen3vl_rl/evaluation/scoring/published.yaml, tokens from the paper's opening figure. The scene is a RefShapes scene.
Scene, reasoning and boxes are an illustration and not the output of a model. The figure says so.
"""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from qwen3vl_rl.data.refshapes import HEIGHT, ORDINALS, WIDTH, WORLDS, Referral, Scene, format_box_1000, referrals
from qwen3vl_rl.data.refshapes.scenes import stencil
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.reporting.figures import STYLES
from qwen3vl_rl.evaluation.scoring.published import Point, points
from qwen3vl_rl.grounding import Box

SCENE_SEED, SCENE_INDEX = "teaser-258", 16  # "the second star from the left", where nothing overlaps
SIZE_PX = 900, 400  # as GitHub shows the figure; all places below are in these pixels, y downwards
PIXEL_DENSITY = 2  # pixels of the file for each of them
PICTURE_PX, PICTURE_TOP_PX = (180, 144), 88
ENLARGED = 12  # times the resolution of RefShapes, before the picture is scaled down smoothly
BAR_PX, MIDDLE_PX = 250, 92  # the longest bar, and half of the gap for labels between the bars
DIRECT_TOKENS, EGM_TOKENS = 42, 101  # of an answer, in the paper's opening figure
INK, MUTED, PALE, LINE = "#1f2328", "#59636e", "#f4f5f7", "#d1d9e0"
NOTE = (
    "Scene and answers are an illustration. Numbers are the paper's (arXiv 2601.13633), "
    "accuracy is the mean Acc@0.5 of eight RefCOCO splits."
)


@dataclass(frozen=True, slots=True)
class Side:
    """One half of the figure. `tokens` is the length of an answer."""

    heading: str
    name: str
    does: str
    point: Point
    tokens: int
    reasons: bool
    left_px: float

    @property
    def colour(self) -> str:
        return STYLES[self.point.family][0]

    @property
    def parameters_billion(self) -> float:
        return float(self.point.size.removesuffix("B"))


def sides() -> tuple[Side, Side]:
    """The large model and the small one."""
    found = {(point.family, point.size): point for point in points()}
    large, small = found["Qwen3-VL-Instruct", "235B"], found["EGM", "8B"]
    return (
        Side("Bigger", "Qwen3-VL-235B-Instruct", "answers at once", large, DIRECT_TOKENS, False, 24),
        Side("Longer", "EGM-8B", "reasons first", small, EGM_TOKENS, True, 464),
    )


def illustrated() -> Referral:
    """The scene and the expression."""
    drawn = referrals(SCENE_SEED, ("ordinal",), 0.0, WORLDS["crowded"], per_scene=1)
    return next(referral for referral in drawn if referral.scene_index == SCENE_INDEX)


def enlarge(scene: Scene, times: int = ENLARGED) -> np.ndarray:
    """RGB uint8 (times * HEIGHT, times * WIDTH, 3): the same shapes with smoother edges."""
    palette, index = scene.palette(), np.zeros((times * HEIGHT, times * WIDTH), dtype=np.uint8)
    for number, shape in enumerate(scene.shapes, start=1):
        mask = stencil(shape.shape, times * shape.side_px)
        x, y = (times * int(place) for place in shape.amodal_px[:2])
        index[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = number
    return palette[index]


def reasoning(referral: Referral) -> tuple[str, str]:
    """The two sentences of a thorough trace of RefShapes, with words in place of boxes."""
    query, shapes = referral.query, referral.scene.shapes
    seen = ", ".join(shapes[i].colour for i in query.candidates)
    place = ORDINALS[query.candidates.index(query.target)]
    listed = f"{str(query.category).capitalize()}s {query.order.phrase}: {seen}."
    return listed, f"The {place} one is {referral.target.colour}."


def draw() -> plt.Figure:
    width, height = SIZE_PX
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100 * PIXEL_DENSITY, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    referral, both = illustrated(), sides()
    write(axis, width / 2, 30, f"Where is “{referral.query.sent}”?", 18, weight="bold", ha="center")
    for side in both:
        draw_answer(axis, side, referral)
    draw_numbers(axis, *both)
    write(axis, width / 2, height - 18, NOTE, 11, color=MUTED, ha="center")
    return figure


def draw_answer(axis: plt.Axes, side: Side, referral: Referral) -> None:
    """Heading, picture and what the model writes."""
    heading_y, (width, height), top = 70, PICTURE_PX, PICTURE_TOP_PX
    write(axis, side.left_px, heading_y, side.heading, 17, weight="bold", color=side.colour)
    write(axis, side.left_px + 76, heading_y, f"{side.name} {side.does}", 12.5, color=MUTED)
    draw_picture(axis, side, referral)
    left, answer_y = side.left_px + width + 10, top + height / 2
    corner, style = (left + 4, top + 4), "round,pad=4"
    axis.add_patch(FancyBboxPatch(corner, 214, height - 8, boxstyle=style, facecolor=PALE, edgecolor="none"))
    if side.reasons:
        text = "\n".join(textwrap.fill(sentence, 28) for sentence in reasoning(referral))
        write(axis, left + 16, top + 20, text, 13, va="top", linespacing=1.5)
        answer_y = top + height - 30
    write(axis, left + 16, answer_y, "box", 13, color=MUTED)
    box = format_box_1000(referral.xyxy_px)
    write(axis, left + 46, answer_y, box, 13, family="monospace", weight="bold", color=side.colour)


def draw_picture(axis: plt.Axes, side: Side, referral: Referral) -> None:
    """The scene with the answer's box. A model that reasons has also numbered the objects that it compares."""
    (width, height), left, top = PICTURE_PX, side.left_px, PICTURE_TOP_PX
    axis.imshow(enlarge(referral.scene), extent=(left, left + width, top + height, top), interpolation="antialiased")
    axis.set(xlim=(0, SIZE_PX[0]), ylim=(SIZE_PX[1], 0), aspect="auto")  # imshow has changed them
    axis.add_patch(Rectangle((left, top), width, height, fill=False, color=LINE, linewidth=0.8))
    candidates = referral.query.candidates if side.reasons else []
    for number, index in enumerate(candidates, start=1):
        box = referral.scene.shapes[index].visible_px
        x, y = outline(axis, side, box, linewidth=0.8, linestyle=(0, (3, 2)))
        x, y = max(left + 8, x), max(top + 8, y)
        axis.add_patch(Circle((x, y), 7, color=side.colour, zorder=3))
        write(axis, x, y, str(number), 10, color="white", weight="bold", ha="center", zorder=4)
    outline(axis, side, referral.xyxy_px, linewidth=2.2)


def outline(axis: plt.Axes, side: Side, xyxy_px: Box, margin: float = 2.5, **style) -> tuple[float, float]:
    """A rectangle around a box of the scene. Returns its upper left corner in the figure."""
    scale = PICTURE_PX[0] / WIDTH
    x1, y1, x2, y2 = (scale * place for place in xyxy_px)
    corner = side.left_px + x1 - margin, PICTURE_TOP_PX + y1 - margin
    size = x2 - x1 + 2 * margin, y2 - y1 + 2 * margin
    axis.add_patch(Rectangle(corner, *size, fill=False, color=side.colour, **style))
    return corner


def draw_numbers(axis: plt.Axes, large: Side, small: Side) -> None:
    """Bars that grow from the middle to both sides, each pair on a scale of its own that begins at 0."""
    faster = f"{large.point.latency_ms / small.point.latency_ms:.1f} times faster"
    draw_pair(axis, 262, "parameters", (large, small), lambda side: side.parameters_billion, "{:.0f}B")
    draw_pair(axis, 291, "tokens in an answer", (large, small), lambda side: side.tokens, "{}")
    draw_pair(axis, 320, "time for a request", (large, small), lambda side: side.point.latency_ms, "{:,} ms", faster)
    draw_pair(axis, 349, "accuracy on RefCOCO", (large, small), lambda side: side.point.acc, "{:.1f} %")


def draw_pair(
    axis: plt.Axes, y: float, label: str, pair: tuple[Side, Side], value: Callable[[Side], float], text: str,
    remark: str = "",
) -> None:  # fmt: skip
    """Two bars with their values; the right one with a remark."""
    middle, largest = SIZE_PX[0] / 2, max(map(value, pair))
    write(axis, middle, y, label, 12, color=MUTED, ha="center")
    for side, sign, align in zip(pair, (-1, 1), ("right", "left"), strict=True):
        start, length = middle + sign * MIDDLE_PX, sign * BAR_PX * value(side) / largest
        axis.add_patch(Rectangle((start, y - 6), length, 12, color=side.colour))
        shown = text.format(value(side)) + (f", {remark}" if remark and sign > 0 else "")
        write(axis, start + length + 8 * sign, y, shown, 14, weight="bold", color=side.colour, ha=align)


def write(axis: plt.Axes, x: float, y: float, text: str, size_px: float, **style) -> None:
    """Text of a height in pixels of `SIZE_PX`; matplotlib takes points, of which there are 72 for 100 of these."""
    axis.text(x, y, text, fontsize=0.72 * size_px, **({"va": "center_baseline", "color": INK} | style))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw().savefig(args.out)


if __name__ == "__main__":
    cli(main)
