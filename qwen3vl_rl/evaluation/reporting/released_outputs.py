"""The files that the released evaluation writes: `iou_detail.json`, `iou.txt`, `latency.txt`, in a folder per split."""

import hashlib
import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from statistics import fmean

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction


def write_released_outputs(folder: Path, predictions: Iterable[Prediction], wall_s: float) -> None:
    """Write FOLDER/SPLIT/… for each split of a run. Samples without a true box are left out.

    `wall_s`: seconds of the whole run over all splits, written as `whole_time_sec`.
    """
    located = sorted((row for row in predictions if row.iou is not None), key=lambda row: row.key)
    for split, members in groupby(located, key=lambda row: row.split):
        for name, text in _texts(list(members), wall_s).items():
            with replacing(folder / split / name) as draft:
                draft.write_text(text, encoding="utf-8")


def _texts(rows: list[Prediction], wall_s: float) -> dict[str, str]:
    detail = {
        str(index): {"v": row.iou, "hash": hashlib.sha256(row.sent.encode()).hexdigest()}
        for index, row in enumerate(rows)
    }
    scores = {
        "mean_iou": f"{fmean(row.iou for row in rows):.6f}",
        "pass_rate@0.5": f"{fmean(row.iou > THRESHOLD_IOU for row in rows):.6f}",
    }
    times = {
        "total_time_sec": f"{int(sum(row.latency_s for row in rows)):.3f}",  # whole seconds, as the release writes them
        "total_tokens": sum(row.tokens for row in rows),
        "case_number": len(rows),
        "whole_time_sec": f"{wall_s:.3f}",
    }
    return {
        "iou_detail.json": json.dumps(detail, ensure_ascii=False, indent=2),
        "iou.txt": f"# IOU scores (N={len(rows)})\n{_lines(scores)}",
        "latency.txt": _lines(times),
    }


def _lines(values: dict[str, object]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())
