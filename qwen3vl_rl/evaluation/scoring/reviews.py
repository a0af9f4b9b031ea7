"""Accuracy on the rows whose labels a review confirms (`data/reviews.py`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.data.refcoco import EVAL_SPLITS
from qwen3vl_rl.data.reviews import Review
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, summarize
from qwen3vl_rl.evaluation.scoring.results import Result


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Scores of a split under one review, or the average over all eight splits.

    `right`, `wrong` and `unknown` count questions; `unasked` counts rows of the review that match no question.
    """

    review: str
    split: str
    right: int
    wrong: int
    unknown: int
    unasked: int
    acc_all: float
    acc: float | None  # on the rows found right; None if there are none
    interval: Sequence[float] | None


def score_reviewed(result: Result, reviews: Sequence[Review]) -> Iterator[Reviewed]:
    """Scores for each split that run and review share, then their average if the review has all eight splits."""
    for name in dict.fromkeys(review.name for review in reviews):
        parts, kept = [], []
        for review in (review for review in reviews if review.name == name):
            rows = [row for row in result.predictions if row.split == review.split and row.xyxy_px is not None]
            if rows:
                right, part = _split(rows, review, result.summary["splits"][review.split]["acc"])
                kept += right
                parts.append(part)
        yield from parts
        if {part.split for part in parts if part.acc is not None} == set(EVAL_SPLITS):
            yield _average(name, parts, kept)


def _split(rows: Sequence[Prediction], review: Review, acc_all: float) -> tuple[list[Prediction], Reviewed]:
    verdicts = review.judge((row.image, row.sent, row.xyxy_px) for row in rows)
    right = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict]
    numbers = summarize(right)["splits"][review.split] if right else {"acc": None, "acc_interval": None}
    found = len(rows) - verdicts.count(None)
    return right, Reviewed(
        review=review.name,
        split=review.split,
        right=len(right),
        wrong=verdicts.count(False),
        unknown=verdicts.count(None),
        unasked=max(0, len(review) - found),
        acc_all=acc_all,
        acc=numbers["acc"],
        interval=numbers["acc_interval"],
    )


def _average(name: str, parts: Sequence[Reviewed], right: Sequence[Prediction]) -> Reviewed:
    numbers = summarize(right)["average"]
    counts = {count: sum(getattr(part, count) for part in parts) for count in ("right", "wrong", "unknown", "unasked")}
    acc_all = sum(part.acc_all for part in parts) / len(parts)
    return Reviewed(name, AVERAGE, **counts, acc_all=acc_all, acc=numbers["acc"], interval=numbers["acc_interval"])
