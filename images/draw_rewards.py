"""Draw the learning curves of runs of stage 2 from their metrics.

python -m images.draw_rewards --run vLLM=outputs/vllm --run sglang=outputs/sglang --out images/rewards.png
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.training.checkpoints import VALIDATION
from qwen3vl_rl.training.metrics import read_metrics

PANELS = {
    "reward": "reward/score",
    "accuracy of the rollouts": "reward/acc",
    "accuracy on validation, greedy": VALIDATION,
    "tokens per answer": "response_length/mean",
}
WINDOW = 9  # steps that a point of the smoothed line averages; the raw line is drawn in a pale colour


def draw(runs: Mapping[str, Path]) -> plt.Figure:
    """One panel per metric that any run has, one colour per run.

    Raises InputError for a folder without metrics, and if no run has a metric of `PANELS`.
    """
    metrics = {name: read_metrics(folder) for name, folder in runs.items()}
    if missing := [name for name, rows in metrics.items() if not rows]:
        raise InputError(f"{runs[missing[0]]}: expected a run with metrics-*.jsonl, found none")
    found = set().union(*(row for rows in metrics.values() for row in rows.values()))
    panels = {title: key for title, key in PANELS.items() if key in found}
    if not panels:
        raise InputError(f"{', '.join(map(str, runs.values()))}: expected one of {', '.join(PANELS.values())}")
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (title, key) in zip(axes[0], panels.items(), strict=True):
        for colour, (name, rows) in enumerate(metrics.items()):
            if points := sorted((step, row[key]) for step, row in rows.items() if key in row):
                plot(axis, *np.array(points).T, name, f"C{colour}")
        axis.set(title=title, xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    return figure


def plot(axis: plt.Axes, steps: np.ndarray, values: np.ndarray, name: str, colour: str) -> None:
    if len(steps) < 2 * WINDOW:
        axis.plot(steps, values, color=colour, marker="o", markersize=4, label=name)
        return
    half = WINDOW // 2
    smooth = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    axis.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    axis.plot(steps, smooth, color=colour, label=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = {name: Path(folder) for name, _, folder in (run.partition("=") for run in arguments.run)}
    draw(runs).savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    cli(main)
