"""Draw the paper's claim on one picture and one expression: a large model that answers at once, a small one that reasons.

    python -m images.draw_teaser --out images/teaser.png

The numbers are the paper's (arXiv 2601.13633): parameters, latency and accuracy from
qwen3vl_rl/evaluation/scoring/published.yaml, tokens from the paper's opening figure. The scene is drawn from RefShapes.
Scene, reasoning and boxes are an illustration, which the figure says, and no output of the two models.
"""

import argparse
import itertools
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
PICTURE_PX = 180, 144
ENLARGED = 12  # times that the scene is drawn larger than RefShapes does, before it is scaled down smoothly
BAR_PX, MIDDLE_PX = 250, 92  # longest bar, half the width of the labels between the bars
INK, MUTED, PALE, LINE = "#1f2328", "#59636e", "#f4f5f7", "#d1d9e0"


NOTE = (
    "Scene and answers are an illustration. Numbers are the paper’s (arXiv 2601.13633), "
    "accuracy is the mean Acc@0.5 of eight RefCOCO splits."
)


@dataclass(frozen=True, slots=True)
class Side:
    """One half of the figure. `tokens`: of an answer."""

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
    """Tokens are those of a direct answer and of EGM in the paper's opening figure."""
    found = {(point.family, point.size): point for point in points()}
    large, small = found["Qwen3-VL-Instruct", "235B"], found["EGM", "8B"]
    return (
        Side("Bigger", "Qwen3-VL-235B-Instruct", "answers at once", large, 42, False, 24),
        Side("Longer", "EGM-8B", "reasons first", small, 101, True, 464),
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
    """Heading, picture with the box, and what the model writes."""
    top, (width, height) = 88, PICTURE_PX
    write(axis, side.left_px, 70, side.heading, 17, weight="bold", color=side.colour)
    write(axis, side.left_px + 74, 70, f"{side.name} {side.does}", 12.5, color=MUTED)
    draw_picture(axis, side, referral, top)
    left = side.left_px + width + 10
    card = FancyBboxPatch((left + 4, top + 4), 214, height - 8, boxstyle="round,pad=4", facecolor=PALE, edgecolor="none")
    axis.add_patch(card)
    answer_y = top + height / 2
    if side.reasons:
        text = "\n".join(textwrap.fill(sentence, 28) for sentence in reasoning(referral))
        write(axis, left + 16, top + 20, text, 13, va="top", linespacing=1.5)
        answer_y = top + height - 30
    write(axis, left + 16, answer_y, "box", 13, color=MUTED)
    style = {"family": "monospace", "weight": "bold", "color": side.colour}
    write(axis, left + 46, answer_y, format_box_1000(referral.xyxy_px), 13, **style)


def draw_picture(axis: plt.Axes, side: Side, referral: Referral, top: float) -> None:
    """The scene with the box of the answer; after reasoning also with the objects that it has counted."""
    (width, height), left = PICTURE_PX, side.left_px
    axis.imshow(enlarge(referral.scene), extent=(left, left + width, top + height, top), interpolation="antialiased")
    axis.set(xlim=(0, SIZE_PX[0]), ylim=(SIZE_PX[1], 0), aspect="auto")
    scale = width / WIDTH

    def outline(xyxy_px: Box, margin: float, **style) -> None:
        x1, y1, x2, y2 = (scale * place for place in xyxy_px)
        corner = left + x1 - margin, top + y1 - margin
        axis.add_patch(Rectangle(corner, x2 - x1 + 2 * margin, y2 - y1 + 2 * margin, fill=False, **style))

    if side.reasons:
        for number, index in enumerate(referral.query.candidates, start=1):
            box = referral.scene.shapes[index].visible_px
            outline(box, 3, color=side.colour, linewidth=0.8, linestyle=(0, (3, 2)))
            x, y = max(left + 8, left + scale * box[0] - 3), max(top + 8, top + scale * box[1] - 3)
            axis.add_patch(Circle((x, y), 7, color=side.colour, zorder=3))
            write(axis, x, y, str(number), 10, color="white", weight="bold", ha="center", zorder=4)
    outline(referral.xyxy_px, 3, color=side.colour, linewidth=2.2)
    outline((0, 0, WIDTH, HEIGHT), 0, color=LINE, linewidth=0.8)


def draw_numbers(axis: plt.Axes, large: Side, small: Side) -> None:
    """Bars that grow from the middle to both sides, each pair on a scale of its own that begins at 0."""
    rows: dict[str, tuple[Callable[[Side], float], str]] = {
        "parameters": (lambda side: side.parameters_billion, "{:.0f}B"),
        "tokens in an answer": (lambda side: side.tokens, "{:.0f}"),
        "time for a request": (lambda side: side.point.latency_ms, "{:,.0f} ms"),
        "accuracy on RefCOCO": (lambda side: side.point.acc, "{:.1f} %"),
    }
    faster = large.point.latency_ms / small.point.latency_ms
    remarks = {"time for a request": f"{faster:.1f} times faster"}
    for number, (label, (value, text)) in enumerate(rows.items()):
        y, largest = 262 + 29 * number, max(value(large), value(small))
        write(axis, SIZE_PX[0] / 2, y, label, 12, color=MUTED, ha="center")
        for side, sign in ((large, -1), (small, 1)):
            start, length = SIZE_PX[0] / 2 + sign * MIDDLE_PX, BAR_PX * value(side) / largest
            axis.add_patch(Rectangle((min(start, start + sign * length), y - 6), length, 12, color=side.colour))
            shown = text.format(value(side)) + (f", {remarks[label]}" if side is small and label in remarks else "")
            align = "left" if sign > 0 else "right"
            write(axis, start + sign * (length + 8), y, shown, 14, weight="bold", color=side.colour, ha=align)


def write(axis: plt.Axes, x: float, y: float, text: str, size_px: float, **style) -> None:
    axis.text(x, y, text, fontsize=0.72 * size_px, **({"va": "center_baseline", "color": INK} | style))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw().savefig(args.out)


if __name__ == "__main__":
    cli(main)
