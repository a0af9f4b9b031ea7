"""Detect files whose boxes, taken together, look like another convention than that of the file's format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np

from qwen3vl_rl.data.readings import READINGS, XYXY_1000, XYXY_PX, Reading, likelier

MIN_BOXES = 20  # distinct boxes; fewer may match another convention by chance
UNKNOWN = (nan, nan)
BEYOND = 1e9  # coordinates are clipped to this, because integers may be too large for a float
TOGETHER = 4096  # boxes collected in a list before they are stored as an array


@dataclass
class Conventions:
    """All boxes seen so far, with those given in px kept apart from those in 0..1000."""

    _waiting: dict[bool, list[tuple[float, ...]]] = field(default_factory=lambda: {True: [], False: []})
    _arrays: dict[bool, list[np.ndarray]] = field(default_factory=lambda: {True: [], False: []})

    def add(self, numbers: Sequence[float], size: tuple[int, int] | None, in_px: bool) -> None:
        """`numbers`: a box as written in its file; `size`: (width, height) of its image in px, None if unknown."""
        waiting = self._waiting[in_px]
        waiting.append((*(max(min(v, BEYOND), -BEYOND) for v in numbers), *(size or UNKNOWN)))
        if len(waiting) == TOGETHER:
            self._store(in_px)

    def _store(self, in_px: bool) -> None:
        """Convert waiting boxes to an array, which needs a tenth of the memory."""
        self._arrays[in_px].append(np.array(self._waiting[in_px], float).reshape(-1, 6))
        self._waiting[in_px] = []

    def different(self, in_px: bool) -> np.ndarray:
        """[n, 6]: the distinct boxes in px or in 0..1000, each with the width and height of its picture."""
        self._store(in_px)
        return np.unique(np.concatenate(self._arrays[in_px]), axis=0)

    def other(self, more: Mapping[str, Reading] | None = None) -> str | None:
        """A message if the boxes look like another convention than the expected one, else None.

        `more`: readings to consider in addition to those of `data.readings`.
        """
        for in_px, expected in ((True, XYXY_PX), (False, XYXY_1000)):
            boxes = self.different(in_px)
            if len(boxes) < MIN_BOXES:
                continue
            if found := likelier(boxes[:, :4], boxes[:, 4:], expected, {**READINGS, **(more or {})}):
                return f"expected boxes as {expected}, but all {len(boxes):,} distinct boxes look like {found}"
        return None
