"""The released rule that chose the rows of RL: samples that are hard for the own model, and as many easier ones."""

from collections.abc import Sequence

import numpy as np

# Of the samples that the own model solves: bands of its IoU, and their shares of the easier half (egm recipe, data).
BANDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHARES = (0.15, 0.2, 0.2, 0.2, 0.25)
RIGHT, SEED = 0.5, 42


def select_released(own: Sequence[float], strong: Sequence[float]) -> set[int]:
    """Which rows are kept. `own`, `strong`: each row's IoU of the own model and of a strong one, NaN where unknown.

    Hard rows have own < 0.5 and strong > 0.5; all are kept. As many easier ones are drawn, by bands of the own IoU; a
    band that has too few gives all. The release's draw within a band is not known: ours has its seed.
    """
    own_iou, strong_iou = np.asarray(own, float), np.asarray(strong, float)
    hard = np.flatnonzero((own_iou < RIGHT) & (strong_iou > RIGHT))
    kept, rng = set(hard.tolist()), np.random.default_rng(SEED)
    for low, high, share in zip(BANDS, BANDS[1:], SHARES, strict=False):
        below = own_iou <= high if high == BANDS[-1] else own_iou < high
        members = np.flatnonzero((own_iou >= low) & below)
        quota = min(len(members), round(share * len(hard)))
        kept.update(rng.choice(members, quota, replace=False).tolist())
    return kept
