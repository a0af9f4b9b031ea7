"""What an evaluation prints at its end: the accuracy table, a sentence on each model, and where to find the rest."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwen3vl_rl.data.reviews import Review
from qwen3vl_rl.evaluation.reporting.findings import in_words, is_clear, size
from qwen3vl_rl.evaluation.reporting.tables import Pair, accuracy_table, percent, render, reviewed_table, signed
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, Estimate, Interval
from qwen3vl_rl.evaluation.scoring.results import Result


def summary(
    results: Sequence[Result], pairs: Sequence[Pair], about: Mapping[str, str], reviews: Sequence[Review] = ()
) -> str:
    """The accuracy table, also on reviewed rows if there are `reviews`, and `sentences`."""
    tables = [accuracy_table(results), *([reviewed_table(results, reviews)] if reviews else [])]
    return "\n".join([render(tables, results), "", *sentences(results, pairs, about)])


def table_command(runs: Sequence[Path], reviewed: Sequence[Path] = ()) -> str:
    """The command that prints all tables of `runs`. `reviewed`: the files with reviews."""
    reviews = ["--reviewed", *reviewed] if reviewed else []
    return shlex.join(map(str, ["python", "-m", "qwen3vl_rl.evaluation.table", *runs, "--all", *reviews]))


def sentences(results: Sequence[Result], pairs: Sequence[Pair], about: Mapping[str, str]) -> list[str]:
    """One sentence for each model: what it is, its result, the length of its answers. All numbers are averages.

    The result of the first model is its accuracy, and so is every model's if they answered different samples. Each
    other model is compared with the model before it, and with the first one if that difference is clear. `pairs`: from
    `compare_runs`. `about` says what each model is, by name.
    """
    differences = {(pair.second, pair.first): pair.comparisons[AVERAGE].difference for pair in pairs}
    first, lines = results[0], []
    for number, result in enumerate(results):
        before = results[number - 1] if number else None
        if before is None or (result.name, before.name) not in differences:
            parts = [_accuracy(result), _answers(_tokens(result))]
        else:
            parts = [_difference(differences[result.name, before.name], before.name)]
            against_first = differences.get((result.name, first.name))
            if before is not first and against_first and is_clear(against_first):
                parts.append(_difference(against_first, first.name))
            parts.append(_answers(_tokens(result), _tokens(before)))
        lines.append("; ".join([f"{result.name}: {about[result.name]}", *parts]))
    return lines


def _accuracy(result: Result) -> str:
    average = result.summary["average"]
    return f"{percent(average['acc'])} % right{_in_brackets(average['acc_interval'])}"


def _difference(difference: Estimate, other: str) -> str:
    if not is_clear(difference):
        limits = f", {' to '.join(map(signed, difference.interval))}" if difference.interval else ""
        return f"no clear difference from {other} ({signed(difference.value)} points{limits})"
    points, interval = size(difference)
    return f"{points} points{_in_brackets(interval)} {'better' if difference.value > 0 else 'worse'} than {other}"


def _answers(tokens: int, before: int | None = None) -> str:
    """The length of the answers, and that of the model before if it differs."""
    return f"answers of {tokens} tokens" + (f" instead of {before}" if before not in (None, tokens) else "")


def _tokens(result: Result) -> int:
    return round(result.summary["average"]["mean_tokens"])


def _in_brackets(interval: Interval) -> str:
    return f" ({in_words(interval)})" if interval else ""
