"""Draw the results of `examples.longer_vs_bigger.collect`: the paper's figure on RefShapes, and where the gain lies.

    python -m images.draw_longer_vs_bigger examples/longer_vs_bigger/results.json --out images/longer_vs_bigger.png

Error bars of the first two panels span the lowest and the highest seed. Those of the other panels are 95 % intervals
over images.
"""

import argparse
import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from examples.longer_vs_bigger import tables
from qwen3vl_rl.data.refshapes import MAKERS
from qwen3vl_rl.errors import InputError, cli

BUBBLE_PT2 = 1.5e-5  # area per parameter
COLOURS = {"direct": "C1", "sft": "C2", "rl": "C3"}  # by training
FIELDS = ("parameters", "average", "kinds", "splits")


class Results:
    """The results file. A rung is a model size, a kind is a training; both together have one run per seed.

    Raises InputError for a file in which something that the figure needs is missing.
    """

    def __init__(self, path: Path):
        try:
            self.all = json.loads(path.read_text(encoding="utf-8"))
            self.models, self.latency = self.all["models"], self.all["latency"]
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
        unmeasured = [f"{rung}/direct" for rung in self.rungs if self.latency_ms(rung, "direct") is None]
        if unmeasured:
            raise InputError(f"{path}: expected the latency of {', '.join(unmeasured)}, found none")

    def runs(self, rung: str, kind: str) -> list[dict]:
        """One run per seed."""
        return list(tables.runs(self.all, rung, kind).values())

    def latency_ms(self, rung: str, kind: str) -> float | None:
        """Latency of a single request, for the seed that was measured. None if none was."""
        names = [name for name in self.latency if f"{name}-".startswith(f"{rung}/{kind}-")]
        return 1000 * self.latency[names[0]]["alone_s"] if names else None

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
    """Accuracy against the latency of one request. A line joins direct answers by size, arrows lead from them to RL."""
    for number, rung in enumerate(results.rungs):
        points = {kind: runs for kind in COLOURS if (runs := results.runs(rung, kind))}
        places = {}
        for kind, runs in points.items():
            if (latency_ms := results.latency_ms(rung, kind)) is None:
                continue
            accuracy, low, high = spread(runs, percent)
            places[kind] = latency_ms, accuracy
            colour = COLOURS[kind]
            axis.scatter(latency_ms, accuracy, s=runs[0]["parameters"] * BUBBLE_PT2 + 12, color=colour, alpha=0.6)
            axis.errorbar(latency_ms, accuracy, yerr=[[low], [high]], color=colour, capsize=2)
            side = -1 if kind == "rl" or (kind == "direct" and number % 2) else 1  # neighbours on opposite sides
            axis.annotate(
                f"{rung} {kind}", places[kind], textcoords="offset points", fontsize=8,
                xytext=(6 * side, -14 if kind == "direct" else 8),
                ha="left" if side > 0 else "right",
            )  # fmt: skip
        if "rl" in places:
            axis.annotate("", places["rl"], places["direct"], arrowprops={"arrowstyle": "->", "color": "C3"})
    line = [
        (results.latency_ms(rung, "direct"), spread(results.runs(rung, "direct"), percent)[0]) for rung in results.rungs
    ]
    axis.plot(*zip(*line, strict=True), color="black", linestyle=":", linewidth=1)
    axis.margins(x=0.25)
    axis.set(
        title="bigger (dotted) or longer (arrows)", xlabel="latency of one request, ms", ylabel="Acc@0.5, average, %"
    )


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
        axis.legend(frameon=False)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set(title="gain of reasoning (SFT, GRPO) by kind", ylabel="percentage points")


def draw_oracle(axis: plt.Axes, results: Results) -> None:
    """Accuracy on the same boxes, asked for in the original wording and in the simplest one."""
    for rung in results.rungs:
        for kind, marker in (("direct", "o"), ("rl", "^")):
            run = results.models.get(f"oracle-{rung}/{kind}")
            if run is None:
                continue
            for split, colour in (("refshapes_asked", "C0"), ("refshapes_simple", "C2")):
                found = run["splits"][split]
                low, high = (100 * abs(found["acc"] - bound) for bound in found["interval"])
                label = f"{split.removeprefix('refshapes_')}, {kind}"
                axis.errorbar(
                    rung, 100 * found["acc"], yerr=[[low], [high]], color=colour, marker=marker, label=label, capsize=2
                )
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), frameon=False)
    axis.set(title="the same boxes in simple words", xlabel="language model", ylabel="Acc@0.5, %")


def draw_budgets(axis: plt.Axes, results: Results) -> None:
    """Accuracy against tokens where reasoning is cut and the answer is then forced."""
    for model, ways in results.all.get("budgets", {}).items():
        cuts = sorted(ways, key=lambda way: int(way.removeprefix("budget-")) if way != "free" else math.inf)
        tokens, averages = zip(*((ways[cut]["tokens"], ways[cut]["average"]) for cut in cuts), strict=True)
        accuracy = np.array([100 * average["acc"] for average in averages])
        bounds = 100 * np.array([average["interval"] for average in averages]).T
        axis.errorbar(tokens, accuracy, yerr=np.abs(bounds - accuracy), marker="o", capsize=2, label=model)
        axis.legend(frameon=False)
    axis.set(title="reasoning cut short", xlabel="tokens of an answer, mean", ylabel="Acc@0.5, average, %")


def draw(results: Results) -> plt.Figure:
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    panels = draw_tradeoff, draw_kinds, draw_oracle, draw_budgets
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
