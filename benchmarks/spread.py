"""Medians and ranges of repeated measurements."""

import statistics
from collections.abc import Iterable, Sequence


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def times_faster(first_s: Sequence[float], own_s: Sequence[float]) -> dict[str, float]:
    """How many times as fast steps of `own_s` seconds are as steps of `first_s`, over all pairs: no order pairs the
    steps of two separate runs."""
    return spread(first / own for first in first_s for own in own_s)
