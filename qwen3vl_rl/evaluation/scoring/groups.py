"""Groups of samples: by words of the expression, its length, the size of the box, the hidden part of the object.

The groups are this project's own and help to analyse failures. No published number depends on them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.grounding import Box

ATTRIBUTES = """
    black blue brown gray green grey orange pink purple red tan teal white yellow gold golden silver dark bright light
    big bigger biggest large larger largest little long short shorter shortest small smaller smallest tall taller
    tallest tiny huge old young wooden metal striped plaid square round blond blonde bald
"""
LOCATIONS = """
    left right top bottom upper lower middle center centre corner edge front back leftmost rightmost topmost
    bottommost
"""
RELATIONS = """
    above against behind below beneath beside between closest facing farthest furthest holding inside looking near
    nearest next\\sto outside over riding touching under underneath left\\sof right\\sof top\\sof front\\sof part\\sof
"""
ORDINALS = r"first second third fourth fifth sixth seventh eighth ninth tenth last \d+(?:st|nd|rd|th)"

LENGTHS = {"1 to 3 words": 3, "4 to 7 words": 7, "8 or more words": None}  # inclusive upper bounds
BOX_SIZES = {"below 5 % of the image": 0.05, "5 to 20 %": 0.2, "above 20 %": None}
OCCLUSIONS = {"up to 10 % hidden": 0.1, "10 to 40 %": 0.4, "above 40 %": None}


def _any_of(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words.split())})\b", re.IGNORECASE)


_TYPES = {
    "attribute": _any_of(ATTRIBUTES),
    "location": _any_of(LOCATIONS),
    "relation": _any_of(RELATIONS),
    "ordinal": _any_of(ORDINALS),
}


def expression_types(sent: str) -> list[str]:
    """Those of attribute, location, relation and ordinal whose words are in the expression; else `plain`."""
    return [name for name, pattern in _TYPES.items() if pattern.search(sent)] or ["plain"]


def expression_length(sent: str) -> str:
    return _band(len(sent.split()), LENGTHS)


def box_size(row: Prediction) -> str:
    """The group for the share of the image that the true box covers."""
    return _band(_area(row.xyxy_px) / (row.width * row.height), BOX_SIZES)


def occlusion(row: Prediction) -> str:
    """The group for the share of the whole box outside the visible box. Boxes approximate masks here."""
    return _band(1 - _area(row.modal_xyxy_px) / _area(row.xyxy_px), OCCLUSIONS)


@dataclass(frozen=True, slots=True)
class Grouping:
    """`groups_of` returns the groups of a sample. `groups` lists all of them in display order."""

    groups: Sequence[str]
    groups_of: Callable[[Prediction], Sequence[str]]


GROUPINGS: Mapping[str, Grouping] = MappingProxyType(
    {
        "expression": Grouping([*_TYPES, "plain"], lambda row: expression_types(row.sent)),
        "length": Grouping([*LENGTHS], lambda row: [expression_length(row.sent)]),
        "box": Grouping([*BOX_SIZES], lambda row: [box_size(row)]),
    }
)


def _band(value: float, bands: Mapping[str, float | None]) -> str:
    return next(name for name, highest in bands.items() if highest is None or value <= highest)


def _area(xyxy: Box) -> float:
    return (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
