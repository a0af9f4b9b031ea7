"""The tables of finished runs: accuracy next to the published rows, details, paired differences, speed, kinds."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwen3vl_rl.data.reviews import Review
from qwen3vl_rl.evaluation.diagnosis.answers import coordinates
from qwen3vl_rl.evaluation.reporting import table_formats as formats
from qwen3vl_rl.evaluation.reporting.table_formats import Table
from qwen3vl_rl.evaluation.scoring import published
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE, AVERAGED_FIELDS, CRITERION, Comparison, compare, sample_of
from qwen3vl_rl.evaluation.scoring.results import SINGLE_REQUEST, Result
from qwen3vl_rl.evaluation.scoring.reviews import Reviewed, score_reviewed

WIDTH = 100  # of a terminal
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
PARTIAL, MISMATCHED = "†", "‡"
NUMBERS = ("acc", *AVERAGED_FIELDS)
ABSENT = ("declined_rate", "false_box_rate")  # on rows without a referent
LATENCIES = ("mean_s", "p50_s", "p95_s")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs by name: `second` is compared with `first`, on every split and on average."""

    first: str
    second: str
    comparisons: Mapping[str, Comparison]


def accuracy_table(results: Sequence[Result]) -> Table:
    """The paper's layout: one row per model, one column per split, the average. Below each of our rows, half the width
    of the interval.

    If any RefCOCO split is among ours, the table has all eight as columns and begins with the published rows.
    """
    columns = places(results)
    rows = [_published_row(model, accs, columns) for model, accs in _published_rows(results).items()]
    for result in results:
        scores = [scores_at(result, place) for place in columns]
        marks = [mark(result, place) for place in columns]
        accs = [percent(score["acc"]) + mark if score else DASH for score, mark in zip(scores, marks, strict=True)]
        rows.append((result.name, *accs))
        rows.append(("  ±", *(_half_width(score["acc_interval"]) if score else "" for score in scores)))
    return Table(f"Acc@0.5 in percent ({CRITERION})", ("model", *map(_heading, columns)), rows)


def detail_table(results: Sequence[Result]) -> Table:
    """One row per split and model. Amodal splits follow the average, which leaves them out."""
    header = ["split", "model", "samples", "Acc@0.5", "interval", "0.7", "0.9", "mIoU", "invalid", "tokens"]
    rows = []
    for place in places(results):
        scored = [(result, numbers) for result in results if (numbers := scores_at(result, place))]
        for result, numbers in scored:
            rows.append((place, result.name, *_details(numbers)))
        for result, numbers in scored:
            if "visible_acc" in numbers:
                scores = percent(numbers["visible_acc"]), *[""] * 3, f"{numbers['visible_mean_iou']:.3f}"
                rows.append(("  its visible part", result.name, "", *scores, "", ""))
            if "no_referent" in numbers:
                absent = numbers["no_referent"]
                for what in ("declined", "false_box"):
                    scores = str(absent["samples"]), percent(absent[f"{what}_rate"]), *[""] * 6
                    rows.append((f"  no referent: {what.replace('_', ' ')}", result.name, *scores))
    return Table("Details", header, rows, texts=2)


def compare_runs(results: Sequence[Result]) -> list[Pair]:
    """Each model against the one before it; then the last, and the best of all but the first, against the first.

    Empty if there is one model, or if the models answered different samples.
    """
    if len(results) < 2 or not _same_samples(results):
        return []
    last = len(results) - 1
    best = max(range(1, len(results)), key=lambda number: results[number].summary["average"]["acc"])
    chosen = dict.fromkeys([*pairwise(range(len(results))), (0, last), (0, best)])
    pairs = [(results[first], results[second]) for first, second in chosen]
    return [Pair(a.name, b.name, compare(a.predictions, b.predictions)) for a, b in pairs]


def difference_table(pairs: Sequence[Pair], places: Sequence[str]) -> Table:
    """One row per place (a split, or the average) and pair."""
    header = ("split", "models", "difference", "95 % interval", "gained", "lost", "McNemar")
    rows = [
        (place, f"{pair.second} {MINUS} {pair.first}", *_differences(pair.comparisons[place]))
        for place in places
        for pair in pairs
        if place in pair.comparisons
    ]
    return Table("Paired difference in Acc@0.5, percentage points", header, rows, texts=2)


def reviewed_table(results: Sequence[Result], reviews: Sequence[Review]) -> Table:
    """Accuracy on all rows and on the rows that reviewers found right, with the number of rows per verdict."""
    header = ("split", "model", "review", "all rows", "right rows", "interval", "right", "wrong", "unknown", "unasked")
    rows = [
        (part.split, result.name, part.review, percent(part.acc_all), *_reviewed(part))
        for result in results
        for part in score_reviewed(result, reviews)
    ]
    rows.sort(key=lambda row: [*published.splits(), AVERAGE].index(row[0]))
    return Table("Acc@0.5 on the rows that reviewers found right", header, rows, texts=3)


