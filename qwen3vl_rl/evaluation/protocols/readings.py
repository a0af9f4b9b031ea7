"""How the projects read a box from an answer: (answer, width, height, truth) -> xyxy px or None.

Some projects use the truth to choose among several boxes.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite

from qwen3vl_rl.grounding import RELATIVE_1000, Box, answer_box_px, iou, order_corners
from qwen3vl_rl.grounding.boxes import clamp

Reading = Callable[[str, int, int, Box], Box | None]

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_IN_BRACKETS = re.compile(r"\[\s*" + r"[\s,]+".join([f"({_NUMBER})"] * 4) + r"\s*\]")
_ANY_NUMBER = re.compile(_NUMBER)
_FENCED = re.compile(r"```(?:json)?(.*?)```", re.DOTALL | re.IGNORECASE)
_OPEN_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)
_FOUR = re.compile(r"(?:\s*+,\s*+|\s++)".join([r"(-?\d++(?:\.\d++)?+)"] * 4))
_LMMS_KEYS = ("bbox_2d", "bbox", "box", "coordinates", "coord", "location", "position")
NORMALISED_AT_MOST = 1.5  # VLMEvalKit reads numbers up to this as 0..1


def released(answer: str, width: int, height: int, truth: Box) -> Box | None:
    return answer_box_px(answer, "released_eval", RELATIVE_1000, width, height)


def first_json(answer: str, width: int, height: int, truth: Box) -> Box | None:
    """Qwen's notebook: the first box of the fenced list, in JSON or Python syntax, truncated to whole px.

    A list that was cut off is read up to its last complete object.
    """
    items = _json_in(answer) or _python_in(answer)
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list) or not items or not isinstance(items[0], dict):
        return None
    box = _four(items[0].get("bbox_2d"))
    if box is None:
        return None
    x1, y1, x2, y2 = (int(value / 1000 * side) for value, side in zip(box, (width, height) * 2, strict=True))
    return order_corners((x1, y1, x2, y2))


def by_magnitude(answer: str, width: int, height: int, truth: Box) -> Box | None:
    bracketed = _IN_BRACKETS.search(answer)
    numbers = bracketed.groups() if bracketed else _ANY_NUMBER.findall(answer)[:4]
    box = _four([float(number) for number in numbers])
    if box is None:
        return None
    largest = max(map(abs, box))
    unit = 1.0 if largest <= NORMALISED_AT_MOST else 1000.0 if largest <= 1000 else None
    x1, y1, x2, y2 = box if unit is None else _scaled(box, width / unit, height / unit)
    return order_corners((clamp(x1, width), clamp(y1, height), clamp(x2, width), clamp(y2, height)))


def best_of_all(answer: str, width: int, height: int, truth: Box) -> Box | None:
    """lmms-eval: reads every box in px and in 0..1000, and returns the one with the highest IoU with the truth."""
    boxes = list(_lmms_boxes(_json_in(answer))) or [tuple(map(float, found)) for found in _FOUR.findall(answer)]
    candidates = [c for box in boxes for c in (box, _scaled(box, width / 1000, height / 1000))]
    return max(candidates, key=lambda box: iou(box, truth), default=None)


READINGS: Mapping[str, Reading] = {
    "released": released,
    "first_json": first_json,
    "by_magnitude": by_magnitude,
    "best_of_all": best_of_all,
}


def _scaled(box: Box, x: float, y: float) -> Box:
    x1, y1, x2, y2 = box
    return x1 * x, y1 * y, x2 * x, y2 * y


def _four(value: object) -> Box | None:
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:  # an integer with hundreds of digits
        return None
    return (x1, y1, x2, y2) if all(map(isfinite, (x1, y1, x2, y2))) else None


def _json_in(text: str) -> object:
    """The JSON inside a fence, of the whole text, or from the first bracket to the last; None if there is none."""
    fenced = _FENCED.search(text)
    pieces = [fenced[1]] if fenced else []
    pieces += [text, *(text[text.find(a) : text.rfind(b) + 1] for a, b in ("[]", "{}") if a in text)]
    for piece in pieces:
        try:
            return json.loads(piece)
        except (ValueError, RecursionError):
            continue
    return None


def _python_in(text: str) -> object:
    """The Python literal inside a fence, closed or not, or of the text; if cut off, up to the last complete object."""
    inside = _OPEN_FENCE.split(text)[-1].partition("```")[0].strip()
    for piece in (inside, inside[: inside.rfind('"}') + 2] + "]"):
        try:
            return ast.literal_eval(piece)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _lmms_boxes(data: object) -> Iterator[Box]:
    """Every list of four numbers. An object with known keys gives only the box of the first of them."""
    if isinstance(data, list):
        if box := _four(data):
            yield box
        else:
            for item in data:
                yield from _lmms_boxes(item)
    elif isinstance(data, dict):
        named = [box for key in _LMMS_KEYS if (box := _four(data.get(key)))]
        if named:
            yield named[0]
        else:
            for item in data.values():
                yield from _lmms_boxes(item)
