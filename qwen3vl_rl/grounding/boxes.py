"""Boxes: unit conversions, the paper's scaling, and IoU.

Names contain the format and the unit. `xyxy` is (x1, y1, x2, y2) with exclusive right and bottom edges, `xywh` is
COCO's (x, y, width, height); `_px` means pixels of the image, `_1000` Qwen3-VL's relative scale, 0..1000 per axis.
"""

Box = tuple[float, float, float, float]
IntBox = tuple[int, int, int, int]


def xywh_to_xyxy(box: Box) -> Box:
    """(x, y, width, height) to (x1, y1, x2, y2), same unit."""
    x, y, width, height = box
    return x, y, x + width, y + height


def xyxy_to_xywh(box: Box) -> Box:
    """(x1, y1, x2, y2) to (x, y, width, height), same unit."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def order_corners(box: Box) -> Box:
    """Swap coordinates where needed so that x1 <= x2 and y1 <= y2."""
    x1, y1, x2, y2 = box
    if x1 > x2:
        x1, x2 = x2, x1
    if y1 > y2:
        y1, y2 = y2, y1
    return x1, y1, x2, y2


def px_to_1000(xyxy_px: Box, width: int, height: int) -> IntBox:
    """Pixels to relative integers: `round(v * 1000 / size)`, clamped to 0..1000."""
    x1, y1, x2, y2 = xyxy_px
    return (
        round(clamp(x1 * 1000 / width, 1000)),
        round(clamp(y1 * 1000 / height, 1000)),
        round(clamp(x2 * 1000 / width, 1000)),
        round(clamp(y2 * 1000 / height, 1000)),
    )


def scale_to_px(xyxy_1000: Box, width: int, height: int) -> Box:
    """0..1000 to px, without rounding."""
    x1, y1, x2, y2 = xyxy_1000
    return x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000


def box_1000_to_px(xyxy_1000: Box, width: int, height: int) -> IntBox:
    """Relative coordinates to whole pixels, as the released reward and evaluation scale them.

    Each value becomes `round(v * size / 1000)` clamped to 0..size-1. If both ends of an axis become equal, the second
    is moved by one pixel, unless the image ends there. The corners are not reordered: swapped corners stay swapped.
    """
    x1, y1, x2, y2 = xyxy_1000
    left, right = _span_px(x1, x2, width)
    top, bottom = _span_px(y1, y2, height)
    return left, top, right, bottom


def answer_px_to_1000(xyxy_px: Box, width: int, height: int) -> IntBox:
    """Convert an answer in px to 0..1000, as the released evaluation's `--box_remap inverse` does.

    Each value is rounded and clamped to 0..size-1, the corners are ordered, and the values are scaled and rounded
    again. If both ends of an axis become equal, the second is moved by one, up to 1000.
    """
    x1, y1, x2, y2 = xyxy_px
    whole = (round(clamp(v, size - 1)) for v, size in ((x1, width), (y1, height), (x2, width), (y2, height)))
    left, top, right, bottom = px_to_1000(order_corners(tuple(whole)), width, height)
    return left, top, min(right + (left == right), 1000), min(bottom + (top == bottom), 1000)


def iou(a: Box, b: Box) -> float:
    """Intersection over union (0..1) of two `xyxy` boxes in the same unit. It is 0 for a box without an area."""
    overlap_w = min(a[2], b[2]) - max(a[0], b[0])
    overlap_h = min(a[3], b[3]) - max(a[1], b[1])
    if overlap_w <= 0 or overlap_h <= 0:
        return 0.0
    overlap = overlap_w * overlap_h
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def reward_iou(pred_1000: Box, truth_1000: Box, width: int, height: int) -> float:
    """IoU as in the reward: both the predicted and the true box are scaled to whole pixels (egm recipe, stage 2)."""
    return iou(box_1000_to_px(pred_1000, width, height), box_1000_to_px(truth_1000, width, height))


def eval_iou(pred_1000: Box, truth_xyxy_px: Box, width: int, height: int) -> float:
    """IoU as in the evaluation: the predicted box is scaled to whole pixels, the true box is in unrounded pixels."""
    return iou(box_1000_to_px(pred_1000, width, height), truth_xyxy_px)


def clamp(value: float, limit: float) -> float:
    """Clamp `value` to 0..limit."""
    return 0.0 if value <= 0 else limit if value > limit else value


def _span_px(low_1000: float, high_1000: float, size: int) -> tuple[int, int]:
    last = size - 1
    # Clamping before rounding gives the same integers, and also handles infinite values, which cannot be rounded.
    low = round(clamp(low_1000 * size / 1000, last))
    high = round(clamp(high_1000 * size / 1000, last))
    return low, min(low + 1, last) if low == high else high
