"""The release's selection of RL rows: samples that are hard for the own model, and as many easier ones."""

from collections.abc import Sequence

import numpy as np

# Bands of the own model's IoU for samples that it solves, and their shares of the easier half (egm recipe, data).
BANDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHARES = (0.15, 0.2, 0.2, 0.2, 0.25)
RIGHT, SEED = 0.5, 42


def select_released(own: Sequence[float], strong: Sequence[float]) -> set[int]:
    """The 0-based indices of the rows to keep.

    `own`, `strong`: the IoU of the own and of a strong model for each row, NaN if unknown. All hard rows (own < 0.5 and
    strong > 0.5) are kept. As many easier rows are drawn by bands of the own IoU; a band with too few rows is kept
    whole. How the release draws within a band is unknown; our draw uses the fixed `SEED`.
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
