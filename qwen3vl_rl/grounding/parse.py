"""Parse the box on the 0..1000 scale from an answer's text. Every parser runs in linear time and never raises."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from types import MappingProxyType

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding.boxes import Box, answer_px_to_1000, box_1000_to_px, clamp, order_corners, scale_to_px

RELATIVE_1000 = "relative_1000"
NO_REFERENT = "no_referent"  # data source of RL rows whose expression has no referent in the image
# Coordinates of the box in an answer. They correspond to the values scale, keep and inverse of the release's
# `--box_remap`. The last two are for models that answer in px; `px_rounded_1000` rounds to 0..1000 on the way.
COORDINATES = (RELATIVE_1000, "px", "px_rounded_1000")
# The strict parser clamps a coordinate that is at most this far outside 0..1000, because the model missed the image's
# edge. A coordinate further out is not on the relative scale, so the answer has no box. This is our choice; the
# released code clamps all coordinates.
OVERSHOOT_1000 = 50.0

# The patterns run in linear time on any text: possessive quantifiers (`++`, `*+`, `?+`) do not backtrack, and a match
# starts only at a bracket or a key, or for `_RUN` not within a number (look-behind).
# A number is ASCII, may have an exponent, and is not attached to a word: `x1`, `2nd` and `1_000` are not numbers.
_NUMBER = r"[-+]?+(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?+[0-9]++)?+(?!\w)"
_GAP = r"[\s,;\uff0c\uff1b\u3001]++"  # including the commas of Chinese text
_CORNER_GAP = rf"(?:{_GAP}|\s*+[)\]]\s*+,?+\s*+[(\[]\s*+)"  # also matches between the points of `(x1, y1), (x2, y2)`
_ITEM = rf"""["']?+({_NUMBER})["']?+"""  # numbers may be in quotation marks
_FOUR = rf"{_ITEM}{_GAP}{_ITEM}{_CORNER_GAP}{_ITEM}{_GAP}{_ITEM}\s*+\\?+[)\]]"  # also matches LaTeX's `\[ … \]`
_BBOX_2D_LIST = r"""bbox_2d["'\\\s]*+[:\uff1a]["'\\\s]*+[(\[]"""
_BBOX_2D_BEGIN = re.compile(_BBOX_2D_LIST)
_BBOX_2D = re.compile(rf"{_BBOX_2D_LIST}[(\[\s]*+{_FOUR}")
_BRACKETED = re.compile(rf"[(\[]\s*+{_FOUR}")
_EMPTY_LIST = re.compile(r"\s*+(?:<answer>)?+\s*+(?:```(?:json)?+)?+\s*+\[\s*+\]\s*+(?:```)?+\s*+(?:</answer>)?+\s*+")
_RUN = re.compile(rf"([(\[]\s*+)?+(?<![\w.+-])({_NUMBER}(?:{_GAP}{_NUMBER})*+)")


def parse_box_1000(text: str, parser: str = "strict") -> Box | None:
    """Parse the `xyxy` box of an answer on the 0..1000 scale; None if there is no box.

    `parser`: `strict` (default), or `released_reward` or `released_eval`, which reproduce the released code exactly.
    Raises InputError for an unknown parser.
    """
    parser = parser_name(parser)
    if parser not in PARSERS:
        raise InputError(f'parser: expected one of {", ".join(PARSERS)}, got "{parser}"')
    return PARSERS[parser](text)


def declines(text: str) -> bool:
    """Whether an answer says that nothing fits: the text after the last `</think>` is only an empty list."""
    return bool(_EMPTY_LIST.fullmatch(text.rpartition("</think>")[2]))


def answer_numbers(text: str, parser: str, coordinates: str) -> Box | None:
    """The four numbers of an answer: those of `parse_box_1000`, or unclamped px if `coordinates` is in px."""
    return parse_box_1000(text, parser) if coordinates == RELATIVE_1000 else _released_px(text)


def answer_box_px(text: str, parser: str, coordinates: str, width: int, height: int) -> Box | None:
    """The box of an answer in px of the image; None if there is no box. `coordinates`: one of `COORDINATES`."""
    numbers = answer_numbers(text, parser, coordinates)
    if numbers is None or coordinates == "px":
        return numbers
    if coordinates == RELATIVE_1000:
        return box_1000_to_px(numbers, width, height)
    return scale_to_px(answer_px_to_1000(numbers, width, height), width, height)


def parser_name(name: str) -> str:
    """The current name of a parser. In earlier recipes and settings `strict` was named `house`."""
    return "strict" if name == "house" else name


def _strict(text: str) -> Box | None:
    """Parse the text after the last `</think>`. Without `</think>` (the token limit was reached), parse the whole text.

    If the answer has a list after `bbox_2d`, only such lists are read, because other numbers belong to the label. The
    first box counts, as in the released evaluation. Otherwise the box is taken from the first of these places that has
    one: the first `<answer>`, the first `<box>`, the last four numbers. Corners are ordered. A box without an area
    counts as no box.
    """
    answer = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    match = _BBOX_2D.search(answer)
    if match:
        return _strict_box(match.groups())
    if _BBOX_2D_BEGIN.search(answer):
        return None
    places = (_inside_tag(answer, "answer"), _inside_tag(answer, "box"), answer)
    boxes = (_strict_box(_last_four(place)) for place in places if place)
    return next((box for box in boxes if box), None)


def _last_four(text: str) -> Sequence[str]:
    """The last four numbers in brackets, or else the last run of exactly four numbers.

    A run after an opening bracket is ignored: a complete list would have matched, so this one was cut off.
    """
    bracketed = deque(_BRACKETED.finditer(text), maxlen=1)
    if bracketed:
        return bracketed[0].groups()
    runs = (re.split(_GAP, run[2]) for run in _RUN.finditer(text) if not run[1])
    return next(iter(deque((run for run in runs if len(run) == 4), maxlen=1)), ())


def _strict_box(numbers: Sequence[str]) -> Box | None:
    values = [float(number) for number in numbers]
    if len(values) != 4 or min(values) < -OVERSHOOT_1000 or max(values) > 1000 + OVERSHOOT_1000:
        return None
    box = order_corners(_clamped(values))
    return box if box[0] < box[2] and box[1] < box[3] else None


# The released pattern is `[-+]?\d*\.?\d+`; this one matches the same text without backtracking.
_RELEASED_NUMBER = r"[-+]?+(?:\d++(?:\.\d++)?+|\.\d++)"
_REWARD_GROUP = re.compile(r"\[([^\[\]]++)\]")
_REWARD_NUMBER = re.compile(_RELEASED_NUMBER)
_EVAL_NUMBER = re.compile(rf"{_RELEASED_NUMBER}(?:[eE][-+]?+\d++)?+")
_EVAL_LIST = re.compile(r"\[\s*+" + r"\s*+,\s*+".join([f"({_EVAL_NUMBER.pattern})"] * 4) + r"\s*+\]")
_EVAL_BBOX_2D = re.compile(r'"bbox_2d"\s*+:\s*+' + _EVAL_LIST.pattern)


def _released_reward(text: str) -> Box | None:
    """Parse as the released reward: the first `<answer>` if it has a box, else the whole text including reasoning."""
    inside = _inside_tag(text, "answer", re.IGNORECASE)
    return (_last_innermost_list(inside) if inside else None) or _last_innermost_list(text)


def _last_innermost_list(text: str) -> Box | None:
    """The first four numbers of the last innermost, non-empty `[…]`, or the text's last four if there is no `[…]`."""
    groups = deque(_REWARD_GROUP.finditer(text), maxlen=1)
    numbers = _REWARD_NUMBER.findall(groups[0][1])[:4] if groups else _last_numbers(_REWARD_NUMBER, text)
    values = [float(number) for number in numbers]
    if len(values) != 4 or not all(map(isfinite, values)):
        return None
    x1, y1, x2, y2 = values
    return order_corners((x1, y1, x2, y2))


def _released_eval(text: str) -> Box | None:
    """Parse as the released evaluation: the first `"bbox_2d"` list, else the first list of four, else the last four.

    Values that are not finite become 0, and all values are clamped to 0..1000. Corners are not ordered.
    """
    numbers = _released_eval_numbers(text)
    return _clamped([value if isfinite(value) else 0.0 for value in numbers]) if numbers else None


def _released_px(text: str) -> Box | None:
    """The numbers that `released_eval` finds, unclamped; None if one is not finite."""
    numbers = _released_eval_numbers(text)
    return numbers if numbers and all(map(isfinite, numbers)) else None


def _released_eval_numbers(text: str) -> Box | None:
    match = _EVAL_BBOX_2D.search(text) or _EVAL_LIST.search(text)
    values = tuple(map(float, match.groups() if match else _last_numbers(_EVAL_NUMBER, text)))
    return values if len(values) == 4 else None


def _last_numbers(number: re.Pattern[str], text: str) -> Sequence[str]:
    return [match[0] for match in deque(number.finditer(text), maxlen=4)]


def _inside_tag(text: str, tag: str, flags: int = 0) -> str | None:
    """The content of the first `<tag>`; None if there is no such tag or it is never closed."""
    start = re.search(f"<{tag}>", text, flags)
    end = start and re.compile(f"</{tag}>", flags).search(text, start.end())
    return text[start.end() : end.start()] if end else None


def _clamped(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return clamp(x1, 1000.0), clamp(y1, 1000.0), clamp(x2, 1000.0), clamp(y2, 1000.0)


PARSERS: Mapping[str, Callable[[str], Box | None]] = MappingProxyType(
    {"strict": _strict, "released_reward": _released_reward, "released_eval": _released_eval}
)
