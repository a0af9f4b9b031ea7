"""Evaluate checkpoints on one server, and print their table.

    python -m qwen3vl_rl.evaluation --data DIR --images DIR --out DIR --model base=PATH --model sft=PATH --model rl=PATH

writes OUT/NAME/{predictions.jsonl,summary.json,timing.json,config.yaml} for each model and OUT/report/index.html.
Every answer is written as it arrives; the same command goes on where a stopped run ended. What follows `--` goes to the
server, such as `-- --tensor-parallel-size 2`.
"""

import argparse
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from qwen3vl_rl.evaluation.report import write_report
from qwen3vl_rl.evaluation.run import Run, read_questions, read_result
from qwen3vl_rl.evaluation.server import ENGINES, Endpoint, EngineError, Server
from qwen3vl_rl.evaluation.settings import load_settings
from qwen3vl_rl.evaluation.table import table_text
from qwen3vl_rl.grounding import InputError, cli


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="NAME=PATH", help="name in the table = checkpoint folder")
    add("--data", nargs="+", type=Path, required=True, help="evaluation jsonl files, one a split, or folders of them")
    add("--images", type=Path, required=True, help="the folder that image paths are relative to")
    add("--out", type=Path, required=True)
    add("--split", action="append", metavar="NAME", help="only these splits (file names without .jsonl)")
    add("--limit", type=int, metavar="N", help="only the first N samples of each split")
    add("--max-tokens", type=int, help="of reasoning and answer (recipe: 4096)")
    add("--parser", help="how answers are read: house (default), or released_eval as in the paper's own evaluation")
    add("--concurrency", type=int, default=64, help="requests in flight (recipe: 64)")
    add("--engine", choices=ENGINES, default="vllm", help="the server to start")
    add("--endpoint", metavar="URL", help="ask this running server instead; the PATH of --model is its model's name")
    add("--curves", action="append", default=[], metavar="NAME=JSONL", help="training metrics to draw in the report")
    add("--report", type=Path, metavar="FILE", help="where the report goes (default: OUT/report/index.html)")
    add("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT", help="further arguments of the server")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_args()
    if args.concurrency < 1:
        raise InputError(f"--concurrency: expected at least 1, got {args.concurrency}")
    settings = load_settings(max_tokens=args.max_tokens, parser=args.parser)
    questions = read_questions(args.data, args.images, args.split, args.limit)
    models, curves = _named(args.model, "--model"), _named(args.curves, "--curves")
    runs = [Run(args.out / name, model, questions, settings, args.endpoint) for name, model in models.items()]
    with _server(args, settings.max_tokens) as server:
        for run in runs:
            run.complete(server, args.images, args.concurrency)
    results = [read_result(run.folder) for run in runs]
    report = write_report(args.report or args.out / "report" / "index.html", results, args.images, curves)
    print(f"\n{table_text(results)}\n\nreport: {report}")


def _server(args: argparse.Namespace, max_tokens: int) -> AbstractContextManager:
    if args.endpoint:
        return Endpoint(args.endpoint)
    log = args.out / "server.log"
    return Server(ENGINES[args.engine], log, args.images, max_tokens, tuple(args.server_arguments))


def _named(items: list[str], option: str) -> dict[str, str]:
    named = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in named:
            raise InputError(f"{option} {item}: expected NAME=PATH with a name of its own")
        named[name] = value
    return named


if __name__ == "__main__":
    try:
        cli(main)
    except EngineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
