"""The report: one HTML page with the result, pictures on which models differ, tables, curves and all pictures.

The page embeds everything that it shows and loads nothing. The same results give the same file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qwen3vl_rl.data.drawing import Drawing, lines, svg
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.reviews import Review
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.browser import browser_data
from qwen3vl_rl.evaluation.reporting.charts import accuracy_panels, token_chart
from qwen3vl_rl.evaluation.reporting.findings import clear_differences, headline
from qwen3vl_rl.evaluation.reporting.tables import (
    Pair,
    compare_runs,
    evaluation_tables,
    group_table,
    notes,
    summary_places,
)
from qwen3vl_rl.evaluation.scoring.results import Result
from qwen3vl_rl.training.metrics import read_metrics

COLORS = ("#d9302c", "#2f74c0", "#c77700", "#9a5bc0", "#00838f", "#8d6e63")  # of the models, in turn
CURVES = {  # verl's metric -> title; which of them a run has depends on the stage
    "train/loss": "training loss",
    "critic/score/mean": "mean reward",
    "val-core/grounding/acc/mean@1": "validation accuracy",
    "response_length/mean": "response length (tokens)",
    "val/loss": "validation loss",
}

Metrics = Mapping[int, Mapping[str, float]]  # by step


def write_report(
    path: Path,
    results: Sequence[Result],
    images: Path,
    curves: Mapping[str, Metrics],
    reviews: Sequence[Review] = (),
    pairs: Sequence[Pair] | None = None,
) -> Path:
    """Write the report and return its path. `curves`: metrics of training runs, from `read_curves`; `reviews`:
    reviewers' verdicts on the rows, from `read_reviews`; `pairs`: from `compare_runs`, for callers that need them too.
    """
    pairs = compare_runs(results) if pairs is None else pairs
    browser = browser_data(results, images)
    data = json.dumps(browser, ensure_ascii=False, separators=(",", ":"))
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            names=[result.name for result in results],
            colors=[*islice(cycle(COLORS), len(results))],
            headline=headline(results, pairs),
            accuracies=accuracy_panels(results),
            token_chart=token_chart(results),
            compared=bool(pairs),
            differences=clear_differences(pairs, summary_places(results)),
            notes=notes(results),
            samples=browser["total"],
            differing=browser["total_differing"],
            tables=[*evaluation_tables(results, reviews, pairs), group_table(results)],
            distributions=draw_distributions(results),
            curves=[curve for name, metrics in curves.items() for curve in draw_curves(name, metrics)],
            splits=sorted({sample["split"] for sample in browser["samples"]}),
            types=sorted({kind for sample in browser["samples"] for kind in sample["types"]}),
            data=Markup(data.replace("<", "\\u003c")),  # no answer can end the script element
        )
    )
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")
    return path


def read_curves(runs: Mapping[str, str]) -> dict[str, Metrics]:
    """The metrics of training runs by name. `runs` gives each by its folder, or by a metrics file in it.

    The metrics of all starts of a run are read. Raises InputError if there are none.
    """
    curves = {}
    for name, given in runs.items():
        path = Path(given)
        if not path.exists():
            raise InputError(f"{given}: expected a training run or a metrics file of it, found neither")
        folder = path if path.is_dir() else path.parent
        try:
            curves[name] = read_metrics(folder)
        except (ValueError, KeyError, TypeError):
            curves[name] = {}
        if not curves[name]:
            raise InputError(f"{given}: expected a training run with metrics-*.jsonl")
    return curves


def draw_curves(name: str, metrics: Metrics) -> list[Drawing]:
    """One drawing per metric of `CURVES` that the training run logged."""
    return list(lines(metrics, {metric: f"{name}: {title}" for metric, title in CURVES.items()}, COLORS[1]))


def draw_distributions(results: Sequence[Result]) -> list[Drawing]:
    """Accuracy against the IoU threshold, and the distributions of tokens and latency."""
    ious = [[row.iou for row in result.predictions if row.iou is not None] for result in results]
    tokens = [[row.tokens for row in result.predictions if row.error is None] for result in results]
    latencies_s = [[row.latency_s for row in result.predictions if row.error is None] for result in results]
    thresholds = np.linspace(0, 1, 101)

    def accuracy(axes) -> None:
        for values, color in zip(ious, cycle(COLORS)):
            ordered = np.sort(values)
            share = 1 - np.searchsorted(ordered, thresholds, side="right") / len(ordered)
            axes.plot(thresholds, 100 * share, color=color, linewidth=1.3)
        axes.set_ylim(0, 100)

    def share_below(samples: Sequence[Sequence[float]]) -> Callable:
        def draw(axes) -> None:
            for values, color in zip(samples, cycle(COLORS)):
                if values:
                    axes.plot(np.sort(values), np.linspace(0, 100, len(values)), color=color, linewidth=1.3)
            axes.set_ylim(0, 100)

        return draw

    return [
        Drawing("Accuracy (%) at each IoU threshold", svg(accuracy, "IoU threshold")),
        Drawing("Answers (%) with at most this many tokens", svg(share_below(tokens), "tokens")),
        Drawing("Answers (%) within this latency", svg(share_below(latencies_s), "seconds")),
    ]


def _environment() -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader("qwen3vl_rl.evaluation", "reporting"), PackageLoader("qwen3vl_rl", "data")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
