"""What an evaluation prints at its end: the accuracy table, a sentence on each model, and where to find the rest."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwen3vl_rl.data.reviews import Review
from qwen3vl_rl.evaluation.reporting.findings import is_clear
from qwen3vl_rl.evaluation.reporting.tables import (
    MINUS,
    accuracy_table,
    compare_runs,
    percent,
    render,
    reviewed_table,
)
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, Estimate, Interval
from qwen3vl_rl.evaluation.scoring.results import Result


def summary(results: Sequence[Result], about: Mapping[str, str], reviews: Sequence[Review] = ()) -> str:
    """The accuracy table, also on reviewed rows if there are `reviews`, and `sentences`."""
    tables = [accuracy_table(results), *([reviewed_table(results, reviews)] if reviews else [])]
    return "\n".join([render(tables, results), "", *sentences(results, about)])


def table_command(runs: Sequence[Path], reviewed: Sequence[Path] = ()) -> str:
    """The command that prints all tables of `runs`. `reviewed`: the files with reviews."""
    reviews = ["--reviewed", *reviewed] if reviewed else []
    return shlex.join(map(str, ["python", "-m", "qwen3vl_rl.evaluation.table", *runs, "--all", *reviews]))


def sentences(results: Sequence[Result], about: Mapping[str, str]) -> list[str]:
    """One sentence for each model: what it is, its result, the length of its answers. All numbers are averages.

    The result of the first model is its accuracy, and so is every model's if they answered different samples. Each
    other model is compared with the model before it, and with the first one if that difference is clear. `about` says
    what each model is, by name.
    """
    pairs = {(pair.second, pair.first): pair.comparisons[AVERAGE].difference for pair in compare_runs(results)}
    first, lines = results[0], []
    for number, result in enumerate(results):
        before = results[number - 1] if number else None
        if before is None or (result.name, before.name) not in pairs:
            parts = [_accuracy(result), _answers(_tokens(result))]
        else:
            parts = [_difference(pairs[result.name, before.name], before.name)]
            against_first = pairs.get((result.name, first.name))
            if before is not first and against_first and is_clear(against_first):
                parts.append(_difference(against_first, first.name))
            parts.append(_answers(_tokens(result), _tokens(before)))
        lines.append("; ".join([f"{result.name}: {about[result.name]}", *parts]))
    return lines


def _accuracy(result: Result) -> str:
    average = result.summary["average"]
    return f"{percent(average['acc'])} % right{_in_brackets(average['acc_interval'])}"


def _difference(difference: Estimate, other: str) -> str:
    value, interval = difference.value, difference.interval
    if not is_clear(difference):
        limits = f", {_signed(interval[0])} to {_signed(interval[1])}" if interval else ""
        return f"no clear difference from {other} ({_signed(value)} points{limits})"
    if value > 0:
        return f"{percent(value)} points{_in_brackets(interval)} better than {other}"
    return f"{percent(-value)} points{_in_brackets((-interval[1], -interval[0]))} worse than {other}"


def _answers(tokens: int, before: int | None = None) -> str:
    """The length of the answers, and that of the model before if it differs."""
    return f"answers of {tokens} tokens" + (f" instead of {before}" if before not in (None, tokens) else "")


def _tokens(result: Result) -> int:
    return round(result.summary["average"]["mean_tokens"])


def _in_brackets(interval: Interval) -> str:
    return f" ({percent(interval[0])} to {percent(interval[1])})" if interval else ""


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", MINUS)
