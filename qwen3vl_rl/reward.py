"""The rewards of stage 2 and verl's entry point to them.

verl calls `compute_score` through `reward.custom_reward_function` (`path: pkg://qwen3vl_rl.reward`); the keyword
arguments come from its `reward_kwargs`. The formulas and constants of `mix`, `sigmoid`, `penalty` and `normalized_exp`
are those of the released recipe, stage 2. A reward of your own is a function of `Parts` in any file, selected as
`FILE.py:NAME`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import groupby
from math import ceil, exp, isfinite
from numbers import Real
from operator import eq
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qwen3vl_rl.errors import FATAL, InputError
from qwen3vl_rl.grounding import (
    NO_REFERENT,
    Box,
    IntBox,
    box_1000_to_px,
    declines,
    iou,
    order_corners,
    parse_box_1000,
    render_prompt,
    reward_iou,
    target_text,
)

PARTS = ("score", "acc", "format", "length_words", "repeats")  # keys of the result of every answer
SHOWN_CHARACTERS = 500  # of an answer's end in an error message


class Parts(NamedTuple):
    """What a reward may depend on, for an answer that contains a box."""

    predicted_px: IntBox  # xyxy in whole pixels, as the truth
    truth_px: IntBox
    iou: float  # of these two boxes, 0..1
    modal_iou: float | None  # of the answer's second box and the visible part; None if the prompt asks for one box
    length_words: int  # whitespace-separated words of the whole answer, reasoning included
    length_tokens: int  # as generated; 0 if unknown
    repeats: int  # length of the longest run of one word; 1 without repetition
    alpha: float  # weight of [iou >= threshold] in `mix`
    threshold: float  # IoU from which an answer is right
    budget_tokens: int  # tokens of an answer that `efficient` does not discount
    answer: str = ""  # as generated, without its reasoning
    reasoning: str = ""  # the text before `</think>`, without an opening `<think>`
    sample: Mapping[str, Any] = MappingProxyType({})  # `extra_info` of the sample's row


Reward = Callable[[Parts], float]


def mix(parts: Parts) -> float:
    """alpha * [iou >= threshold] + (1 - alpha) * iou."""
    return parts.alpha * accuracy(parts) + (1 - parts.alpha) * parts.iou


def sigmoid(parts: Parts) -> float:
    """1 / (1 + exp(-8 (iou - threshold)))."""
    return 1 / (1 + exp(-8 * (parts.iou - parts.threshold)))


def penalty(parts: Parts) -> float:
    """`mix`, minus 0.01 per started 50 words over 512, minus 0.3 if a word comes 7 or more times in a row."""
    too_long = ceil(max(0, parts.length_words - 512) / 50)
    return mix(parts) - 0.01 * too_long - 0.3 * (parts.repeats >= 7)


def normalized_exp(parts: Parts) -> float:
    """(1 - exp(-k iou)) / (1 - exp(-k)) with k = ln 16: rises early, and is 0 at 0 and 1 at 1."""
    return (1 - 16**-parts.iou) / (1 - 1 / 16)


def giou(parts: Parts) -> float:
    """`mix` with (1 + GIoU) / 2 instead of the IoU: of two boxes that miss the truth, the nearer one earns more.

    GIoU = iou - (hull - union) / hull, -1..1 (Rezatofighi et al. 2019, arXiv 1902.09630).
    """
    predicted_px = order_corners(parts.predicted_px)  # `released_eval` does not order corners
    graded = (1 + generalized_iou(predicted_px, parts.truth_px)) / 2
    return parts.alpha * accuracy(parts) + (1 - parts.alpha) * graded


def diou(parts: Parts) -> float:
    """`mix` with (1 + DIoU) / 2 instead of the IoU: boxes that miss are graded by the distance of the centres.

    DIoU = iou - distance² / diagonal², -1..1, of the centres and of the hull (Zheng et al. 2020, arXiv 1911.08287).
    """
    predicted_px = order_corners(parts.predicted_px)
    graded = (1 + parts.iou - centre_distance(predicted_px, parts.truth_px)) / 2
    return parts.alpha * accuracy(parts) + (1 - parts.alpha) * graded


def efficient(parts: Parts) -> float:
    """`mix` within the budget, `mix * budget_tokens / length_tokens` beyond it. Shorter answers earn nothing extra."""
    return mix(parts) * min(1.0, parts.budget_tokens / max(1, parts.length_tokens))


def amodal(parts: Parts) -> float:
    """`mix` of the amodal box, an amodal sample's truth; the mean of both if the prompt asks for the visible box."""
    if parts.modal_iou is None:
        return mix(parts)
    return (mix(parts) + mix(parts._replace(iou=parts.modal_iou))) / 2


