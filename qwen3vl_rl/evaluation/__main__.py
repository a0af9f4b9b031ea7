"""Evaluate checkpoints on one server, and print their accuracy table and a sentence on each of them.

    python -m qwen3vl_rl.evaluation --data DIR --images DIR --out DIR --model base=PATH --model sft=PATH --model rl=PATH

writes OUT/NAME/{predictions.jsonl,summary.json,timing.json,config.yaml} for each model, and OUT/report.html. Every
answer is written as it arrives. Run the same command again to resume a stopped run. The server gets all arguments
after `--`, such as `-- --tensor-parallel-size 2 --data-parallel-size 4`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.data.reviews import REVIEWED_HELP, read_reviews
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.reporting.released_outputs import write_released_outputs
from qwen3vl_rl.evaluation.reporting.report import read_curves, write_report
from qwen3vl_rl.evaluation.reporting.tables import compare_runs
from qwen3vl_rl.evaluation.run import Run
from qwen3vl_rl.evaluation.scoring.results import read_result
from qwen3vl_rl.evaluation.summary import summary, table_command


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument(
        "--about", action="append", default=[], metavar="NAME=TEXT", help="what a model is (default: its path)"
    )
    parser.add_argument("--curves", action="append", default=[], metavar="NAME=RUN", help="training curves to draw")
    parser.add_argument(
        "--released-outputs", action="store_true", help="also OUT/NAME/SPLIT/{iou,latency}.txt and so on"
    )
    parser.add_argument("--reviewed", nargs="+", type=Path, default=[], metavar="FILE", help=REVIEWED_HELP)
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the report goes (default: OUT/report.html)")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_args()
    settings, load, models = command.settings(args), command.load(args), command.named(args.model, "--model")
    about = models | command.named(args.about, "--about")
    if unknown := about.keys() - models.keys():
        raise InputError(f"--about {min(unknown)}: expected a name that --model gives")
    curves = read_curves(command.named(args.curves, "--curves"))
    reviews = read_reviews(args.reviewed)
    questions = command.questions(args, settings)
    with alone_in(args.out), command.server(args, settings, questions) as server:
        runs = [Run(args.out / name, model, questions, settings, server) for name, model in models.items()]
        for run in runs:
            run.complete(args.images, load)
    results = [read_result(run.folder) for run in runs]
    if args.released_outputs:
        for run, result in zip(runs, results, strict=True):
            write_released_outputs(run.folder, result.predictions, result.timing.get("wall_s", 0.0))
    pairs = compare_runs(results)
    report = write_report(args.report or args.out / "report.html", results, args.images, curves, reviews, pairs)
    print(f"\n{summary(results, pairs, about, reviews)}\n")
    print(f"all tables: {table_command([run.folder for run in runs], args.reviewed)}\nreport: {report}")


if __name__ == "__main__":
    command.run(main)
