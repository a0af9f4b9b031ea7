"""Results as a table: per split and on average, one line a model, then paired differences between the models.

python -m qwen3vl_rl.evaluation.table [--markdown] OUT/base OUT/sft OUT/rl
"""

import argparse
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from qwen3vl_rl.evaluation.metrics import AVERAGE, CRITERION, Estimate, paired_difference
from qwen3vl_rl.evaluation.run import Result, read_result
from qwen3vl_rl.grounding import cli

HEADER = ("split", "model", "samples", "Acc@0.5", "95 % interval", "mean IoU", "invalid", "tokens", "latency")
DIFFERENCE_TITLE = "Paired difference in Acc@0.5, percentage points (95 % interval)"
WIDTH = 100  # of a terminal
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def table_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """One row of texts under `HEADER` per split and model; amodal splits follow the average, which leaves them out."""
    rows = []
    for place in places(results):
        for result in results:
            numbers = result.summary["average"] if place == AVERAGE else result.summary["splits"][place]
            rows.append((place, result.name, *_cells(numbers, result.timing["latency"].get(place))))
        for result in results:
            numbers = result.summary["splits"].get(place, {})
            if "visible_acc" in numbers:
                scores = _percent(numbers["visible_acc"]), "", f"{numbers['visible_mean_iou']:.3f}"
                rows.append(("  its visible part", result.name, "", *scores, "", "", ""))
    return rows


def difference_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A header, then one row of texts per split: each model minus the one before it, and the last minus the first."""
    pairs = list(pairwise(results)) + ([(results[0], results[-1])] if len(results) > 2 else [])
    differences = [paired_difference(a.predictions, b.predictions) for a, b in pairs]
    header = ("split", *(f"{b.name} {MINUS} {a.name}" for a, b in pairs))
    return [header, *((place, *(_difference(one[place]) for one in differences)) for place in places(results))]


def table_text(results: Sequence[Result]) -> str:
    """For a terminal of 100 columns."""
    parts = [_aligned([HEADER, *table_rows(results)], texts=2)]
    if len(results) > 1:
        parts.append(f"{DIFFERENCE_TITLE}\n{_aligned(difference_rows(results), texts=1)}")
    return "\n\n".join([*parts, "\n".join(textwrap.fill(note, WIDTH) for note in notes(results))])


def table_markdown(results: Sequence[Result]) -> str:
    """For a README: the same cells as Markdown tables."""
    parts = [_markdown([HEADER, *table_rows(results)], texts=2)]
    if len(results) > 1:
        parts += [DIFFERENCE_TITLE, _markdown(difference_rows(results), texts=1)]
    return "\n\n".join([*parts, " ".join(notes(results))])


def notes(results: Sequence[Result]) -> list[str]:
    """What the numbers mean, in sentences."""
    concurrency = " / ".join(dict.fromkeys(str(result.timing["concurrency"]) for result in results))
    resumed = [result.name for result in results if result.timing["resumed"]]
    failed = {r.name: sum(split["failed_requests"] for split in r.summary["splits"].values()) for r in results}
    lines = [
        f"Acc@0.5 in percent counts {CRITERION}; intervals: bootstrap over images; the average is over "
        f"{', '.join(results[0].summary['average']['of'])}.",
        f"Latency is the mean per request with {concurrency} requests in flight.",
    ]
    if resumed:
        lines.append(f"Resumed, so with latencies of several sessions: {', '.join(resumed)}.")
    lines += [f"{name}: {count} failed requests, counted as wrong." for name, count in failed.items() if count]
    return lines


def places(results: Sequence[Result]) -> list[str]:
    """The rows' order: the averaged splits, the average, then the amodal splits."""
    splits, averaged = results[0].summary["splits"], results[0].summary["average"]["of"]
    return [*averaged, AVERAGE, *(split for split in splits if split not in averaged)]


def _cells(numbers: dict, latency: dict | None) -> tuple[str, ...]:
    interval = numbers["acc_interval"]
    return (
        str(numbers.get("samples", "")),
        _percent(numbers["acc"]),
        " to ".join(map(_percent, interval)) if interval else DASH,
        f"{numbers['mean_iou']:.3f}",
        f"{_percent(numbers['invalid_rate'])} %",
        f"{numbers['mean_tokens']:.1f}",
        f"{latency['mean_s']:.2f} s" if latency else DASH,
    )


def _difference(estimate: Estimate) -> str:
    interval = " to ".join(map(_signed, estimate.interval)) if estimate.interval else DASH
    return f"{_signed(estimate.value)} ({interval})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", MINUS)


def _aligned(rows: list[tuple[str, ...]], texts: int) -> str:
    """Columns two spaces apart, the first `texts` to the left and numbers to the right, a rule under the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*map(str.ljust, row[:texts], widths), *map(str.rjust, row[texts:], widths[texts:])]).rstrip()
        for row in _without_repeats(rows)
    ]
    return "\n".join([lines[0], "─" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def _markdown(rows: list[tuple[str, ...]], texts: int) -> str:
    header, *body = [f"| {' | '.join(row)} |" for row in _without_repeats(rows)]
    rule = "|".join(["---"] * texts + ["--:"] * (len(rows[0]) - texts))
    return "\n".join([header, f"|{rule}|", *body])


def _without_repeats(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each split named once, on its first row."""
    return [rows[0], *((b[0] if b[0] != a[0] else "", *b[1:]) for a, b in pairwise(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished evaluations, in order")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    results = [read_result(folder) for folder in args.runs]
    print(table_markdown(results) if args.markdown else table_text(results))


if __name__ == "__main__":
    cli(main)
