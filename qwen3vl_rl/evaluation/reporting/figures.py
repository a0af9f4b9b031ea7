"""Figures of accuracy against latency, like the paper's, and against tokens, with the published points and ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from pathlib import Path

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import Interval

STYLES = {  # of the published families: colour, marker
    "EGM": ("#c23b22", "o"),
    "Qwen3-VL-Instruct": ("#4a6fa5", "s"),
    "Qwen3-VL-Thinking": ("#7f8fa6", "^"),
    "InternVL3": ("#b8a16a", "D"),
}
TICKS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
OUR_COLORS = ("#12804a", "#7a3e9d", "#c77700", "#00838f", "#5d4037")


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant of one model. `curve` names its line, `label` its point. `acc` is a fraction."""

    curve: str
    label: str
    tokens: float
    latency_s: float
    acc: float
    interval: Interval


def draw(path: Path, measured: Sequence[Measured], with_published: bool) -> None:
    """Write the figure to `path`, in the format of its suffix.

    `with_published`: also draw the paper's points, which are comparable only to results on the eight RefCOCO splits.
    Raises InputError for an unknown suffix.
    """
    import matplotlib  # takes a second to import
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "egm", "font.size": 10}):
        figure = Figure(figsize=(12 if measured else 8, 4.4), dpi=160, layout="constrained")
        panels = figure.subplots(1, 2 if measured else 1, sharey=True, squeeze=False)[0]
        _latency_panel(panels[0], measured, with_published)
        if measured:
            _ours(panels[1], measured, lambda point: point.tokens)
            panels[1].set_xlabel("tokens generated per question")
        for axes in panels:
            axes.margins(y=0.1)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("Acc@0.5, average over the splits (%)")
        panels[0].legend(frameon=False, fontsize=9, loc="lower right")
        kind = path.suffix.removeprefix(".")
        if kind not in (known := figure.canvas.get_supported_filetypes()):
            raise InputError(f"{path}: expected a name that ends in one of {', '.join(known)}")
        with replacing(path) as draft:
            figure.savefig(draft, format=kind)


def plot_published(axes) -> None:
    """Plot the points of the paper's figure, one line per family. Latency is in seconds."""
    for family, group in groupby(published.points(), key=lambda point: point.family):
        points = list(group)
        color, marker = STYLES[family]
        width = 2 if family == "EGM" else 1
        latencies_s, accs = [point.latency_ms / 1000 for point in points], [point.acc for point in points]
        axes.plot(latencies_s, accs, color=color, marker=marker, label=family, linewidth=width, markersize=5 + width)
        for point, latency_s in zip(points, latencies_s, strict=True):
            _label(axes, point.size, latency_s, point.acc, color)


def _latency_panel(axes, measured: Sequence[Measured], with_published: bool) -> None:
    if with_published:
        axes.set_title("published: arXiv 2601.13633", fontsize=9, loc="left")
        plot_published(axes)
    _ours(axes, measured, lambda point: point.latency_s)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in TICKS_S if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g} s" if tick >= 1 else f"{1000 * tick:g} ms" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("latency per request (log scale)")


def _ours(axes, measured: Sequence[Measured], x) -> None:
    for color, (curve, group) in zip(cycle(OUR_COLORS), groupby(measured, key=lambda point: point.curve)):
        points = sorted(group, key=x)
        xs, accs = [x(point) for point in points], [100 * point.acc for point in points]
        bounds = [point.interval or (point.acc, point.acc) for point in points]
        # A percentile interval can narrowly exclude its mean, and lengths must not be negative.
        below = [max(100 * (point.acc - low), 0) for point, (low, _) in zip(points, bounds, strict=True)]
        above = [max(100 * (high - point.acc), 0) for point, (_, high) in zip(points, bounds, strict=True)]
        axes.errorbar(xs, accs, yerr=[below, above], color=color, marker="o", capsize=3, linewidth=1.5, label=curve)
        for point, x_value, acc in zip(points, xs, accs, strict=True):
            _label(axes, point.label, x_value, acc, color)


def _label(axes, text: str, x: float, y: float, color: str) -> None:
    style = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": color}
    axes.annotate(text, (x, y), (0, 8), **style)
