"""Whether the boxes of a file, taken together, look like another convention than the one that its format has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np

MIN_BOXES = 20  # different ones: of fewer, too many look alike by chance
EDGE = 1.0  # px or thousandths by which a box may pass an edge
UNKNOWN = (nan, nan)
TOGETHER = 4096
LARGE_PX, SMALL_PX = 1500, 800  # sides by which 0..1000 and px can be told apart


@dataclass
class Conventions:
    """What may be said of all boxes seen so far. Boxes in px and in 0..1000 may both be among them."""

    boxes: set[int] = field(default_factory=set)  # hashes
    any_in_px: bool = False
    all_xywh: bool = True
    all_normalised: bool = True
    all_in_1000: bool = True
    all_in_image: bool = True
    all_large: bool = True
    all_small: bool = True
    leaves_image: bool = False
    _waiting: list[tuple[float, ...]] = field(default_factory=list)  # x, y, x2, y2, width, height, in px

    def add(self, numbers: Sequence[float], size: tuple[int, int] | None, in_px: bool) -> None:
        """`numbers`: a box as its file gives it; `size` of its image in px, None where the file leaves it out."""
        row = (*numbers, *(size or UNKNOWN), in_px)
        self.boxes.add(hash(row))
        self._waiting.append(row)
        if len(self._waiting) == TOGETHER:
            self._look()

    def _look(self) -> None:
        """By columns, which is several times as fast as box by box."""
        rows, self._waiting = np.array(self._waiting, float).reshape(-1, 7), []
        boxes, sizes, in_px = rows[:, :4], rows[:, 4:6], rows[:, 6] > 0
        low, high, ends = boxes.min(axis=1), boxes.max(axis=1), boxes[:, 2:]
        is_known = ~np.isnan(sizes[:, 0])
        limits = np.where((in_px & is_known)[:, None], sizes, 1000)
        in_image = (ends <= sizes + EDGE).all(axis=1)  # not so where the size is unknown
        self.any_in_px |= bool(in_px.any())
        self.all_xywh &= bool(((low >= 0) & (boxes[:, :2] + ends <= limits + EDGE).all(axis=1)).all())
        self.all_normalised &= bool(((low >= 0) & (high <= 1)).all())
        self.all_in_1000 &= bool(((low >= 0) & (high <= 1000)).all())
        self.all_in_image &= bool(in_image.all())
        self.leaves_image |= not in_image.all()
        self.all_large &= bool((sizes.min(axis=1) >= LARGE_PX).all())
        self.all_small &= bool((sizes.max(axis=1) <= SMALL_PX).all())

    def other(self) -> str | None:
        """What the boxes look like, and what is expected; None where nothing speaks against the format's own."""
        self._look()
        if len(self.boxes) < MIN_BOXES:
            return None
        expected = "xyxy in px" if self.any_in_px else "xyxy in 0..1000"
        if self.all_normalised:
            found = "0..1"
        elif self.any_in_px and self.all_in_1000 and (self.leaves_image or self.all_large):
            found = "0..1000"
        elif not self.any_in_px and self.all_small and self.all_in_image:
            found = "px"
        else:
            found = "xywh" if self.all_xywh else None
        return found and f"expected boxes in {expected}; all {len(self.boxes):,} different ones look like {found}"
