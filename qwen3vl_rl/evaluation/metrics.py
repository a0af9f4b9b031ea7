"""From predictions to numbers. Pure functions: the same predictions in any order give the same numbers, bit for bit.

Acc@0.5 counts `IoU > 0.5`, strictly, as the paper's tables do. Intervals are 95 % percentile intervals of a bootstrap
that resamples whole images, because expressions about one image are not independent. The average is the paper's: the
unweighted mean over the splits; amodal splits ask for something else and stay out of it unless there are no others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from qwen3vl_rl.evaluation.predictions import Prediction
from qwen3vl_rl.grounding import InputError

THRESHOLD_IOU = 0.5  # paper, table 1
CRITERION = f"IoU > {THRESHOLD_IOU}"
REPLICATES = 2000
SEED = 0
AVERAGE = "average"

Interval = tuple[float, float] | None  # None where fewer than two images leave nothing to resample


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval."""

    value: float
    interval: Interval


def is_correct(prediction: Prediction) -> bool:
    """Whether the prediction counts in Acc@0.5."""
    return prediction.iou > THRESHOLD_IOU


def summarize(predictions: Iterable[Prediction]) -> dict:
    """Per split and on average: accuracy with interval, mean IoU, invalid, truncated and failed answers, tokens.

    Rates are fractions 0..1. Raises InputError where there is no prediction.
    """
    rows = _sorted(predictions)
    accuracy = _estimate(rows, [float(is_correct(row)) for row in rows])
    splits = {split: _summarize_split(members, accuracy[split]) for split, members in _by_split(rows).items()}
    averaged = [splits[split] for split in average_splits(rows)]
    common = ("mean_iou", "invalid_rate", "truncated_rate", "mean_tokens")
    average = _accuracy_fields(accuracy[AVERAGE]) | {name: fmean(split[name] for split in averaged) for name in common}
    return {"criterion": CRITERION, "splits": splits, "average": average | {"of": average_splits(rows)}}


def summarize_latency(predictions: Iterable[Prediction]) -> dict:
    """Mean, median and 95th percentile of `latency_s` per split and over the requests of all averaged splits.

    Failed requests have no latency and are left out.
    """
    answered = sorted((row for row in predictions if row.error is None), key=lambda row: row.key)
    groups = _by_split(answered) | {AVERAGE: [row for row in answered if row.split in average_splits(answered)]}
    return {name: _latency_fields([row.latency_s for row in rows]) for name, rows in groups.items() if rows}


def paired_difference(first: Iterable[Prediction], second: Iterable[Prediction]) -> dict[str, Estimate]:
    """Acc@0.5 of `second` minus that of `first` on the same samples, per split and on average, as fractions.

    Raises InputError where the two hold different samples.
    """
    a, b = _sorted(first), _sorted(second)
    if [(row.key, row.image, row.sent) for row in a] != [(row.key, row.image, row.sent) for row in b]:
        raise InputError("paired difference: expected two runs over the same samples, got different ones")
    return _estimate(a, [float(is_correct(y)) - float(is_correct(x)) for x, y in zip(a, b, strict=True)])


def average_splits(rows: Iterable[Prediction]) -> list[str]:
    """The splits that the average is taken over, in the paper's order."""
    amodal = {row.split: row.modal_xyxy_px is not None for row in rows}
    return sorted([split for split in amodal if not amodal[split]] or amodal, key=_paper_order)


def _paper_order(split: str) -> tuple[str, int, str]:
    """A data set's `val` comes first, then `testA`, `testB` or `test`."""
    dataset, _, part = split.rpartition("_")
    return dataset, part != "val", part


def _sorted(predictions: Iterable[Prediction]) -> list[Prediction]:
    rows = sorted(predictions, key=lambda row: row.key)
    if not rows:
        raise InputError("metrics: expected at least one prediction, got none")
    return rows


def _by_split(rows: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for row in rows:
        groups.setdefault(row.split, []).append(row)
    return groups


def _summarize_split(rows: list[Prediction], accuracy: Estimate) -> dict:
    fields = {
        "samples": len(rows),
        "images": len({row.image for row in rows}),
        **_accuracy_fields(accuracy),
        "mean_iou": fmean(row.iou for row in rows),
        "invalid_rate": fmean(row.pred_xyxy_px is None for row in rows),
        "truncated_rate": fmean(row.finish_reason == "length" for row in rows),
        "failed_requests": sum(row.error is not None for row in rows),
        "mean_tokens": fmean(row.tokens for row in rows),
    }
    modal_ious = [row.modal_iou for row in rows if row.modal_iou is not None]
    if modal_ious:
        fields["visible_acc"] = fmean(iou > THRESHOLD_IOU for iou in modal_ious)
        fields["visible_mean_iou"] = fmean(modal_ious)
    return fields


def _accuracy_fields(accuracy: Estimate) -> dict:
    return {"acc": accuracy.value, "acc_interval": accuracy.interval and list(accuracy.interval)}


def _latency_fields(latencies_s: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(latencies_s, [50, 95])
    return {"mean_s": fmean(latencies_s), "p50_s": float(p50), "p95_s": float(p95)}


def _estimate(rows: Sequence[Prediction], values: Sequence[float]) -> dict[str, Estimate]:
    """Mean of `values` (one a row) per split and their average, with intervals that are clustered by image."""
    splits = sorted({row.split for row in rows})
    images = sorted({row.image for row in rows})
    row_of, column_of = ({name: i for i, name in enumerate(names)} for names in (images, splits))
    sums, counts = np.zeros((2, len(images), len(splits)))
    for row, value in zip(rows, values, strict=True):
        place = row_of[row.image], column_of[row.split]
        sums[place] += value
        counts[place] += 1
    averaged = [column_of[split] for split in average_splits(rows)]
    means = _means(np.ones((1, len(images))), sums, counts, averaged)[0]
    weights = np.random.default_rng(SEED).multinomial(len(images), [1 / len(images)] * len(images), REPLICATES)
    low, high = np.nanpercentile(_means(weights, sums, counts, averaged), [2.5, 97.5], axis=0)
    resampled = [*((counts > 0).sum(axis=0) > 1), len(images) > 1]
    return {
        name: Estimate(float(mean), (float(lo), float(hi)) if can else None)
        for name, mean, lo, hi, can in zip([*splits, AVERAGE], means, low, high, resampled, strict=True)
    }


def _means(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray, averaged: list[int]) -> np.ndarray:
    """[replicates, splits + 1]: each replicate's mean per split, then their average.

    A replicate that drew no image of a split has no mean there: NaN, which the percentiles leave out.
    """
    drawn = weights @ counts
    means = np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    return np.column_stack([means, means[:, averaged].mean(axis=1)])
