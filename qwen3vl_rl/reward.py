"""The rewards of stage 2 and verl's entry point to them.

verl calls `compute_score` through `reward.custom_reward_function` (`path: pkg://qwen3vl_rl.reward`); the keyword
arguments come from its `reward_kwargs`. Formulas and constants: egm recipe, stage 2.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from math import ceil, exp, isfinite
from operator import eq
from types import MappingProxyType
from typing import Any, NamedTuple

from qwen3vl_rl.grounding import Box, InputError, order_corners, parse_box_1000, reward_iou

# The released RL reads boxes as `released_reward`; `released_eval` belongs to the evaluation.
_PARSERS = MappingProxyType({"house": "house", "released": "released_reward"})


class Parts(NamedTuple):
    """What a reward may depend on, for an answer that holds a box."""

    iou: float  # of prediction and truth in whole pixels, 0..1
    length_words: int  # whitespace-separated words of the whole answer, reasoning included
    repeats: int  # longest run of one word repeated, 1 where none is
    alpha: float  # share of the step [iou >= threshold] in `mix`
    threshold: float  # IoU from which an answer is right


def mix(parts: Parts) -> float:
    """alpha * [iou >= threshold] + (1 - alpha) * iou."""
    return parts.alpha * accuracy(parts) + (1 - parts.alpha) * parts.iou


def sigmoid(parts: Parts) -> float:
    """1 / (1 + exp(-8 (iou - threshold)))."""
    return 1 / (1 + exp(-8 * (parts.iou - parts.threshold)))


def penalty(parts: Parts) -> float:
    """`mix`, less 0.01 for every begun 50 words over 512, less 0.3 where a word comes 7 or more times in a row."""
    too_long = ceil(max(0, parts.length_words - 512) / 50)
    return mix(parts) - 0.01 * too_long - 0.3 * (parts.repeats >= 7)


def normalized_exp(parts: Parts) -> float:
    """(1 - exp(-k iou)) / (1 - exp(-k)) with k = ln 16: rises early, and is 0 at 0 and 1 at 1."""
    return (1 - 16**-parts.iou) / (1 - 1 / 16)


def accuracy(parts: Parts) -> float:
    """[iou >= threshold]."""
    return float(parts.iou >= parts.threshold)


REWARDS: Mapping[str, Callable[[Parts], float]] = MappingProxyType(
    {"mix": mix, "sigmoid": sigmoid, "penalty": penalty, "normalized_exp": normalized_exp, "eval": accuracy}
)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Iterable[float],
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_type: str,
    alpha: float,
    threshold: float,
    parser: str = "house",
    **kwargs: Any,
) -> dict[str, float]:
    """The reward of one answer, as verl's reward managers call it.

    `ground_truth` is the true box, xyxy on the 0..1000 scale; `extra_info` holds the image's `width` and `height` in
    pixels. Where its `split` is `test` the reward is `eval` whatever `reward_type` says. `parser`: `house`, or
    `released` for the released reward's reading. `data_source` and `kwargs` are verl's and not used.

    Returns `score` and its parts: `acc` ([iou >= threshold]), `iou`, `format` (1.0 where the answer holds a box),
    `length_words`, `repeats`. An answer without a box and a malformed truth score 0, with no penalty.
    Raises InputError for an unknown reward or parser and for a missing size.
    """
    extra_info = extra_info or {}
    reward = _named("reward_type", reward_type, REWARDS)
    if extra_info.get("split") == "test":
        reward = REWARDS["eval"]
    width, height = _size_px(extra_info, "width"), _size_px(extra_info, "height")
    predicted = parse_box_1000(solution_str, _named("parser", parser, _PARSERS))
    truth = _truth_1000(ground_truth)
    words = solution_str.split()
    scored = predicted is not None and truth is not None
    iou = reward_iou(predicted, truth, width, height) if scored else 0.0
    parts = Parts(iou, len(words), longest_run(words), alpha, threshold)
    return {
        "score": reward(parts) if scored else 0.0,
        "acc": accuracy(parts) if scored else 0.0,
        "iou": iou,
        "format": float(predicted is not None),
        "length_words": float(parts.length_words),
        "repeats": float(parts.repeats),
    }


def longest_run(words: list[str]) -> int:
    """How many times in a row the most repeated word comes, 0 without words."""
    if not any(map(eq, words, words[1:])):  # the common case, without a Python loop
        return min(len(words), 1)
    return max(sum(1 for _ in run) for _, run in groupby(words))


def _truth_1000(ground_truth: Iterable[float]) -> Box | None:
    if isinstance(ground_truth, str | bytes):  # their characters could pass for four numbers
        return None
    try:
        x1, y1, x2, y2 = map(float, ground_truth)
    except (TypeError, ValueError, OverflowError):
        return None
    return order_corners((x1, y1, x2, y2)) if all(map(isfinite, (x1, y1, x2, y2))) else None


def _size_px(extra_info: Mapping[str, Any], field: str) -> int:
    try:
        size = int(extra_info[field])
    except (KeyError, TypeError, ValueError, OverflowError):
        size = 0
    if size < 1:
        raise InputError(
            f'reward: sample {extra_info.get("id")}: extra_info field "{field}": '
            f"expected the image's {field} in pixels, got {extra_info.get(field)!r}"
        )
    return size


def _named(field: str, name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise InputError(f'reward: field "{field}": expected one of {", ".join(table)}, got {name!r}')
    return table[name]