def accuracy(parts: Parts) -> float:
    """[iou >= threshold]."""
    return float(parts.iou >= parts.threshold)


REWARDS: Mapping[str, Reward] = MappingProxyType(
    {
        "mix": mix,
        "sigmoid": sigmoid,
        "penalty": penalty,
        "normalized_exp": normalized_exp,
        "giou": giou,
        "diou": diou,
        "efficient": efficient,
        "amodal": amodal,
        "eval": accuracy,
    }
)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Iterable[float] | None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_type: str,
    alpha: float,
    threshold: float,
    parser: str = "strict",
    budget_tokens: int = 100,
    **kwargs: Any,
) -> dict[str, float]:
    """The reward of one answer, as verl's reward managers call it.

    data_source: `no_referent` if nothing in the image fits the expression. There is no true box then. An answer that
        says so (`grounding.declines`) scores 1 with every reward, any other answer 0.
    ground_truth: the true box, xyxy on the 0..1000 scale.
    extra_info: the image's `width` and `height` in pixels, and the answer's `length_tokens`. If the prompt asks for the
        amodal and then the visible box, `modal_xyxy_1000` is the visible one. If `split` is `test`, the reward is
        `eval`, not `reward_type`.
    reward_type: a name in `REWARDS`, or `FILE.py:NAME`.
    parser: a name in `grounding.PARSERS`; `released_reward` reads answers as the released reward does.
    kwargs: verl's, not used.

    Returns `score` and its parts: `acc` ([iou >= threshold]), `iou`, `format` (1.0 if the answer contains a box),
    `length_words`, `repeats`, and `modal_iou` if the prompt asks for both boxes. For `no_referent`, `acc` and
    `declined` are 1.0 if the answer declines, and there is no `iou`. An answer without a box and a malformed truth
    score 0, without a penalty. Raises InputError for an unknown reward or parser and for a missing image size.
    """
    extra_info = extra_info or {}
    reward = find_reward(reward_type)
    if extra_info.get("split") == "test":
        reward = accuracy
    width, height = _size_px(extra_info, "width"), _size_px(extra_info, "height")
    predicted, truth = parse_box_1000(solution_str, parser), _truth_1000(ground_truth, parser)
    words = solution_str.split()
    repeats = longest_run(words)
    shape = {"format": float(predicted is not None), "length_words": float(len(words)), "repeats": float(repeats)}
    if data_source == NO_REFERENT:
        declined = float(declines(solution_str))
        return {"score": declined, "acc": declined, "declined": declined, **shape}
    score = acc = overlap = 0.0
    modal = _modal_iou(solution_str, parser, extra_info, width, height)
    if predicted is not None and truth is not None:
        predicted_px, truth_px = box_1000_to_px(predicted, width, height), box_1000_to_px(truth, width, height)
        overlap = iou(predicted_px, truth_px)
        parts = Parts(
            predicted_px=predicted_px,
            truth_px=truth_px,
            iou=overlap,
            modal_iou=modal,
            length_words=len(words),
            length_tokens=extra_info.get("length_tokens", 0),
            repeats=repeats,
            alpha=alpha,
            threshold=threshold,
            budget_tokens=budget_tokens,
            answer=solution_str.rpartition("</think>")[2].strip(),
            reasoning=solution_str.rpartition("</think>")[0].removeprefix("<think>").strip(),
            sample=extra_info,
        )
        score, acc = _apply(reward, parts, f"reward {reward_type}", solution_str, extra_info), accuracy(parts)
    result = {"score": score, "acc": acc, "iou": overlap, **shape}
    return result if modal is None else {**result, "modal_iou": modal}


def check_settings(reward_type: str, alpha: float, threshold: float, parser: str, budget_tokens: int, **_: Any) -> None:
    """Raise InputError for settings of `compute_score` that cannot work, before anything starts.

    The reward is tried on several kinds of answers. Exceptions of a user's own function are passed on to the user.
    """
    reward = find_reward(reward_type)
    parse_box_1000("", parser)
    for name, value in (("alpha", alpha), ("threshold", threshold)):
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"reward.{name}: expected a number in 0..1, got {value!r}")
    if not isinstance(budget_tokens, int) or budget_tokens < 1:
        raise InputError(f"reward.budget_tokens: expected a positive integer, got {budget_tokens!r}")
    for answer, parts in _answers(alpha, threshold, budget_tokens).items():
        value = reward(parts)
        if not isinstance(value, Real) or not isfinite(value):
            raise InputError(f"reward_type: expected {reward_type} to return a number for {answer}, got {value!r}")


