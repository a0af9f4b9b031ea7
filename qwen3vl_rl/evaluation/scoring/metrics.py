"""Metrics of predictions. Pure functions: the same predictions in any order give bit-identical numbers.

Acc@0.5 counts `IoU > 0.5`, strictly, as the paper's tables do; `acc_inclusive` counts `IoU >= 0.5`. Intervals are 95 %
percentile intervals of a bootstrap that resamples whole images, because expressions about one image are not
independent. The average is the paper's: the unweighted mean over the splits. It excludes amodal splits, which ask for
something else, unless there are no others. Expressions without a referent are excluded and counted separately.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from statistics import fmean

import numpy as np

from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction, boxes_falsely, declined
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring.groups import GROUPINGS, OCCLUSIONS, occlusion

CRITERION = f"IoU > {THRESHOLD_IOU}"
REPLICATES = 2000
SEED = 0
AVERAGE = "average"
AVERAGED_FIELDS = (
    *("acc_inclusive", "acc_30", "acc_70", "acc_90", "mean_iou"),
    *("invalid_rate", "truncated_rate", "mean_tokens"),
)

Interval = tuple[float, float] | None  # None for fewer than two images, which leave nothing to resample
Cell = tuple[str, str, float]  # (group, image, value) of one observation


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """A second run compared with a first on the same samples.

    `difference` in Acc@0.5, as a fraction; numbers of samples `gained` and `lost`; `p` of McNemar's exact two-sided
    test, which assumes independent samples (the interval does not).
    """

    difference: Estimate
    gained: int
    lost: int
    p: float


def is_correct(prediction: Prediction) -> bool:
    """Whether the prediction is a hit for Acc@0.5 or, for an expression without a referent, declines to box."""
    return declined(prediction) if prediction.iou is None else prediction.iou > THRESHOLD_IOU


def summarize(predictions: Iterable[Prediction]) -> dict:
    """Per split, on average and per group of samples: accuracy with interval, mean IoU, bad answers, tokens.

    Rates are fractions 0..1. Raises InputError if there is no prediction, or a split without any true box.
    """
    everything = _sorted(predictions)
    rows = _located(everything)
    if missing := {row.split for row in everything} - {row.split for row in rows}:
        raise InputError(f"{sorted(missing)[0]}: expected at least one sample with a box")
    of = average_splits(rows)
    accuracy = _estimate([(row.split, row.image, float(is_correct(row))) for row in rows], of)
    splits = {split: _summarize_split(members, accuracy[split]) for split, members in _by_split(everything).items()}
    averaged = [splits[split] for split in of]
    average = {name: fmean(split[name] for split in averaged) for name in AVERAGED_FIELDS}
    return {
        "criterion": CRITERION,
        "splits": splits,
        "average": _accuracy_fields(accuracy[AVERAGE]) | average | {"of": of},
        "groups": _summarize_groups([row for row in rows if row.split in of]),
        "failed": {row.key: row.error for row in everything if row.error is not None},
    }


def summarize_latency(predictions: Iterable[Prediction], averaged: Sequence[str]) -> dict:
    """Mean, median and 95th percentile of `latency_s` per split and over the requests of all `averaged` splits.

    Failed requests have no latency and are left out.
    """
    answered = sorted((row for row in predictions if row.error is None), key=lambda row: row.key)
    groups = _by_split(answered) | {AVERAGE: [row for row in answered if row.split in averaged]}
    return {name: latency_fields([row.latency_s for row in rows]) for name, rows in groups.items() if rows}


def latency_fields(latencies_s: Sequence[float]) -> dict[str, float]:
    """Mean, median and 95th percentile, seconds."""
    p50, p95 = np.percentile(latencies_s, [50, 95])
    return {"mean_s": fmean(latencies_s), "p50_s": float(p50), "p95_s": float(p95)}


def compare(first: Iterable[Prediction], second: Iterable[Prediction]) -> dict[str, Comparison]:
    """Compare `second` with `first`, per split and on average over the averaged splits.

    Raises InputError if the two runs have different samples.
    """
    a, b = _sorted(first), _sorted(second)
    if list(map(sample_of, a)) != list(map(sample_of, b)):
        raise InputError("comparison: expected two runs over the same samples, got different ones")
    changes = [(x, int(is_correct(y)) - int(is_correct(x))) for x, y in zip(_located(a), _located(b), strict=True)]
    averaged = average_splits(row for row, _ in changes)
    differences = _estimate([(row.split, row.image, float(change)) for row, change in changes], averaged)
    members = {split: {split} for split in differences} | {AVERAGE: set(averaged)}
    compared = {}
    for name, difference in differences.items():
        of_it = [change for row, change in changes if row.split in members[name]]
        gained, lost = of_it.count(1), of_it.count(-1)
        compared[name] = Comparison(difference, gained, lost, mcnemar_p(gained, lost))
    return compared


def sample_of(row: Prediction) -> tuple:
    """The fields that must be equal in two runs that are compared."""
    return row.key, row.image, row.sent, row.xyxy_px


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p-value under the hypothesis that gains and losses are equally likely."""
    both = gained + lost
    tail = sum(comb(both, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**both)


def average_splits(rows: Iterable[Prediction]) -> list[str]:
    """The splits that the average is taken over, in the paper's order."""
    amodal: dict[str, bool] = {}  # split -> whether any sample asks for a whole, partly hidden object
    for row in rows:
        amodal[row.split] = amodal.get(row.split, False) or row.modal_xyxy_px is not None
    return sorted([split for split in amodal if not amodal[split]] or amodal, key=_paper_order)


def _paper_order(split: str) -> tuple[str, int, str]:
    """Sort key: `val` of a data set comes before its `testA`, `testB` or `test`."""
    dataset, _, part = split.rpartition("_")
    return dataset, part != "val", part


def _sorted(predictions: Iterable[Prediction]) -> list[Prediction]:
    rows = sorted(predictions, key=lambda row: row.key)
    if not rows:
        raise InputError("metrics: expected at least one prediction, got none")
    return rows


def _located(rows: Iterable[Prediction]) -> list[Prediction]:
    return [row for row in rows if row.xyxy_px is not None]


def _by_split(rows: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for row in rows:
        groups.setdefault(row.split, []).append(row)
    return groups


def _summarize_split(everything: list[Prediction], accuracy: Estimate) -> dict:
    rows = _located(everything)
    fields = {
        "samples": len(rows),
        "images": len({row.image for row in rows}),
        **_accuracy_fields(accuracy),
        "acc_inclusive": fmean(row.iou >= THRESHOLD_IOU for row in rows),
        "acc_30": fmean(row.iou > 0.3 for row in rows),
        "acc_70": fmean(row.iou > 0.7 for row in rows),
        "acc_90": fmean(row.iou > 0.9 for row in rows),
        "mean_iou": fmean(row.iou for row in rows),
        "invalid_rate": fmean(row.pred_xyxy_px is None for row in rows),
        "truncated_rate": fmean(row.finish_reason == "length" for row in rows),
        "mean_tokens": fmean([row.tokens for row in rows if row.error is None] or [0]),  # over answered questions
        "failed_requests": sum(row.error is not None for row in everything),
    }
    if amodal := [row for row in rows if row.modal_iou is not None]:
        fields |= _visible_fields(amodal)
        bands = {band: [row for row in amodal if occlusion(row) == band] for band in OCCLUSIONS}
        fields["occlusion"] = {
            band: {"samples": len(members), "acc": fmean(map(is_correct, members)), **_visible_fields(members)}
            for band, members in bands.items()
            if members
        }
    if absent := [row for row in everything if row.xyxy_px is None]:
        fields["no_referent"] = {
            "samples": len(absent),
            "declined_rate": fmean(map(is_correct, absent)),
            "false_box_rate": fmean(boxes_falsely(row) for row in absent),
        }
    return fields


def _visible_fields(rows: Sequence[Prediction]) -> dict[str, float]:
    """Scores of the same boxes against the visible parts of the objects."""
    ious = [row.modal_iou for row in rows]
    return {"visible_acc": fmean(iou > THRESHOLD_IOU for iou in ious), "visible_mean_iou": fmean(ious)}


def _summarize_groups(rows: Sequence[Prediction]) -> dict[str, dict[str, dict]]:
    """grouping -> group -> numbers over all rows. A sample may be in several groups."""
    summary = {}
    for name, grouping in GROUPINGS.items():
        members: dict[str, list[Prediction]] = {group: [] for group in grouping.groups}
        for row in rows:
            for group in grouping.groups_of(row):
                members[group].append(row)
        names = [group for group in members if members[group]]
        cells = [(group, row.image, float(is_correct(row))) for group in names for row in members[group]]
        accuracy = _estimate(cells, names)
        summary[name] = {
            group: {
                "samples": len(members[group]),
                **_accuracy_fields(accuracy[group]),
                "mean_iou": fmean(row.iou for row in members[group]),
            }
            for group in names
        }
    return summary


def _accuracy_fields(accuracy: Estimate) -> dict:
    return {"acc": accuracy.value, "acc_interval": accuracy.interval and list(accuracy.interval)}


def _estimate(cells: Sequence[Cell], averaged: Sequence[str]) -> dict[str, Estimate]:
    """Mean of each group and the mean of the `averaged` groups' means, with intervals clustered by image."""
    groups, images = (sorted({cell[part] for cell in cells}) for part in (0, 1))
    column_of, row_of = ({name: i for i, name in enumerate(names)} for names in (groups, images))
    sums, counts = np.zeros((2, len(images), len(groups)))
    for group, image, value in cells:
        place = row_of[image], column_of[group]
        sums[place] += value
        counts[place] += 1
    columns = [column_of[group] for group in averaged]
    means = _means(np.ones((1, len(images))), sums, counts, columns)[0]
    low, high = np.nanpercentile(_means(_draws(len(images)), sums, counts, columns), [2.5, 97.5], axis=0)
    resampled = [*((counts > 0).sum(axis=0) > 1), len(images) > 1]
    return {
        name: Estimate(float(mean), (float(lo), float(hi)) if can else None)
        for name, mean, lo, hi, can in zip([*groups, AVERAGE], means, low, high, resampled, strict=True)
    }


@lru_cache(maxsize=1)  # 10,000 images give 160 MB and take seconds to draw
def _draws(images: int) -> np.ndarray:
    """[replicates, images] how often each image is drawn. Floats, because their products are six times as fast."""
    return np.random.default_rng(SEED).multinomial(images, [1 / images] * images, REPLICATES).astype(float)


def _means(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray, averaged: list[int]) -> np.ndarray:
    """[replicates, groups + 1] mean of each group in each replicate, then the average of the `averaged` groups.

    NaN where a replicate drew no image of a group. The percentiles ignore NaN.
    """
    drawn = weights @ counts
    means = np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    return np.column_stack([means, means[:, averaged].mean(axis=1)])
