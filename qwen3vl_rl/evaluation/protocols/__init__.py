"""Protocols by name: how a project asks, reads, counts and averages. One YAML file each.

Answers to one prompt are scored under all of them, which shows what the protocol alone changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain
from statistics import fmean

import yaml

from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction
from qwen3vl_rl.evaluation.protocols.readings import READINGS
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, average_splits, is_correct
from qwen3vl_rl.grounding import iou

NAMES = ("paper", "qwen", "vlmevalkit", "lmms_eval")


@dataclass(frozen=True, slots=True)
class Protocol:
    """`paper.yaml` explains the fields. `publishes`: percent by model, averages of that project."""

    name: str
    source: str
    asks: Mapping[str, str | int]  # fields of `serving.settings.Settings`
    sentences: str
    reads: str
    reading: str
    inclusive: bool
    average: str
    published_in: str
    publishes: Mapping[str, float]

    def is_hit(self, row: Prediction) -> bool:
        """Whether an answer counts. An expression without referent counts as in all our tables: declined or not."""
        if row.xyxy_px is None:
            return is_correct(row)
        text = row.text if self.reads == "text" else row.text.rpartition("</think>")[2]
        box = READINGS[self.reading](text, row.width, row.height, row.xyxy_px) if row.error is None else None
        overlap = iou(box, row.xyxy_px) if box else 0.0
        return overlap >= THRESHOLD_IOU if self.inclusive else overlap > THRESHOLD_IOU

    def accuracies(self, rows: Sequence[Prediction]) -> dict[str, float]:
        """By split, of rows with a box; then `average`, over the splits that our tables average."""
        hits: dict[str, list[bool]] = {}
        located = [row for row in rows if row.xyxy_px is not None]
        for row in located:
            hits.setdefault(row.split, []).append(self.is_hit(row))
        averaged = [hits[split] for split in average_splits(located)]
        together = fmean(map(fmean, averaged)) if self.average == "splits" else fmean(chain.from_iterable(averaged))
        return {split: fmean(found) for split, found in hits.items()} | {AVERAGE: together}


@cache
def protocol(name: str) -> Protocol:
    """One of `NAMES`."""
    text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return Protocol(name=name, **yaml.safe_load(text))
