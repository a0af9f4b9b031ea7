"""Ways to read four numbers as a box (corner order and unit), and a test of which one the boxes of a file follow.

Every reading converts boxes to xyxy in 0..1. Picture sizes that are unknown are NaN, and so are px boxes in them.
"""

from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType

import numpy as np

EDGE = 0.004  # share of a side by which a box may exceed an edge (1 px of 250)
FITS, FAR = 0.98, 0.95  # a right reading: at least this share of boxes fit, and they reach beyond this share of a side
FITS_NOT, NEAR = 0.9, 0.7  # a wrong reading: fewer boxes fit, or they reach less far

Numbers = np.ndarray  # [n, 4], as written in files and answers
Sizes = np.ndarray  # [n, 2], width and height of the pictures in px
Shares = np.ndarray  # [n, 4], xyxy in 0..1
Reading = Callable[[Numbers, Sizes], Shares]

XYXY_PX, XYXY_1000 = "xyxy in px", "xyxy in 0..1000"
_ORDERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "xyxy": lambda n: n,
    "xywh": lambda n: np.hstack([n[:, :2], n[:, :2] + n[:, 2:]]),
    "yxyx": lambda n: n[:, [1, 0, 3, 2]],
    "centre, width, height": lambda n: np.hstack([n[:, :2] - n[:, 2:] / 2, n[:, :2] + n[:, 2:] / 2]),
}
_UNITS: Mapping[str, Callable[[Sizes], np.ndarray | float]] = {
    "px": lambda sizes: np.tile(sizes, 2),
    "0..1000": lambda sizes: 1000.0,
    "0..1": lambda sizes: 1.0,
}


def _reading(order: str, unit: str) -> Reading:
    return lambda numbers, sizes: _ORDERS[order](numbers) / _UNITS[unit](sizes)


READINGS: Mapping[str, Reading] = MappingProxyType(
    {f"{order} in {unit}": _reading(order, unit) for order, unit in product(_ORDERS, _UNITS)}
)


def fitting(shares: Shares, least: np.ndarray | float) -> np.ndarray:
    """[n]: whether each box lies inside its picture and has sides of at least `least` (shares)."""
    inside = (shares >= -EDGE).all(axis=1) & (shares <= 1 + EDGE).all(axis=1)  # False for NaN
    return inside & (shares[:, 2:] - shares[:, :2] >= least).all(axis=1)


def reach(shares: Shares) -> float:
    """How far the boxes reach to the right and to the bottom (FITS quantile): the smaller of both, as a share."""
    return float(min(1.0, np.quantile(shares[:, 2:], FITS, axis=0, method="higher").min())) if len(shares) else 0.0


def likelier(numbers: Numbers, sizes: Sizes, own: str, others: Mapping[str, Reading] = READINGS) -> str | None:
    """The name of a reading that the boxes follow more likely than `own`; None if there is none.

    Correctly read boxes lie inside their pictures, and some reach the right and bottom edges. Another reading is
    likelier if the boxes fit it but not `own`, or if they reach the edges with it but stay far from them with `own`.
    `numbers` should hold many distinct boxes.
    """
    thinnest = np.where(np.isnan(sizes), 1e-3, 1 / sizes)  # the sides of a box are at least 1 px
    fit, far = {}, {}
    for name, read in {own: READINGS[own], **others}.items():
        shares = read(numbers, sizes)
        fits = fitting(shares, thinnest)
        fit[name], far[name] = float(fits.mean()), reach(shares[fits])
    wrong = fit[own] < FITS_NOT
    fitted = [name for name in fit if name != own and fit[name] >= FITS]
    better = [name for name in fitted if wrong or (far[name] > FAR and far[own] < NEAR)]
    return max(better, key=lambda name: (round(far[name], 2), fit[name]), default=None)