def speed_table(results: Sequence[Result]) -> Table:
    """Latency and throughput under load, and the latency of requests that are sent one at a time."""
    header = ("model", "requests in flight", "requests/s", "tokens/s", "mean s", "p50", "p95")
    rows = []
    for result in results:
        timing = result.timing
        rates = [f"{timing[rate]:.1f}" if rate in timing else DASH for rate in ("requests_per_s", "tokens_per_s")]
        if latency := timing["latency"].get(AVERAGE):
            rows.append((result.name, str(timing.get("concurrency", DASH)), *rates, *_latency(latency)))
        if single := timing.get(SINGLE_REQUEST):
            rows.append((result.name, "1", DASH, DASH, *_latency(single)))
    return Table("Latency per request and throughput", header, rows)


def group_table(results: Sequence[Result]) -> Table:
    """Acc@0.5 by kind of expression, its length, size of the box, and on amodal splits by how much is hidden."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for number, result in enumerate(results):
        for grouping, groups in result.summary["groups"].items():
            for group, numbers in groups.items():
                cell = f"{percent(numbers['acc'])} ({numbers['samples']})"
                rows.setdefault((grouping, group), {})[number] = cell
        for split, numbers in result.summary["splits"].items():
            for band, scores in numbers.get("occlusion", {}).items():
                cell = f"{percent(scores['acc'])} / {percent(scores['visible_acc'])} ({scores['samples']})"
                rows.setdefault((f"{split}, whole / visible", band), {})[number] = cell
    names = [result.name for result in results]
    cells = [(*kind, *(cell_of.get(number, DASH) for number in range(len(results)))) for kind, cell_of in rows.items()]
    return Table("Acc@0.5 by kind of sample (samples), splits of the average together", ("kind", "", *names), cells, 2)


def number_table(results: Sequence[Result]) -> Table:
    """Every number of every split, unrounded, for other programs; rates are fractions."""
    header = ("model", "split", "samples", "published_samples", "acc_low", "acc_high", *NUMBERS)
    header += ("failed_requests", "visible_acc", "visible_mean_iou", *ABSENT, *LATENCIES)
    rows = []
    for result in results:
        for place in [*result.summary["splits"], AVERAGE]:
            numbers, latency = scores_at(result, place), result.timing["latency"].get(place, {})
            known = published.splits().get(place)
            counts = numbers.get("samples", ""), known.samples if known else ""
            low, high = numbers["acc_interval"] or ("", "")
            values = [*counts, low, high, *(numbers[name] for name in NUMBERS)]
            values += [numbers.get(name, "") for name in ("failed_requests", "visible_acc", "visible_mean_iou")]
            values += [numbers.get("no_referent", {}).get(name, "") for name in ABSENT]
            values += [latency.get(name, "") for name in LATENCIES]
            rows.append((result.name, place, *map(str, values)))
    for model, accs in _published_rows(results).items():
        for place, acc in zip([*published.splits(), AVERAGE], accs, strict=True):
            rows.append((f"published {model}", place, *[""] * 4, f"{acc / 100:.3f}", *[""] * (len(header) - 7)))
    return Table("All numbers", header, rows, texts=2)


def notes(results: Sequence[Result]) -> list[str]:
    """What the numbers mean, and what is wrong with them."""
    averaged = "; ".join(dict.fromkeys(", ".join(result.summary["average"]["of"]) for result in results))
    lines = [f"Acc@0.5 in percent counts {CRITERION}; intervals: 95 %, bootstrap over images; average over {averaged}."]
    if _published_rows(results):
        card = f"{published.CARD}, which is the card's; its average is not the mean of its row"
        lines.append(f"Published rows are the paper's, except {card}.")
    marks = {mark(result, place) for result in results for place in places(results)}
    if PARTIAL in marks:
        others = "fewer samples than published, or an average over other samples or splits"
        lines.append(f"{PARTIAL} {others}: not comparable to published rows.")
    if MISMATCHED in marks:
        lines.append(f"{MISMATCHED} more samples than the published split has: another version of it.")
    if resumed := [result.name for result in results if result.timing["resumed"]]:
        lines.append(f"Resumed: {', '.join(resumed)}. Latencies are from all starts, rates from the last one.")
    if len(results) > 1 and not _same_samples(results):
        lines.append("The runs answered different samples, so their differences are left out.")
    for result in results:
        if not (found := coordinates([row for row in result.predictions if row.error is None])).is_fine:
            lines.append(f"{result.name}: {found.found}. {found.means} {found.change}")
        if failed := result.summary["failed"]:
            few = ", ".join(list(failed)[:3]) + (", …" if len(failed) > 3 else "")
            lines.append(
                f"{result.name}: {len(failed)} failed requests, counted as wrong ({few}; see summary.json); "
                "rerun with --retry-failed to ask them again."
            )
    return lines


def evaluation_tables(
    results: Sequence[Result], reviews: Sequence[Review] = (), pairs: Sequence[Pair] | None = None
) -> list[Table]:
    """Accuracy, accuracy on reviewed rows if there are `reviews`, differences if there are any, details and speed.

    `pairs`: from `compare_runs`, for callers that need them too.
    """
    pairs = compare_runs(results) if pairs is None else pairs
    reviewed = [reviewed_table(results, reviews)] if reviews else []
    differences = [difference_table(pairs, places(results))] if pairs else []
    return [accuracy_table(results), *reviewed, *differences, detail_table(results), speed_table(results)]


def render(tables: Sequence[Table], results: Sequence[Result], form: str = "text") -> str:
    """The tables and their notes. `form`: text, markdown, latex or csv."""
    parts = [formats.FORMATS[form](table) for table in tables]
    if form == "text":
        parts.append("\n".join(textwrap.fill(note, WIDTH) for note in notes(results)))
    elif form == "markdown":
        parts.append(" ".join(notes(results)))
    elif form == "latex":
        parts.append("\n".join(f"% {note}" for note in notes(results)))
    return "\n\n".join(parts)


def places(results: Sequence[Result]) -> list[str]:
    """The splits in order: the paper's (all eight, if there is any), other averaged ones, the average, amodal ones."""
    averaged = dict.fromkeys(split for result in results for split in result.summary["average"]["of"])
    others = dict.fromkeys(split for result in results for split in result.summary["splits"] if split not in averaged)
    known = [*published.splits()] if averaged.keys() & published.splits().keys() else []
    return [*known, *(split for split in averaged if split not in known), AVERAGE, *others]


