"""Write one HTML page about finished runs: the best model, charts, pictures on which models differ, all tables.

    python -m qwen3vl_rl.evaluation.report OUT/base OUT/rl --images DIR --out report.html

The page embeds everything that it shows and loads nothing. The same results give the same file.
"""

import argparse
from pathlib import Path

from qwen3vl_rl.data.reviews import REVIEWED_HELP, read_reviews
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.reporting.report import write_report
from qwen3vl_rl.evaluation.scoring.results import read_results


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished evaluations, the baseline first")
    parser.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--reviewed", nargs="+", type=Path, default=[], metavar="FILE", help=REVIEWED_HELP)
    args = parser.parse_args()
    report = write_report(args.out, read_results(args.runs), args.images, {}, read_reviews(args.reviewed))
    print(f"report: {report}")


if __name__ == "__main__":
    cli(main)
