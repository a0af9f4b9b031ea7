"""One HTML file that shows a comparison: the table, training curves, and what the models answered, on the pictures.

Nothing is loaded from elsewhere: pictures and curves are embedded. The same results give the same pictures.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from qwen3vl_rl.engine.launch import read_metrics
from qwen3vl_rl.evaluation.metrics import AVERAGE, is_correct
from qwen3vl_rl.evaluation.predictions import Prediction
from qwen3vl_rl.evaluation.run import Result
from qwen3vl_rl.evaluation.table import evaluation_tables, notes, places
from qwen3vl_rl.files import whole_file
from qwen3vl_rl.grounding import InputError

EXAMPLES_PER_SPLIT = 6
MAX_SIDE_PX = 640  # larger pictures are embedded smaller; the boxes are drawn over them in full precision
PIXELATED_BELOW_PX = 320  # smaller ones are shown enlarged, with their pixels crisp
OUTCOMES = ("learned", "still wrong", "right throughout", "lost")  # of the first model against the last, as shown
CURVES = {  # verl's metric -> what it is called here; which of them a file holds depends on the stage
    "train/loss": "training loss",
    "critic/score/mean": "reward of a step",
    "val-core/grounding/acc/mean@1": "validation accuracy",
    "response_length/mean": "response length (tokens)",
    "val/loss": "validation loss",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One sample with every model's prediction, in the order of the results."""

    outcome: str
    predictions: list[Prediction]

    @property
    def image(self) -> str:
        return self.predictions[0].image


@dataclass(frozen=True, slots=True)
class Curve:
    """One drawn metric of one training run."""

    title: str
    svg: Markup


def write_report(path: Path, results: Sequence[Result], images: Path, curves: Mapping[str, Mapping]) -> Path:
    """Write the report and return its path. `curves`: name -> metrics jsonl of a training run (`step`, `data`).

    Raises InputError for a metrics file that is none.
    """
    template = _environment().get_template("report.html.j2")
    pages = template.render(
        names=[result.name for result in results],
        tables=evaluation_tables(results),
        notes=notes(results),
        curves=[curve for name, metrics in curves.items() for curve in draw_curves(name, metrics)],
        examples=choose_examples(results),
        images=images,
    )
    with whole_file(path) as draft:
        draft.write_text(pages, encoding="utf-8")
    return path


def choose_examples(results: Sequence[Result]) -> dict[str, list[Example]]:
    """Per split up to six samples of different images, taken from the outcomes in turn, in order of their keys."""
    by_split: dict[str, dict[str, list[Example]]] = {}
    for predictions in zip(*(result.predictions for result in results), strict=True):
        example = Example(_outcome(predictions), list(predictions))
        outcomes = by_split.setdefault(predictions[0].split, {outcome: [] for outcome in OUTCOMES})
        outcomes[example.outcome].append(example)
    order = [place for place in places(results) if place != AVERAGE]
    return {split: _in_turn(by_split[split].values()) for split in order}


def read_curves(runs: Mapping[str, str]) -> dict[str, dict[int, dict[str, float]]]:
    """name -> metrics by step, of training runs given by their folder or by a metrics file in it.

    All starts of the run count. Raises InputError where there are no metrics.
    """
    curves = {}
    for name, given in runs.items():
        folder = Path(given) if Path(given).is_dir() else Path(given).parent
        try:
            curves[name] = read_metrics(folder)
        except (ValueError, KeyError, TypeError):
            curves[name] = {}
        if not curves[name]:
            raise InputError(f"{given}: expected a training run with metrics-*.jsonl")
    return curves


def draw_curves(name: str, metrics: Mapping[int, Mapping[str, float]]) -> list[Curve]:
    """The metrics of `CURVES` that a training run logged, each as an SVG drawing."""
    drawn = []
    for metric, title in CURVES.items():
        points = [(step, row[metric]) for step, row in sorted(metrics.items()) if metric in row]
        if len(points) > 1:
            drawn.append(Curve(f"{name}: {title}", _svg_curve(points)))
    return drawn


def reasoning_and_answer(text: str) -> tuple[str, str]:
    """The text up to the last `</think>`, and what follows it; without one, all of it counts as the answer."""
    reasoning, _, answer = text.rpartition("</think>")
    return reasoning.strip(), answer.strip()


def _outcome(predictions: Sequence[Prediction]) -> str:
    before, after = is_correct(predictions[0]), is_correct(predictions[-1])
    if after:
        return "right throughout" if before else "learned"
    return "lost" if before else "still wrong"


def _in_turn(groups: Iterable[list[Example]]) -> list[Example]:
    """The groups' next examples in turn, none of an image that is shown already, until there are enough."""
    chosen: dict[str, Example] = {}
    queues = [iter(group) for group in groups]
    while queues and len(chosen) < EXAMPLES_PER_SPLIT:
        queue = queues.pop(0)
        if example := next((example for example in queue if example.image not in chosen), None):
            chosen[example.image] = example
            queues.append(queue)
    return sorted(chosen.values(), key=lambda example: OUTCOMES.index(example.outcome))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qwen3vl_rl.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": _data_url, "reasoning_and_answer": reasoning_and_answer}
    environment.tests["correct"] = is_correct
    environment.globals["pixelated_below_px"] = PIXELATED_BELOW_PX
    return environment


def _data_url(path: Path) -> str:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    large = max(picture.size) > MAX_SIDE_PX
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    kind, options = ("jpeg", {"quality": 85}) if large else ("png", {"optimize": True})
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _svg_curve(points: Sequence[tuple[float, float]]) -> Markup:
    import matplotlib  # takes a second to import, and only reports with curves need it
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": "egm", "font.size": 8, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False, "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(*zip(*points, strict=True), color="#2b5d9b", linewidth=1.3)
        axes.set_xlabel("step")
        axes.grid(axis="y", color="#e4e1da", linewidth=0.6)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])
