"""From the text of an answer to a box on the 0..1000 scale. Every parser runs in linear time and never raises."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType

from qwen3vl_rl.grounding.boxes import Box, order_corners
from qwen3vl_rl.grounding.errors import InputError

# How far outside 0..1000 the house parser still takes a coordinate for a miss at the image's edge and clamps it.
# Further out it is no relative coordinate, and the text holds no box. Our choice; the released code clamps all.
OVERSHOOT_1000 = 50.0

# Possessive quantifiers (`++`, `*+`, `?+`) never give back what they matched: no bait makes these patterns backtrack.
_NUMBER = r"[-+]?+(?:[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)(?:[eE][-+]?+[0-9]++)?+(?!\w)"
_GAP = r"[\s,;]++"
_CORNERS_GAP = r"(?:[\s,;]++|\s*+[)\]][\s,;]*+[(\[]\s*+)"  # also `x1, y1), (x2, y2`
_FOUR = rf"({_NUMBER}){_GAP}({_NUMBER}){_CORNERS_GAP}({_NUMBER}){_GAP}({_NUMBER})\s*+[)\]]"
_BBOX_2D_KEY = re.compile(r"""bbox_2d["'\\\s]*+:["'\s]*+[(\[]""")
_BBOX_2D = re.compile(rf"{_BBOX_2D_KEY.pattern}[(\[\s]*+{_FOUR}")
_BRACKETED = re.compile(rf"[(\[]\s*+{_FOUR}")
_RUN = re.compile(rf"([(\[]\s*+)?+(?<![\w.])({_NUMBER}(?:{_GAP}{_NUMBER})*+)")


def parse_box_1000(text: str, parser: str = "house") -> Box | None:
    """The box of an answer on the 0..1000 scale as `xyxy`, or None where there is none.

    `parser`: `house` (default), `released_reward` or `released_eval` (the released code's two readings, exact).
    Raises InputError for an unknown parser.
    """
    if parser not in PARSERS:
        raise InputError(f'parser: expected one of {", ".join(PARSERS)}, got "{parser}"')
    return PARSERS[parser](text)


def _house(text: str) -> Box | None:
    """The answer after the last `</think>` (without one, the whole text): `bbox_2d`, `<answer>`, `<box>`, last four."""
    answer = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    if _BBOX_2D_KEY.search(answer):
        # An answer that names bbox_2d is read there or not at all: other numbers belong to its label.
        # The first of several counts, as in the released evaluation.
        match = _BBOX_2D.search(answer)
        return _checked(match.groups()) if match else None
    for tag in ("answer", "box"):
        inside = _inside_tag(answer, tag)
        box = _checked(_last_four(inside)) if inside else None
        if box:
            return box
    return _checked(_last_four(answer))


def _last_four(text: str) -> tuple[str, ...]:
    """The last four numbers in one pair of brackets, else the last run of exactly four that no bracket opens."""
    last = deque(_BRACKETED.finditer(text), maxlen=1)
    if last:
        return last[0].groups()
    runs = (match[2] for match in _RUN.finditer(text) if not match[1])
    fours = deque((run for run in runs if len(re.split(_GAP, run)) == 4), maxlen=1)
    return tuple(re.split(_GAP, fours[0])) if fours else ()


def _checked(numbers: tuple[str, ...]) -> Box | None:
    if len(numbers) != 4:
        return None
    values = [float(number) for number in numbers]
    if not all(-OVERSHOOT_1000 <= value <= 1000 + OVERSHOOT_1000 for value in values):
        return None
    x1, y1, x2, y2 = (min(max(value, 0.0), 1000.0) for value in values)
    box = order_corners((x1, y1, x2, y2))
    return box if box[0] < box[2] and box[1] < box[3] else None


_RELEASED_NUMBER = r"[-+]?+(?:\d++(?:\.\d++)?+|\.\d++)"  # matches what `[-+]?\d*\.?\d+` matches
_REWARD_NUMBER = re.compile(_RELEASED_NUMBER)
_EVAL_NUMBER = re.compile(rf"{_RELEASED_NUMBER}(?:[eE][-+]?+\d++)?+")
_EVAL_LIST = re.compile(r"\[\s*+" + r"\s*+,\s*+".join([f"({_EVAL_NUMBER.pattern})"] * 4) + r"\s*+\]")
_EVAL_BBOX_2D = re.compile(r'"bbox_2d"\s*+:\s*+' + _EVAL_LIST.pattern)


def _released_reward(text: str) -> Box | None:
    """The released reward's reading: first `<answer>` if it holds a box, else the whole text, reasoning included."""
    inside = _inside_tag(text, "answer")
    return (_last_innermost_list(inside) if inside else None) or _last_innermost_list(text)


def _last_innermost_list(text: str) -> Box | None:
    start = text.rfind("[", 0, max(text.rfind("]"), 0))
    if start >= 0:
        numbers = _REWARD_NUMBER.findall(text, start, text.find("]", start))[:4]
    else:
        numbers = _last_numbers(_REWARD_NUMBER, text)
    values = [float(number) for number in numbers]
    return order_corners((*values,)) if len(values) == 4 and all(map(isfinite, values)) else None


def _released_eval(text: str) -> Box | None:
    """The released evaluation's reading: first `bbox_2d` list, else first list of four, else the last four numbers."""
    match = _EVAL_BBOX_2D.search(text) or _EVAL_LIST.search(text)
    numbers = match.groups() if match else _last_numbers(_EVAL_NUMBER, text)
    if len(numbers) != 4:
        return None
    x1, y1, x2, y2 = (min(max(float(number), 0.0), 1000.0) for number in numbers)
    return x1, y1, x2, y2  # corners are not swapped


def _last_numbers(number: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(match[0] for match in deque(number.finditer(text), maxlen=4))


def _inside_tag(text: str, tag: str) -> str | None:
    """What the first `<tag>` encloses, None where it is absent or never closed."""
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", start)
    return text[start + len(tag) + 2 : end] if start >= 0 and end >= 0 else None


PARSERS: Mapping[str, Callable[[str], Box | None]] = MappingProxyType(
    {"house": _house, "released_reward": _released_reward, "released_eval": _released_eval}
)
