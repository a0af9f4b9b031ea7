"""Compare published numbers with ours in one table, that of `docs/reproduction.md`.

    python -m qwen3vl_rl.evaluation.ledger OUT/EGM-8B OUT/Qwen3-VL-8B-Thinking [--protocol paper]

This adds the results of finished runs to `docs/reproduction.yaml`, under the names of their folders, and regenerates
the table. A run must cover all eight RefCOCO splits with the settings of the protocol, as `scripts/reproduce.sh` does.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import yaml

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.data.refcoco import EXPRESSIONS
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.protocols import NAMES, protocol
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE
from qwen3vl_rl.evaluation.scoring.published import CARD, splits, table
from qwen3vl_rl.evaluation.scoring.results import PREDICTIONS, missing_part, read_timing
from qwen3vl_rl.evaluation.serving.questions import JOINED
from qwen3vl_rl.evaluation.serving.settings import load_settings

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"
BEGIN, END = "<!-- ledger -->\n", "<!-- end -->\n"
MISSING = "needs weights and COCO"
DIGITS = 12  # shown of the hash of the weights

Entries = Mapping[str, Mapping[str, Mapping]]  # protocol -> model -> result of `entry`


def entry(run: Path, name: str) -> dict:
    """The result of a finished run under the protocol `name`: percent by split, and where it comes from.

    Raises InputError if a split is missing or incomplete, requests failed, or settings differ from the protocol's.
    """
    if missing := missing_part(run):
        raise InputError(f"{run}: expected a finished evaluation, found {missing}")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["settings"].setdefault("sentences", "each")  # earlier files lack the field
    joined = config["settings"]["sentences"] == "joined"
    for field, asked in asdict(load_settings(asks=protocol(name).asks)).items():
        if field != "parser" and (got := config["settings"].get(field)) != asked:  # protocols read answers themselves
            expected = f"expected {asked} for the protocol {name}, got {got}; evaluate with --protocol {name}"
            raise InputError(f'{run / "config.yaml"}: field "settings.{field}": {expected}')
    rows = read_predictions(run / PREDICTIONS)
    for split in splits():
        count = sum(1 + joined * row.sent.count(JOINED) for row in rows if row.split == split)
        if count != EXPRESSIONS[split]:
            expected = f"expected the {EXPRESSIONS[split]:,} questions of {split}, found {count:,}"
            raise InputError(f"{run}: {expected}; scripts/reproduce.sh asks all")
    if failed := sum(row.error is not None for row in rows):
        expected = f"expected an answer to every question, but {failed:,} requests failed"
        raise InputError(f"{run}: {expected}; repeat the evaluation with --retry-failed")
    asked = [row for row in rows if row.split in splits()]
    found = protocol(name).accuracies(asked)
    return {
        "acc": {place: round(100 * found[place], 2) for place in (*splits(), AVERAGE)},
        "interval": [round(100 * bound, 2) for bound in protocol(name).interval(asked)],
        "device": read_timing(run).get("server", {}).get("device") or "unknown",
        "weights": weights if " " in (weights := str(config.get("weights", "unknown"))) else weights[:DIGITS],
        "date": date.today().isoformat(),
    }


def render(entries: Entries) -> str:
    """The table of the page: one row per published result, followed by our measurement if there is one."""
    names = [place.removeprefix("refcoco").removeprefix("_") for place in splits()]
    header = ["model", "protocol", *names, AVERAGE, "source", "status"]
    rows = [header, ["---"] * len(header), *_rows(entries)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(entries: Entries) -> Iterator[list[str]]:
    published = {("paper", model): values for model, values in table().items()}
    for name in NAMES:
        for model, average in protocol(name).publishes.items():
            published.setdefault((name, model), [None] * len(splits()) + [average])
    ours = {(name, model): found for name, models in entries.items() for model, found in models.items()}
    for name, model in dict.fromkeys([*published, *ours]):
        found = ours.get((name, model))
        if values := published.get((name, model)):
            cells = ["" if value is None else f"{value:.1f}" for value in values]
            source = "the model card" if model == CARD else protocol(name).published_in
            yield [model, name, *cells, source, "below" if found else MISSING]
        if found:
            cells = [f"{found['acc'][place]:.1f}" for place in (*splits(), AVERAGE)]
            cells[-1] += " ({:.1f} to {:.1f})".format(*found["interval"])
            yield [f"{model}, ours", name, *cells, f"weights {found['weights']}", f"{found['device']}, {found['date']}"]


def read_entries(path: Path) -> dict[str, dict[str, dict]]:
    """Read what `add` wrote. Raises InputError if the file has another layout."""
    try:
        entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
        for models in entries.values():
            for found in models.values():
                _ = [found["acc"][place] for place in (*splits(), AVERAGE)], *found["interval"], found["device"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected entries as this command writes them, got {error!r}") from None
    return entries


def fill(page: str, entries: Entries) -> str:
    """The page with a regenerated table. Raises InputError if the page lacks the marks around the table."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"--page: expected a page with the lines {BEGIN.strip()} and {END.strip()} around its table")
    return before + begin + render(entries) + end + after


def add(runs: Sequence[Path], name: str, page: Path) -> None:
    """Add the runs to the store and write the page. On an error neither file changes."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names) or any("|" in one for one in names):
        raise InputError(f"RUN: expected folders with different names and without |, got {', '.join(names)}")
    found = {one: entry(run, name) for one, run in zip(names, runs, strict=True)}
    store = page.with_suffix(".yaml")
    entries = read_entries(store)
    if found:
        entries[name] = entries.get(name, {}) | found
    if not page.is_file():
        raise InputError(f"{page}: expected docs/reproduction.md of the checkout; give its path with --page")
    text = fill(page.read_text(encoding="utf-8"), entries)
    if found:
        with replacing(store) as draft:
            draft.write_text(yaml.safe_dump(entries, sort_keys=True, width=120), encoding="utf-8")
    with replacing(page) as draft:
        draft.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of finished evaluations")
    parser.add_argument("--protocol", choices=NAMES, default="paper")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to update (default: docs/reproduction.md)")
    args = parser.parse_args()
    add(args.runs, args.protocol, args.page)
    print(f"{args.page}: table written, {len(args.runs)} runs added")


if __name__ == "__main__":
    cli(main)
