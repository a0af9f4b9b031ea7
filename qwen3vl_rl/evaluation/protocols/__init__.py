"""Evaluation protocols by name: the prompt, box reading, threshold and average of a project. One YAML file each.

Scoring the same answers under all protocols shows what the protocol alone changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from itertools import chain
from statistics import fmean

import yaml

from qwen3vl_rl.data.predictions import THRESHOLD_IOU, Prediction
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.protocols.readings import READINGS
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, average_splits, summarize
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import iou

_FILES = {path.name.removesuffix(".yaml"): path for path in files(__name__).iterdir() if path.name.endswith(".yaml")}
NAMES = ("paper", *sorted(_FILES.keys() - {"paper"}))
CHOICES: Mapping[str, Sequence] = {
    "reads": ("text", "answer"),
    "reading": tuple(READINGS),
    "inclusive": (True, False),
    "average": ("splits", "questions"),
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """`paper.yaml` explains the fields. `publishes`: model -> average in percent that the project publishes."""

    name: str
    source: str
    asks: Mapping[str, str | int]  # fields of `serving.settings.Settings`
    reads: str
    reading: str
    inclusive: bool
    average: str
    published_in: str
    publishes: Mapping[str, float]

    def is_hit(self, row: Prediction) -> bool:
        """Whether the answer counts as correct. The row must have a true box."""
        text = row.text if self.reads == "text" else _behind_reasoning(row)
        box = READINGS[self.reading](text, row.width, row.height, row.xyxy_px) if row.error is None else None
        overlap = iou(box, row.xyxy_px) if box else 0.0
        return overlap >= THRESHOLD_IOU if self.inclusive else overlap > THRESHOLD_IOU

    def accuracies(self, rows: Sequence[Prediction]) -> dict[str, float]:
        """Acc@0.5 (0..1) by split, over rows with a true box, then `average` over the splits that our tables use."""
        hits: dict[str, list[bool]] = {}
        located = [row for row in rows if row.xyxy_px is not None]
        for row in located:
            hits.setdefault(row.split, []).append(self.is_hit(row))
        averaged = [hits[split] for split in average_splits(located)]
        together = fmean(map(fmean, averaged)) if self.average == "splits" else fmean(chain.from_iterable(averaged))
        return {split: fmean(found) for split, found in hits.items()} | {AVERAGE: together}

    def interval(self, rows: Sequence[Prediction]) -> Sequence[float]:
        """The 95 % interval of the average (0..1), by the bootstrap over images of `scoring.metrics`."""
        located = [row for row in rows if row.xyxy_px is not None]
        averaged = average_splits(located)
        judged = [replace(row, iou=float(self.is_hit(row))) for row in located if row.split in averaged]
        if self.average == "questions":
            judged = [replace(row, split="all", modal_xyxy_px=None) for row in judged]
        average = summarize(judged)["average"]
        return average["acc_interval"] or [average["acc"]] * 2


def _behind_reasoning(row: Prediction) -> str:
    """The answer as servers with a reasoning parser return it: empty if the reasoning was cut off."""
    is_cut = row.finish_reason == "length" and "</think>" not in row.text
    return "" if is_cut else row.text.rpartition("</think>")[2]


@cache
def protocol(name: str) -> Protocol:
    """The protocol `name`, one of `NAMES`. Raises InputError if its file lacks a field or has an unknown value."""
    content = yaml.safe_load(_FILES[name].read_text(encoding="utf-8"))
    known = [field.name for field in fields(Protocol) if field.name != "name"]
    if set(content) != set(known):
        raise InputError(f"{_FILES[name]}: expected the fields {', '.join(known)}, got {', '.join(content)}")
    for field, values in CHOICES.items():
        if content[field] not in values:
            raise InputError(f"{_FILES[name]}: {field}: expected one of {', '.join(map(str, values))}")
    load_settings(asks=content["asks"])
    return Protocol(name=name, **content)
