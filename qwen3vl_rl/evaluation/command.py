"""The command line options that `evaluation` and `evaluation.scaling` share."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qwen3vl_rl.data.predictions import Question
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.protocols import NAMES, protocol
from qwen3vl_rl.evaluation.run import Load
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.predict import REQUEST_TIMEOUT_S
from qwen3vl_rl.evaluation.serving.questions import read_questions, readable_folder
from qwen3vl_rl.evaluation.serving.server import AnyServer, Endpoint, EngineError, new_server
from qwen3vl_rl.evaluation.serving.settings import PARSERS, Settings, load_settings
from qwen3vl_rl.grounding import parser_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of an evaluation."""
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="NAME=PATH", help="name in tables = folder or hub name")
    add("--data", nargs="+", type=Path, required=True, help="evaluation jsonl files, one per split, or folders of them")
    add("--images", type=Path, required=True, help="the folder that image paths are relative to")
    add("--out", type=Path, required=True, help="folder for predictions, scores and report")
    add("--split", action="append", metavar="NAME", help="only this split (a file name without .jsonl); repeatable")
    add("--limit", type=int, metavar="N", help="only the first N samples of each split")
    add("--protocol", choices=NAMES, help="prompt and settings of this project")
    add("--settings", type=Path, metavar="FILE", help="YAML with changes to qwen3vl_rl/evaluation/serving/recipe.yaml")
    add("--max-tokens", type=int, help="limit for reasoning and answer together (recipe: 4096)")
    add("--parser", choices=PARSERS, type=parser_name, help="how boxes are read (default: strict; paper: released)")
    add("--concurrency", type=int, default=64, help="requests in flight (recipe: 64)")
    add("--latency-samples", type=int, default=20, metavar="N", help="questions to repeat one at a time, for latency")
    add("--retry-failed", action="store_true", help="repeat questions whose request failed earlier")
    add("--request-timeout", type=float, default=REQUEST_TIMEOUT_S, metavar="S", help="timeout of one request")
    add("--engine", choices=ENGINES, default="vllm", help="the server to start (default: vllm)")
    add("--servers-per-gpu", type=int, default=1, metavar="N", help="vLLM servers that share each GPU (default: 1)")
    add("--endpoint", metavar="URL", help="use this running server; in --model, PATH is then a model that it serves")
    add("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT", help="further arguments for the server")


def settings(args: argparse.Namespace) -> Settings:
    asks = protocol(args.protocol).asks if args.protocol else None
    chosen = load_settings(args.settings, asks, max_tokens=args.max_tokens, parser=args.parser)
    if args.endpoint and args.server_arguments:
        raise InputError(f"{args.server_arguments[0]}: a running server takes no arguments; remove them or --endpoint")
    if args.server_arguments and not args.server_arguments[0].startswith("-"):
        raise InputError(f"{args.server_arguments[0]}: expected an option, or options of the server after --")
    if args.endpoint and (chosen.min_pixels or chosen.max_pixels):
        raise InputError("min_pixels, max_pixels: expected null with --endpoint; a running server has its own")
    return chosen


def questions(args: argparse.Namespace, settings: Settings) -> list[Question]:
    """The questions that the arguments select."""
    return read_questions(args.data, args.images, args.split, args.limit, settings.sentences == "joined")


def server(args: argparse.Namespace, settings: Settings, questions: Sequence[Question]) -> AnyServer:
    count = args.servers_per_gpu
    if count < 1:
        raise InputError(f"--servers-per-gpu: expected at least 1, got {count}")
    if count > 1 and args.endpoint:
        raise InputError("--servers-per-gpu: expected 1 with --endpoint, whose server already runs")
    if args.endpoint:
        return Endpoint(args.endpoint)
    images = readable_folder(questions, args.images)
    return new_server(count, ENGINES[args.engine], args.out / "server.log", images, settings, args.server_arguments)


def load(args: argparse.Namespace) -> Load:
    if args.concurrency < 1:
        raise InputError(f"--concurrency: expected at least 1, got {args.concurrency}")
    return Load(args.concurrency, args.latency_samples, args.request_timeout, args.retry_failed)


def named(items: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` items as a dict. Raises InputError for another form and for a repeated name."""
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in values or name in (".", "..") or os.sep in name:
            raise InputError(f"{option} {item}: expected NAME=PATH, each NAME once and without {os.sep}")
        values[name] = value
    return values


def run(main: Callable[[], None]) -> None:
    """Run a command line. Bad input (exit code 2), a server error (1) and Ctrl-C (130) give a message, no traceback."""
    try:
        cli(main)
    except EngineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; rerun the command to resume", file=sys.stderr)
        sys.exit(130)
