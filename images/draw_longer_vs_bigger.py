"""Draw the results of `examples.longer_vs_bigger.collect`: the paper's figure on RefShapes, and where the gain lies.

    python -m images.draw_longer_vs_bigger examples/longer_vs_bigger/results.json --out images/longer_vs_bigger.png

Error bars span the lowest and the highest seed. Where reasoning is cut, they are 95 % intervals over images.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from examples.longer_vs_bigger import tables
from qwen3vl_rl.data.refshapes import MAKERS
from qwen3vl_rl.errors import InputError, cli

BUBBLE_PT2 = 1.5e-5  # area per parameter
COLOURS = {"direct": "C1", "sft": "C2", "rl": "C3"}  # by training, in the order of the arrows
LEARNING = {"rl": "C3", "rl_ours": "C0"}
FIELDS = ("parameters", "language_parameters", "tokens", "average", "kinds", "splits")
ACCURACY = "Acc@0.5, average, %"


class Results:
    """The results file. A rung is a model size, a kind is a training; both together have one run per seed.

    Raises InputError for a file in which something that the figure needs is missing.
    """

    def __init__(self, path: Path):
        try:
            self.all = json.loads(path.read_text(encoding="utf-8"))
            self.models = self.all["models"]
            missing = [(name, key) for name, model in self.models.items() for key in FIELDS if model.get(key) is None]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected a file of examples.longer_vs_bigger.collect ({error})") from error
        if missing:
            raise InputError(f"{path}: expected {missing[0][1]} of {missing[0][0]}, found none")
        self.rungs = tables.rungs(self.all)
        if not self.rungs:
            raise InputError(f"{path}: expected models RUNG/base, found {', '.join(sorted(self.models)) or 'none'}")
        untrained = [f"{rung}/direct" for rung in self.rungs if not self.runs(rung, "direct")]
        if untrained:
            raise InputError(f"{path}: expected the accuracy of {', '.join(untrained)}, found none")

    def runs(self, rung: str, kind: str) -> list[dict]:
        """One run per seed."""
        return list(tables.runs(self.all, rung, kind).values())

    def pairs(self, rung: str) -> list[tuple[dict, dict]]:
        """(direct, RL) for each seed that has both."""
        direct, reasoned = (
            {name.rpartition("-")[2]: run for name, run in tables.runs(self.all, rung, kind).items()}
            for kind in ("direct", "rl")
        )
        return [(direct[seed], reasoned[seed]) for seed in sorted(direct.keys() & reasoned.keys())]


def spread(runs: list, value) -> tuple[float, float, float]:
    """Mean over seeds, and the distances from it to the lowest and the highest seed."""
    values = np.array([value(run) for run in runs], dtype=float)
    mean = values.mean()  # rounding can put the mean of equal values outside their range
    return mean, max(0.0, mean - values.min()), max(0.0, values.max() - mean)


def percent(run: dict) -> float:
    return 100 * run["average"]["acc"]


def draw_tradeoff(axis: plt.Axes, results: Results) -> None:
    """Accuracy against operations. A line joins direct answers by size, arrows lead from them over SFT to RL."""
    for number, rung in enumerate(results.rungs):
        places = {kind: place(runs) for kind in COLOURS if (runs := results.runs(rung, kind))}
        for kind, (gflop, accuracy, low, high) in places.items():
            size, colour = results.runs(rung, kind)[0]["parameters"] * BUBBLE_PT2 + 12, COLOURS[kind]
            axis.scatter(gflop, accuracy, s=size, color=colour, alpha=0.6)
            axis.errorbar(gflop, accuracy, yerr=[[low], [high]], color=colour, capsize=2)
            below = kind == "direct" and number % 2 == 0
            axis.annotate(
                f"{rung} {kind}", (gflop, accuracy), textcoords="offset points", fontsize=8,
                xytext=(8, -18 if below else 10), ha="left",
            )  # fmt: skip
        for start, end in itertools.pairwise(places.values()):
            axis.annotate("", end[:2], start[:2], arrowprops={"arrowstyle": "->", "color": "C3"})
    line = [place(results.runs(rung, "direct"))[:2] for rung in results.rungs]
    axis.plot(*zip(*line, strict=True), color="black", linestyle=":", linewidth=1)
    axis.margins(x=0.15, y=0.15)
    axis.set(
        title="bigger (dotted) or longer (arrows)", xscale="log", ylabel=ACCURACY,
        xlabel="operations of the language model for an answer, GFLOP",
    )  # fmt: skip
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())


def place(runs: list[dict]) -> tuple[float, float, float, float]:
    """Mean operations (GFLOP), and the `spread` of the accuracy."""
    return fmean(map(tables.answer_gflop, runs)), *spread(runs, percent)


def draw_kinds(axis: plt.Axes, results: Results) -> None:
    """What RL gains over direct answers of the same model, by kind of expression, paired by seed."""
    rungs = [rung for rung in results.rungs if results.pairs(rung)]
    width = 0.8 / max(1, len(rungs))
    for i, rung in enumerate(rungs):
        pairs = results.pairs(rung)
        kinds = [kind for kind in MAKERS if kind in pairs[0][0]["kinds"]]
        for at, kind in enumerate(kinds):
            gains = [after["kinds"][kind]["acc"] - before["kinds"][kind]["acc"] for before, after in pairs]
            gain, low, high = spread(gains, lambda gain: 100 * gain)
            place, label = at + (i - (len(rungs) - 1) / 2) * width, rung if at == 0 else None
            axis.bar(place, gain, width, yerr=[[low], [high]], color=f"C{i}", label=label)
        axis.set_xticks(range(len(kinds)), kinds)
        axis.legend(frameon=False, loc="upper left")
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set(title="gain of reasoning (SFT, GRPO) by kind", ylabel="percentage points")


def draw_learning(axis: plt.Axes, results: Results) -> None:
    """Right answers (upper lines) and tokens (lower lines, right axis) while RL learns, one line per run."""
    tokens = axis.twinx()
    for name, curve in results.all.get("learning", {}).items():
        for kind, colour in LEARNING.items():
            if name.startswith(f"{kind}-") and name.rpartition("-")[2].isdigit():
                axis.plot(curve["step"], 100 * np.array(curve["acc"]), color=colour, label=tables.ANSWERS[kind])
                tokens.plot(curve["step"], curve["tokens"], color=colour, linestyle=":")
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="lower right")
    tokens.set(ylim=(0, 250), ylabel="tokens (dotted)")
    tokens.spines["top"].set_visible(False)
    axis.set(
        ylim=(40, 100), xlabel="step of GRPO", ylabel="sampled answers that are right, %", title="GRPO goes longer"
    )


def draw_tokens(axis: plt.Axes, results: Results) -> None:
    """Accuracy against tokens: trainings, `efficient` rewards, and reasoning that is cut after some tokens."""
    for rung in [rung for rung in results.rungs if results.pairs(rung)]:
        for kind, colour in COLOURS.items():
            if not (runs := results.runs(rung, kind)):
                continue
            accuracy, low, high = spread(runs, percent)
            tokens = fmean(run["tokens"] for run in runs)
            axis.errorbar(tokens, accuracy, yerr=[[low], [high]], marker="o", color=colour, label=f"{rung} {kind}")
    for name in [name for name in results.models if "efficient" in name]:
        run = results.models[name]
        axis.plot(run["tokens"], percent(run), marker="x", color="C4", linestyle="", label="reward=efficient")
    for model, ways in results.all.get("budgets", {}).items():
        cuts = sorted(ways, key=lambda way: int(way.removeprefix("budget-")) if way != "free" else math.inf)
        tokens, averages = zip(*((ways[cut]["tokens"], ways[cut]["average"]) for cut in cuts), strict=True)
        accuracy = np.array([100 * average["acc"] for average in averages])
        bounds = 100 * np.array([average["interval"] for average in averages]).T
        label = f"{model}, reasoning cut"
        axis.errorbar(
            tokens, accuracy, yerr=np.abs(bounds - accuracy), color="gray", marker=".", capsize=2, label=label
        )
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="upper left")
    axis.set(title="accuracy against tokens", xlabel="tokens of an answer, mean", ylabel=ACCURACY)


def draw(results: Results) -> plt.Figure:
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    panels = draw_tradeoff, draw_kinds, draw_learning, draw_tokens
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, results)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    draw(Results(args.results)).savefig(args.out, dpi=150)


if __name__ == "__main__":
    cli(main)
