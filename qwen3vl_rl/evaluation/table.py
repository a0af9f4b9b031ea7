"""Print results as tables: the paper's layout with the published rows above ours, details, paired differences, kinds.

python -m qwen3vl_rl.evaluation.table OUT/base OUT/rl                   the paper's layout, for a terminal
python -m qwen3vl_rl.evaluation.table OUT/rl --format latex             or markdown, or csv with every number
python -m qwen3vl_rl.evaluation.table OUT/base OUT/rl --all             also details, differences, kinds of samples
"""

import argparse
from pathlib import Path

from qwen3vl_rl.data.reviews import REVIEWED_HELP, read_reviews
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.reporting.table_formats import FORMATS
from qwen3vl_rl.evaluation.reporting.tables import (
    accuracy_table,
    evaluation_tables,
    group_table,
    number_table,
    render,
    reviewed_table,
)
from qwen3vl_rl.evaluation.scoring.results import read_results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished evaluations, the baseline first")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--all", action="store_true", help="also details, paired differences and kinds of samples")
    parser.add_argument("--reviewed", nargs="+", type=Path, default=[], metavar="FILE", help=REVIEWED_HELP)
    args = parser.parse_args()
    results, reviews = read_results(args.runs), read_reviews(args.reviewed)
    if args.format == "csv":
        tables = [number_table(results), *([reviewed_table(results, reviews)] if reviews else [])]
    elif args.all:
        tables = [*evaluation_tables(results, reviews), group_table(results)]
    else:
        tables = [accuracy_table(results), *([reviewed_table(results, reviews)] if reviews else [])]
    print(render(tables, results, args.format))


if __name__ == "__main__":
    cli(main)
