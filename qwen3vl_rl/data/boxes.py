"""Box checks shared by readers, writers and preflight: xyxy in px or in 0..1000, with an area."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, box_1000_to_px, px_to_1000, scale_to_px

# COCO rounds x and width to hundredths of a px, so their sum may exceed the image's edge by a hundredth.
ROUNDING_PX = 0.011
# Reward and evaluation round a box to 0..1000 and then to px inside the image. A box thinner than this may lose its
# area, and then every answer to it is wrong. Clamping at the far edge takes up to 1 px, and so does each rounding.
SURE_PX = 3
NO_AREA = "a box that has an area after rounding to 0..1000 and to whole px inside the image"
SLACK_1000 = 0.1  # ROUNDING_PX in 0..1000, for images of 110 px and more
_NUMBERS = frozenset({int, float})  # excludes bool


class BoxError(InputError):
    """A wrong box.

    `numbers`: the box if it is four numbers, else None; `size`: (width, height) of the image in px, None if unknown;
    `in_px`: whether the box is in px (otherwise in 0..1000).
    """

    def __init__(self, message: str, numbers: Sequence[float] | None, size: tuple[int, int] | None, in_px: bool):
        super().__init__(message)
        self.numbers, self.size, self.in_px = numbers, size, in_px


def check_box_px(path: Path, number: int, name: str, value: Any, width: int, height: int) -> Box:
    """Return `value` as an xyxy box in px inside the image. Raises BoxError naming the field `name`.

    Coordinates that exceed an edge by at most `ROUNDING_PX` are moved to the edge. The box must keep an area after
    rounding to 0..1000. A box within 0..1 is rejected because it looks normalised.
    """
    x1, y1, x2, y2 = value if (is_four := is_box(value)) else (0, 0, 0, 0)
    is_inside = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    if is_inside and _is_large((x2 - x1) * 1000, width) and _is_large((y2 - y1) * 1000, height):
        return float(x1), float(y1), float(x2), float(y2)  # fast path for nearly all boxes
    x1, y1, x2, y2 = box = _cut((x1, y1, x2, y2), (width, height), ROUNDING_PX)
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):  # NaN fails every comparison
        expected = f"a box inside the {width}x{height} image, xyxy in px with x1 < x2 and y1 < y2"
    else:
        expected = _too_small(box, px_to_1000(box, width, height), (width, height), "px")
    if expected:
        raise _error(path, number, name, expected, value, is_four, (width, height), in_px=True)
    return float(x1), float(y1), float(x2), float(y2)


def check_box_1000(path: Path, number: int, name: str, value: Any, width: int, height: int) -> Box:
    """Return `value` as an xyxy box in 0..1000 of an image of `width` x `height` px. Raises BoxError.

    The rules are those of `check_box_px`, with the tolerance `SLACK_1000`.
    """
    x1, y1, x2, y2 = value if (is_four := is_box(value)) else (inf, inf, inf, inf)
    is_inside = x1 >= 0 and y1 >= 0 and x2 <= 1000 and y2 <= 1000
    if is_inside and _is_large((x2 - x1) * width, width) and _is_large((y2 - y1) * height, height):
        return x1, y1, x2, y2
    x1, y1, x2, y2 = box = _cut((x1, y1, x2, y2), (1000, 1000), SLACK_1000)
    if not all(0 <= v <= 1000 for v in box):
        expected = "four numbers in 0..1000 (xyxy)"
    else:
        expected = _too_small(box, tuple(map(round, box)), (width, height), "0..1000")
    if expected:
        raise _error(path, number, name, expected, value, is_four, (width, height), in_px=False)
    return x1, y1, x2, y2


def surely_boxes_1000(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[n]: whether each row of `boxes` [n, 4] in images of `sizes` [n, 2] in px is certain to pass `check_box_1000`.

    False means undecided. Only very thin boxes pass `check_box_1000` and are False here.
    """
    inside = ((boxes >= -SLACK_1000) & (boxes <= 1000 + SLACK_1000)).all(axis=1)  # False for NaN
    spans = np.clip(boxes[:, 2:], 0, 1000) - np.clip(boxes[:, :2], 0, 1000)
    return inside & ((spans > 1.5) & (spans * sizes > 1000 * SURE_PX)).all(axis=1)


def is_box(value: Any) -> bool:
    """Whether a JSON value is a list of four numbers; NaN and infinity are allowed."""
    return type(value) in (list, tuple) and len(value) == 4 and _NUMBERS.issuperset(map(type, value))


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; True and False are not numbers."""
    return type(value) in _NUMBERS and abs(value) < inf  # math.isfinite fails for huge integers


def _cut(box: Sequence[float], limits: tuple[float, float], slack: float) -> Sequence[float]:
    """Move coordinates that exceed 0 or the limits of (x, y) by at most `slack` to the limit."""
    x1, y1, x2, y2 = box
    if x1 >= 0 and y1 >= 0 and x2 <= limits[0] and y2 <= limits[1]:
        return box
    return [_cut_one(v, limit, slack) for v, limit in zip(box, limits * 2, strict=True)]


def _cut_one(value: float, limit: float, slack: float) -> float:
    if -slack <= value < 0:
        return 0
    return limit if limit < value <= limit + slack else value


def _is_large(span: float, side_px: int) -> bool:
    """Whether a box with this span, in thousandths of a px, is certain to keep an extent along this side."""
    return span > 1000 * SURE_PX and span > 1.5 * side_px


def _too_small(box: Sequence[float], rounded_1000: Box, size: tuple[int, int], unit: str) -> str | None:
    """What to expect instead of a box that is too small; None if the box is large enough."""
    has_area = _has_area(rounded_1000)
    read_back = scale_to_px(rounded_1000, *size) if unit == "px" else rounded_1000
    if 0 < max(box) <= 1 or (has_area and min(max(read_back), max(rounded_1000)) <= 1):
        return f"xyxy in {unit}; this looks normalised to 0..1"
    exact_1000 = [v * 1000 / side for v, side in zip(box, size * 2, strict=True)] if unit == "px" else box
    in_px = (box_1000_to_px(box_1000, *size) for box_1000 in (rounded_1000, exact_1000))
    return None if has_area and all(map(_has_area, in_px)) else f"{NO_AREA} (xyxy)"


def _has_area(box: Box) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _error(
    path: Path, number: int, name: str, expected: str, value: Any, is_four: bool, size: tuple[int, int], *, in_px: bool
) -> BoxError:
    message = str(row_error(path, number, name, expected, value))
    return BoxError(message, value if is_four else None, size, in_px)