def _answers(alpha: float, threshold: float, budget_tokens: int) -> dict[str, Parts]:
    """One answer of each kind that a reward may get."""
    box, text = (0, 0, 9, 9), target_text("", (0, 0, 900, 900), "the red cup").strip()
    sample = {"split": "train", "index": 0, "id": "1", "height": 10, "width": 10}
    sample["question"] = f"<image>{render_prompt('qwen3', 'the red cup')}"
    reasoning = "The cup on the left is red."
    numbers = (1.0, None, 10, 40, 1, alpha, threshold, budget_tokens)
    right = Parts(box, box, *numbers, answer=text, reasoning=reasoning, sample=sample)
    return {
        "a right answer": right,
        "a box that overlaps the truth in part": right._replace(predicted_px=(0, 0, 9, 4), iou=4 / 9),
        "a box that misses the truth": right._replace(predicted_px=(20, 20, 29, 29), iou=0.0),
        "a point in the truth's corner": right._replace(predicted_px=(9, 9, 9, 9), iou=0.0),
        "an answer of 2,000 words that repeats one": right._replace(length_words=2000, length_tokens=4000, repeats=999),
        "two boxes": right._replace(modal_iou=0.5),
    }


def _apply(reward: Reward, parts: Parts, name: str, answer: str, extra_info: Mapping[str, Any]) -> float:
    """The score. A function that raises or returns no finite number ends the run with a fatal line in the log.

    verl would otherwise continue without the answer, or with NaN advantages.
    """
    try:
        score = float(value := reward(parts))
        if not isfinite(score):
            raise InputError(f"expected a finite number, got {value!r}")
    except Exception as error:
        sample = next((extra_info[key] for key in ("id", "index") if extra_info.get(key) is not None), None)
        numbers = {
            name: value for name, value in parts._asdict().items() if name not in ("answer", "reasoning", "sample")
        }
        where = f"sample {sample}, answer {answer[-SHOWN_CHARACTERS:]!r}, parts {numbers}"
        print(f"{FATAL} {name} raised {type(error).__name__}: {error} for {where}", file=sys.stderr, flush=True)
        raise
    return score


def find_reward(name: str) -> Reward:
    """The reward of that name, or the function `FILE.py:NAME`. Raises InputError if there is none."""
    if name in REWARDS:
        return REWARDS[name]
    file, colon, function = name.rpartition(":")
    if not colon:
        raise InputError(f'reward_type: expected one of {", ".join(REWARDS)} or FILE.py:NAME, got "{name}"')
    return _load(file, function)


@lru_cache
def _load(file: str, function: str) -> Reward:
    if not Path(file).is_file():
        raise InputError(f"reward_type: no such file: {file}")
    spec = spec_from_file_location(Path(file).stem, file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(reward := getattr(module, function, None)):
        raise InputError(f'reward_type: expected a function "{function}" in {file}, found none')
    return reward


def generalized_iou(a: Box, b: Box) -> float:
    """IoU minus the share of the common hull that neither box covers, -1..1. Boxes have x1 <= x2 and y1 <= y2."""
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = areas - overlap
    return (overlap / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)


def centre_distance(a: Box, b: Box) -> float:
    """Squared distance of the centres over the squared diagonal of the common hull, 0..1; 0 for equal points."""
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    return apart / hull if hull else 0.0


def longest_run(words: list[str]) -> int:
    """Length of the longest run of one word, 0 without words."""
    if not any(map(eq, words, words[1:])):  # the common case, without a Python loop
        return min(len(words), 1)
    return max(sum(1 for _ in run) for _, run in groupby(words))


def _modal_iou(text: str, parser: str, extra_info: Mapping[str, Any], width: int, height: int) -> float | None:
    """IoU of the answer's second `bbox_2d` and the visible part, 0 without one; None if the prompt asks for one box."""
    if extra_info.get("modal_xyxy_1000") is None:
        return None
    answer = text[max(0, text.rfind("</think>")) :]
    begin = answer.find("bbox_2d", answer.find("bbox_2d") + 1)
    second = parse_box_1000(answer[begin:], parser) if begin > 0 else None
    truth = _truth_1000(extra_info["modal_xyxy_1000"], parser)
    return reward_iou(second, truth, width, height) if second and truth else 0.0


def _truth_1000(ground_truth: Iterable[float], parser: str) -> Box | None:
    """The true box, None if malformed. Its corners are ordered, except for `released_reward`: swapped ones score 0."""
    if isinstance(ground_truth, str | bytes):  # four digits would read as four numbers
        return None
    try:
        x1, y1, x2, y2 = map(float, ground_truth)
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(isfinite, (x1, y1, x2, y2))):
        return None
    return (x1, y1, x2, y2) if parser == "released_reward" else order_corners((x1, y1, x2, y2))


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
