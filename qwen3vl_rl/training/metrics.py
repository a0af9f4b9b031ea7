"""The metrics that verl writes during a run: reading them, and printing a line for each step."""

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from qwen3vl_rl.data.jsonl import whole_lines
from qwen3vl_rl.training.signs import Signs


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics of a run by step. Of a metric that was logged twice, after a resume, the later value counts."""
    lines = (line for path in sorted(folder.glob("metrics-*.jsonl")) for line in whole_lines(path))
    steps: dict[int, dict[str, float]] = {}
    for row in map(json.loads, lines):
        steps.setdefault(row["step"], {}).update(row["data"])  # a resumed run validates its last step once more
    return steps


def print_new_steps(metrics: Path, position: int, columns: Mapping[str, str], signs: Signs) -> int:
    """Print a line for each whole row of `metrics` from byte `position` on, and one for each of the `signs` that it
    shows; returns where the rows end.

    `columns` maps labels to names of metrics, in which `*` stands for anything: the line shows the mean of all matches.
    """
    for line in whole_lines(metrics, position):
        row = json.loads(line)
        found = {label: fnmatch.filter(row["data"], name) for label, name in columns.items()}
        values = [f"{label} {fmean(row['data'][key] for key in keys):.4g}" for label, keys in found.items() if keys]
        print("  ".join([f"step {row['step']}", *values]), *signs.look(row["data"]), sep="\n", flush=True)
        position += len(line)
    return position
