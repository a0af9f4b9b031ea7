"""Test-time scaling as a table and as a figure: accuracy against latency and tokens."""

from collections.abc import Sequence
from pathlib import Path

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.figures import Measured, draw
from qwen3vl_rl.evaluation.reporting.table_formats import Table
from qwen3vl_rl.evaluation.reporting.tables import DASH, mark
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE
from qwen3vl_rl.evaluation.scoring.results import Result, read_scaling


def measure(results: dict[str, list[Result]]) -> list[Measured]:
    """One point per variant. The free run and the budgets form one curve, the numbers of answers another."""
    points = []
    for model, variants_of in results.items():
        by_kind = {False: "", True: ", several answers"}
        for several, suffix in by_kind.items():
            points += [
                _point(model + suffix, result)
                for result in variants_of
                if result.name.startswith("answers-") == several
            ]
    return points


def scaling_table(results: dict[str, list[Result]]) -> Table:
    header = ("model", "variant", "Acc@0.5", "95 %", "tokens", "latency", "p95")
    rows = []
    for model, variants_of in results.items():
        for result in variants_of:
            average, latency = result.summary["average"], result.timing["latency"].get(AVERAGE)
            interval = average["acc_interval"]
            shown = [
                f"{100 * average['acc']:.1f}{mark(result, AVERAGE)}",
                DASH.join(f"{100 * end:.1f}" for end in interval or ()),
            ]
            shown += [f"{average['mean_tokens']:.1f}"]
            shown += [f"{latency['mean_s']:.2f} s", f"{latency['p95_s']:.2f} s"] if latency else ["", ""]
            rows.append((model, result.name, *shown))
    return Table("Test-time scaling, average over the splits", header, rows, texts=2)


def is_on_refcoco(results: dict[str, list[Result]]) -> bool:
    """Whether the results can be drawn next to the published points: all eight splits, complete, and nothing else."""
    everything = [result for variants_of in results.values() for result in variants_of]
    names = set(published.splits())
    return all(set(one.summary["average"]["of"]) == names and not mark(one, AVERAGE) for one in everything)


def _point(curve: str, result: Result) -> Measured:
    average, latency = result.summary["average"], result.timing["latency"].get(AVERAGE)
    if latency is None:
        raise InputError(f"{result.name}: every request failed, so there is no latency to draw")
    label = result.name.removeprefix("budget-").removeprefix("answers-")
    return Measured(curve, label, average["mean_tokens"], latency["mean_s"], average["acc"], average["acc_interval"])


def draw_results(path: Path, folders: Sequence[Path]) -> Path:
    """Draw the results in `folders`, next to the published points if they are comparable, and return `path`.

    Raises InputError for a folder without results, and for a model that is in two folders.
    """
    results: dict[str, list[Result]] = {}
    for folder in folders:
        for model, ways in read_scaling(folder).items():
            if model in results:
                raise InputError(f"{folder}: expected each model in one folder, found {model} again")
            results[model] = ways
    draw(path, measure(results), with_published=is_on_refcoco(results))
    return path
