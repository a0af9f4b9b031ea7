"""Whether the boxes of a file, taken together, look like another convention than the one that its format has."""

from collections.abc import Sequence
from dataclasses import dataclass, field

MIN_BOXES = 20  # different ones: of fewer, too many look alike by chance
EDGE = 1.0  # px or thousandths by which a box may pass an edge
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

    def add(self, numbers: Sequence[float], size: tuple[int, int] | None, in_px: bool) -> None:
        """`numbers`: a box as its file gives it; `size` of its image in px, None where the file leaves it out."""
        self.boxes.add(hash((*numbers, size)))
        self.any_in_px |= in_px
        x, y, x2, y2 = numbers
        limits = size if in_px and size else (1000, 1000)
        self.all_xywh &= min(numbers) >= 0 and x + x2 <= limits[0] + EDGE and y + y2 <= limits[1] + EDGE
        self.all_normalised &= min(numbers) >= 0 and max(numbers) <= 1
        self.all_in_1000 &= min(numbers) >= 0 and max(numbers) <= 1000
        in_image = size is not None and x2 <= size[0] + EDGE and y2 <= size[1] + EDGE
        self.all_in_image &= in_image
        self.leaves_image |= not in_image
        self.all_large &= size is not None and min(size) >= LARGE_PX
        self.all_small &= size is not None and max(size) <= SMALL_PX

    def other(self) -> str | None:
        """What the boxes look like, and what is expected; None where nothing speaks against the format's own."""
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
