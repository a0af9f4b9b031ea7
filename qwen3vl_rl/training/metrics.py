"""The metrics that verl writes during a run, and how they are read."""

import fnmatch
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwen3vl_rl.data.jsonl import whole_lines
from qwen3vl_rl.grounding import NO_REFERENT

METRICS_FILE = "VERL_FILE_LOGGER_PATH"  # the variable that tells verl where to write them
TIMING = "timing_s/"  # begins verl's names of phases


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics of a run by step. A resumed run makes the steps after its checkpoint again: those that were logged
    before do not count. Of a metric that was logged twice, the later value counts."""
    steps: dict[int, dict[str, float]] = {}
    for path in sorted(folder.glob("metrics-*.jsonl")):
        rows = [json.loads(line) for line in whole_lines(path)]
        first_made = min((row["step"] for row in rows if not only_validates(row)), default=math.inf)
        steps = {step: row for step, row in steps.items() if step < first_made}
        for row in rows:
            steps.setdefault(row["step"], {}).update(row["data"])  # a resumed run validates its last step once more
    return steps


def read_new_rows(metrics: Path, position: int) -> tuple[list[dict], int]:
    """The whole rows of `metrics` from byte `position` on, and where they end."""
    lines = list(whole_lines(metrics, position))
    return [json.loads(line) for line in lines], position + sum(map(len, lines))


def matching(metrics: Iterable[str], pattern: str) -> list[str]:
    """The names of metrics that fit; those of expressions without referent only where no others do. A model that boxes
    nothing declines all of them, and would be the best of a run by the mean of both."""
    names = fnmatch.filter(metrics, pattern)
    return [name for name in names if f"/{NO_REFERENT}/" not in name] or names


def is_validation(row: Mapping) -> bool:
    return any(name.startswith("val") for name in row["data"])


def only_validates(row: Mapping) -> bool:
    """Whether the row is of a validation before training, or without any."""
    return all(name.startswith("val") for name in row["data"])
