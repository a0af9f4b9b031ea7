"""Score the same answers under every protocol, to see what the protocol alone changes.

    python -m qwen3vl_rl.evaluation.protocols OUT/rl OUT/base         finished runs, or their predictions.jsonl

Each row of the table reads boxes and counts hits as one project does. The prompts are those of the run. To ask with the
prompt of a project, evaluate with `python -m qwen3vl_rl.evaluation --protocol NAME …`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.protocols import NAMES, protocol
from qwen3vl_rl.evaluation.reporting.table_formats import FORMATS, Table
from qwen3vl_rl.evaluation.scoring.metrics import AVERAGE
from qwen3vl_rl.evaluation.scoring.results import read_results


def scores(runs: Mapping[str, Sequence[Prediction]]) -> Table:
    """Acc@0.5 in percent, one row per run and protocol."""
    accuracies = {(run, name): protocol(name).accuracies(rows) for run, rows in runs.items() for name in NAMES}
    places = list(dict.fromkeys(place for found in accuracies.values() for place in found))
    places.append(places.pop(places.index(AVERAGE)))
    rows = [
        (run, name, *(f"{100 * found[place]:.1f}" if place in found else "" for place in places))
        for (run, name), found in accuracies.items()
    ]
    return Table("The same answers under each protocol, Acc@0.5 in percent", ("run", "protocol", *places), rows, 2)


def rules() -> Table:
    """The rules of each protocol."""
    rows = []
    for name in NAMES:
        one = protocol(name)
        counts = f"IoU {'>=' if one.inclusive else '>'} 0.5"
        rows.append(
            (name, str(one.asks["prompt"]), str(one.asks.get("sentences", "each")), one.reading, counts, one.average)
        )
    header = ("protocol", "prompt", "sentences", "box reading", "counts", "average over")
    return Table("What each protocol does (qwen3vl_rl/evaluation/protocols/*.yaml)", header, rows, 6)


def published() -> Table:
    """Averages over the eight RefCOCO splits that the projects publish, each under its own protocol."""
    rows = [(name, model, f"{acc:.1f}") for name in NAMES for model, acc in protocol(name).publishes.items()]
    return Table("What the projects publish, average in percent", ("protocol", "model", "average"), rows, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.protocols",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or predictions.jsonl files")
    parser.add_argument("--format", choices=FORMATS, default="text")
    args = parser.parse_args()
    runs = {result.name: result.predictions for result in read_results(args.runs)}
    print("\n\n".join(FORMATS[args.format](table) for table in (scores(runs), rules(), published())))


if __name__ == "__main__":
    cli(main)
