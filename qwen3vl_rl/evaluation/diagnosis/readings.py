"""Scores of the same answers when their numbers are read in other box formats."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import nan
from pathlib import Path

import numpy as np

from qwen3vl_rl.data.pictures import PictureError, read_header, turned
from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction
from qwen3vl_rl.data.readings import READINGS, XYXY_1000, Numbers, Reading, Shares, Sizes
from qwen3vl_rl.data.sample_card import reasoning_and_answer
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import answer_numbers
from qwen3vl_rl.models.families import FAMILIES
from qwen3vl_rl.models.families.interface import Family

BEYOND = 1e6  # no coordinate is larger
STORED = f"{XYXY_1000} of the picture before EXIF turns it"


def _in_resized_px(family: Family) -> Reading:
    """Reads px of the picture as the family resizes it. NaN if its size is unknown."""
    resized_px = cache(family.resized_px)

    def read(numbers: Numbers, sizes: Sizes) -> Shares:
        seen = [(nan, nan) if np.isnan(width) else resized_px(int(width), int(height)) for width, height in sizes]
        return numbers / np.tile(np.array(seen, float).reshape(-1, 2), 2)

    return read


RESIZED: Mapping[str, Reading] = {
    f"xyxy in px of the picture as {family.name} resizes it": _in_resized_px(family) for family in FAMILIES.values()
}
ANSWER_READINGS: Mapping[str, Reading] = {**READINGS, **RESIZED}


def hits_by_reading(rows: Sequence[Prediction], images: Path | None = None) -> dict[str, np.ndarray]:
    """Box format -> [n] whether each answer is right when it is read in that format.

    All `rows` must have true boxes. Without the folder `images`, EXIF orientations are ignored.
    """
    numbers = np.array([_numbers(row) for row in rows], float).clip(-BEYOND, BEYOND)
    sizes = np.array([(row.width, row.height) for row in rows], float)
    truths = np.array([row.xyxy_px for row in rows]) / np.tile(sizes, 2)
    readings = {name: read(numbers, sizes) for name, read in ANSWER_READINGS.items()}
    orientations = [_orientation(images / row.image) if images else 0 for row in rows]
    if any(orientations):
        pairs = zip(readings[XYXY_1000], orientations, strict=True)
        readings[STORED] = np.concatenate([turned(box[None], orientation) for box, orientation in pairs])
    return {name: _ious(shares, truths) > THRESHOLD_IOU for name, shares in readings.items()}


def _numbers(row: Prediction) -> tuple[float, ...]:
    """The four numbers after the reasoning, of any size and in any order; NaN if there are none."""
    _, answer = reasoning_and_answer(row.text)
    return answer_numbers(answer, "released_eval", "px") or (nan,) * 4


def _orientation(path: Path) -> int:
    try:
        return read_header(path).orientation
    except FileNotFoundError:
        raise InputError(f"{path}: expected the picture of an answer, found none; check --images") from None
    except PictureError:  # the answer is already counted as failed
        return 0


def _ious(boxes: Shares, truths: Shares) -> np.ndarray:
    """[n] IoU of boxes in shares of the picture, the same as in px. Corners may be in any order; NaN gives 0."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    overlap = np.clip(np.minimum(high, truths[:, 2:]) - np.maximum(low, truths[:, :2]), 0, None).prod(axis=1)
    areas = (high - low).prod(axis=1) + (truths[:, 2:] - truths[:, :2]).prod(axis=1)
    return np.divide(overlap, areas - overlap, out=np.zeros(len(boxes)), where=areas - overlap > 0)
