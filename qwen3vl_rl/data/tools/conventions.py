"""Whether the boxes of a file, taken together, look like another convention than the one that its format has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np

from qwen3vl_rl.data.readings import READINGS, XYXY_1000, XYXY_PX, Reading, likelier

MIN_BOXES = 20  # different ones: of fewer, too many look alike by chance
UNKNOWN = (nan, nan)
BEYOND = 1e9  # what is larger is no coordinate, and may be an integer too large for a float
TOGETHER = 4096


@dataclass
class Conventions:
    """All boxes seen so far, those that a file gives in px apart from those in 0..1000."""

    _waiting: dict[bool, list[tuple[float, ...]]] = field(default_factory=lambda: {True: [], False: []})
    _arrays: dict[bool, list[np.ndarray]] = field(default_factory=lambda: {True: [], False: []})

    def add(self, numbers: Sequence[float], size: tuple[int, int] | None, in_px: bool) -> None:
        """`numbers`: a box as its file gives it; `size` of its image in px, None where the file leaves it out."""
        waiting = self._waiting[in_px]
        waiting.append((*(max(min(v, BEYOND), -BEYOND) for v in numbers), *(size or UNKNOWN)))
        if len(waiting) == TOGETHER:
            self._store(in_px)

    def _store(self, in_px: bool) -> None:
        """As an array, which takes a tenth of the memory."""
        self._arrays[in_px].append(np.array(self._waiting[in_px], float).reshape(-1, 6))
        self._waiting[in_px] = []

    def different(self, in_px: bool) -> np.ndarray:
        """[n, 6]: the different boxes that the file gives so, and the sizes of their pictures."""
        self._store(in_px)
        return np.unique(np.concatenate(self._arrays[in_px]), axis=0)

    def other(self, more: Mapping[str, Reading] | None = None) -> str | None:
        """What the boxes look like, and what is expected; None where nothing speaks against the format's own. `more`:
        readings in addition to those of `data.readings`."""
        for in_px, expected in ((True, XYXY_PX), (False, XYXY_1000)):
            boxes = self.different(in_px)
            if len(boxes) < MIN_BOXES:
                continue
            if found := likelier(boxes[:, :4], boxes[:, 4:], expected, {**READINGS, **(more or {})}):
                return f"expected boxes in {expected}; all {len(boxes):,} different ones look like {found}"
        return None
