"""Reads the metrics that verl writes during a run."""

import fnmatch
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwen3vl_rl.data.jsonl import whole_lines
from qwen3vl_rl.grounding import NO_REFERENT

METRICS_FILE = "VERL_FILE_LOGGER_PATH"  # verl writes its metrics to the file that this variable names
TIMING = "timing_s/"  # prefix of the durations of verl's phases


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics of a run by step.

    A resumed run repeats the steps after its checkpoint; the earlier rows of these steps do not count. If a metric of a
    step was logged twice, the later value counts.
    """
    steps: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("metrics-*.jsonl")):
        rows = [json.loads(line) for line in whole_lines(path)]
        first_step = min((row["step"] for row in rows if not only_validates(row)), default=math.inf)
        steps = {step: row for step, row in steps.items() if step < first_step}
        for row in rows:
            steps.setdefault(row["step"], {}).update(row["data"])  # a resumed run may validate its last step again
    return steps


def read_new_rows(metrics: Path, position: int) -> tuple[list[dict], int]:
    """The complete rows of `metrics` from byte `position` on, and the position after them."""
    lines = list(whole_lines(metrics, position))
    return [json.loads(line) for line in lines], position + sum(map(len, lines))


def matching(metrics: Iterable[str], pattern: str) -> list[str]:
    """The names of metrics that match `pattern`.

    Metrics of expressions without a referent are returned only if no others match. A model that never draws a box is
    right on all of these expressions, so a mean over both kinds could choose it as the best of a run.
    """
    names = fnmatch.filter(metrics, pattern)
    return [name for name in names if f"/{NO_REFERENT}/" not in name] or names


def is_validation(row: Mapping) -> bool:
    return any(name.startswith("val") for name in row["data"])


def only_validates(row: Mapping) -> bool:
    """Whether the row has nothing but a validation, as stage 1 and a validation before training write it."""
    return all(name.startswith("val") for name in row["data"])
