"""Ways to read four numbers as a box, and which of them the boxes of a file fit. All read to xyxy as shares of the
picture, 0..1; a picture whose size is not known (NaN) makes px unreadable."""

from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType

import numpy as np

EDGE = 0.004  # share of a side by which a box may pass an edge: 1 px of 250
FITS, FAR = 0.98, 0.95  # shares: of boxes that fit where a reading is right, of a side that they then reach
FITS_NOT, NEAR = 0.9, 0.7  # the same where it is wrong

Numbers = np.ndarray  # [n, 4], as files and answers write them
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
    """[n]: whether a box lies in its picture, with sides of at least `least` (shares)."""
    inside = (shares >= -EDGE).all(axis=1) & (shares <= 1 + EDGE).all(axis=1)  # not so for NaN
    return inside & (shares[:, 2:] - shares[:, :2] >= least).all(axis=1)


def reach(shares: Shares) -> float:
    """How near the boxes that fit come to the right and bottom edges, but for a few: the lesser of both, as a share."""
    return float(min(1.0, np.quantile(shares[:, 2:], FITS, axis=0, method="higher").min())) if len(shares) else 0.0


def likelier(numbers: Numbers, sizes: Sizes, own: str, others: Mapping[str, Reading] = READINGS) -> str | None:
    """The name of a reading that many different boxes fit better than `own`; None where nothing speaks against that.

    Right boxes lie in their pictures, and some reach the far edges. A reading is likelier if boxes fit it that do not
    fit `own`, or if they reach the edges by it and stay far from them by `own`.
    """
    thinnest = np.where(np.isnan(sizes), 1e-3, 1 / sizes)  # a box has a side of 1 px or more
    fit, far = {}, {}
    for name, read in {own: READINGS[own], **others}.items():
        shares = read(numbers, sizes)
        fits = fitting(shares, thinnest)
        fit[name], far[name] = float(fits.mean()), reach(shares[fits])
    wrong = fit[own] < FITS_NOT
    fitted = [name for name in fit if name != own and fit[name] >= FITS]
    better = [name for name in fitted if wrong or (far[name] > FAR and far[own] < NEAR)]
    return max(better, key=lambda name: (round(far[name], 2), fit[name]), default=None)
