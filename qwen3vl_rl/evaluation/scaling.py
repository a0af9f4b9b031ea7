"""Test-time scaling: accuracy of one model against tokens and latency, for several budgets and numbers of answers.

    python -m qwen3vl_rl.evaluation.scaling run --data DIR --images DIR --out OUT --model egm=PATH \\
        --budget 0 32 128 --answers 4 8
    python -m qwen3vl_rl.evaluation.scaling draw images/tradeoff.png [OUT…]

`run` evaluates these variants of each model, prints a table and draws OUT/tradeoff.png:

    free         as it is
    budget-32    the reasoning is cut after 32 tokens, then the answer is forced; 0: an answer without reasoning
    answers-4    four answers are sampled, and the medoid counts

Each variant is a separate evaluation in OUT/MODEL/ and is resumed like any other. `draw` draws finished results next to
the published points. Without results, it draws the published points only.
"""

import argparse
from pathlib import Path

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.reporting.scaling import draw_results, scaling_table
from qwen3vl_rl.evaluation.reporting.table_formats import text
from qwen3vl_rl.evaluation.reporting.tables import notes
from qwen3vl_rl.evaluation.run import Run
from qwen3vl_rl.evaluation.scoring.results import read_scaling
from qwen3vl_rl.evaluation.serving.settings import variants


def run(args: argparse.Namespace) -> None:
    settings, load, models = command.settings(args), command.load(args), command.named(args.model, "--model")
    settings_of = variants(settings, args.budget, args.answers)
    questions = command.questions(args, settings)
    with alone_in(args.out), command.server(args, settings, questions) as server:
        runs = [
            Run(args.out / name / variant, model, questions, changed, server)
            for name, model in models.items()
            for variant, changed in settings_of.items()
        ]
        for variant in runs:
            variant.complete(args.images, load)
    results = read_scaling(args.out)
    everything = [result for variants_of in results.values() for result in variants_of]
    print("\n".join(["", text(scaling_table(results)), "", *notes(everything)]))
    print(f"figure: {draw_results(args.out / 'tradeoff.png', [args.out])}")


def draw(args: argparse.Namespace) -> None:
    print(f"figure: {draw_results(args.figure, args.folders)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="run | draw")
    running = commands.add_parser("run", help="evaluate and draw")
    command.add_arguments(running)
    running.add_argument("--budget", type=int, nargs="*", default=[], metavar="TOKENS", help="of reasoning; 0: none")
    running.add_argument("--answers", type=int, nargs="*", default=[], metavar="N", help="answers per question")
    running.set_defaults(work=run)
    drawing = commands.add_parser("draw", help="draw finished results")
    drawing.add_argument("figure", type=Path, help="such as images/tradeoff.png")
    drawing.add_argument("folders", type=Path, nargs="*", metavar="OUT", help="folders that `run` wrote")
    drawing.set_defaults(work=draw)
    args = parser.parse_args()
    args.work(args)


if __name__ == "__main__":
    command.run(main)