def summary_places(results: Sequence[Result]) -> list[str]:
    """The average, then the splits that any run has. The average over a single split is left out."""
    averaged = {split for result in results for split in result.summary["average"]["of"]}
    splits = [place for place in places(results) if any(place in result.summary["splits"] for result in results)]
    return splits if len(averaged) == 1 else [AVERAGE, *splits]


def scores_at(result: Result, place: str) -> Mapping:
    """The numbers of a split or of the average. Empty if the run does not have the split."""
    return result.summary["average"] if place == AVERAGE else result.summary["splits"].get(place, {})


def mark(result: Result, place: str) -> str:
    """The mark of a number that is not comparable to the published one, because the number of samples or the averaged
    splits differ. Empty for a comparable one."""
    if place == AVERAGE:
        of, known = set(result.summary["average"]["of"]), published.splits().keys()
        is_the_published = of == known and not any(mark(result, split) for split in of)
        return PARTIAL if of & known and not is_the_published else ""
    known, numbers = published.splits().get(place), scores_at(result, place)
    if not (known and numbers) or numbers["samples"] == known.samples:
        return ""
    return PARTIAL if numbers["samples"] < known.samples else MISMATCHED


def _heading(place: str) -> str:
    """The column's name. The paper's splits are shortened: val, A, B, + val, + A, + B, g val, g test."""
    known = published.splits().get(place)
    if known is None:
        return place
    suffix = known.dataset.removeprefix("RefCOCO")
    return f"{suffix} {known.part}".strip()


def _published_rows(results: Sequence[Result]) -> Mapping[str, Sequence[float]]:
    """The published table if one of its splits is among ours. Empty otherwise."""
    return published.table() if set(places(results)) & published.splits().keys() else {}


def _published_row(model: str, accs: Sequence[float], columns: Sequence[str]) -> tuple[str, ...]:
    acc_of = dict(zip([*published.splits(), AVERAGE], accs, strict=True))
    return (f"{model} (published)", *(f"{acc_of[place]:.1f}" if place in acc_of else DASH for place in columns))


def _details(numbers: Mapping) -> tuple[str, ...]:
    interval = numbers["acc_interval"]
    return (
        str(numbers.get("samples", "")),
        percent(numbers["acc"]),
        DASH.join(map(percent, interval)) if interval else DASH,
        *(percent(numbers[name]) for name in ("acc_70", "acc_90")),
        f"{numbers['mean_iou']:.3f}",
        f"{percent(numbers['invalid_rate'])} %",
        f"{numbers['mean_tokens']:.1f}",
    )


def _reviewed(part: Reviewed) -> tuple[str, ...]:
    interval = DASH.join(map(percent, part.interval)) if part.interval else DASH
    counts = (part.right, part.wrong, part.unknown, part.unasked)
    return (DASH if part.acc is None else percent(part.acc), interval, *map(str, counts))


def _same_samples(results: Sequence[Result]) -> bool:
    return len({tuple(map(sample_of, result.predictions)) for result in results}) == 1


def _latency(fields: Mapping) -> list[str]:
    return [f"{fields[name]:.3f}" for name in LATENCIES]


def _differences(comparison: Comparison) -> tuple[str, ...]:
    estimate = comparison.difference
    interval = " to ".join(map(signed, estimate.interval)) if estimate.interval else DASH
    return signed(estimate.value), interval, str(comparison.gained), str(comparison.lost), _p(comparison.p)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _half_width(interval: Sequence[float] | None) -> str:
    return percent((interval[1] - interval[0]) / 2) if interval else DASH


def signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", MINUS)
