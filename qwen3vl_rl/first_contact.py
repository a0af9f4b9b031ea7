"""Check a new checkpoint: does it hold what this project assumes, and does it answer as it should?

    python -m qwen3vl_rl.first_contact MODEL                                      # only its files, no GPU
    python -m qwen3vl_rl.first_contact MODEL --data refcoco_val.jsonl --images DIR  # and its answers to 100 questions

MODEL is a folder or a name on the Hugging Face hub. Each finding says what it means and what to change. `--data` starts
an engine, compares its log-probabilities with those of transformers, and writes predictions and report to OUT/NAME. All
arguments after `--` go to the engine's server. The exit code is 1 if something needs attention.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.data.openai_client import RequestFailed
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.diagnosis import NEEDS_ATTENTION, Finding, logprobs, show
from qwen3vl_rl.evaluation.diagnosis.answers import judge
from qwen3vl_rl.evaluation.diagnosis.checkpoint import look, published_size
from qwen3vl_rl.evaluation.reporting.report import write_report
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.scoring.results import read_result
from qwen3vl_rl.evaluation.serving.checkpoints import fingerprint, resolve_checkpoint
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.predict import Target
from qwen3vl_rl.evaluation.serving.questions import read_questions, readable_folder
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.models.families import read_shape


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.first_contact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("--data", nargs="+", type=Path, help="evaluation jsonl files, one per split, or folders of them")
    add("--images", type=Path, help="the folder that image paths are relative to")
    add("--samples", type=int, default=100, metavar="N", help="questions of each split (default: 100)")
    add("--max-tokens", type=int, help="of reasoning and answer (recipe: 4096)")
    add("--engine", choices=ENGINES, default="vllm")
    add("--out", type=Path, default=Path("outputs/first_contact"))
    add("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT", help="further arguments of the server")
    args = parser.parse_args(arguments)
    if bool(args.data) != bool(args.images):
        raise InputError("--data, --images: expected both or neither")
    return args


def run_name(args: argparse.Namespace, checkpoint: Path) -> str:
    """A name that changes with the checkpoint and the way to serve it, so that a repaired one is asked again."""
    served = f"{sorted(fingerprint(checkpoint).items())} {args.engine} {args.max_tokens} {args.server_arguments}"
    return f"{Path(args.model).name}-{hashlib.sha256(served.encode()).hexdigest()[:8]}"


def answers(args: argparse.Namespace, checkpoint: Path) -> Iterator[Finding]:
    """Start an engine, ask the checkpoint, and judge its answers."""
    settings = load_settings(max_tokens=args.max_tokens)
    questions = read_questions(args.data, args.images, limit=args.samples)
    folder = args.out / run_name(args, checkpoint)
    log, images = folder / "server.log", readable_folder(questions, args.images)
    with alone_in(folder), Server(ENGINES[args.engine], log, images, settings, args.server_arguments) as server:
        run = Run(folder, str(checkpoint), questions, settings, server)
        run.complete(args.images, Load(concurrency=64))
        name = server.load(str(checkpoint))
        target = Target(server.urls, name, args.images, server.by_path, settings)
        try:
            asked = logprobs.ask(target, questions)
        except RequestFailed as failure:
            print(f"no log-probabilities: {failure}", file=sys.stderr)
            asked = []
    yield logprobs.compare(checkpoint, asked, args.images, settings)
    yield from judge(read_predictions(folder / "predictions.jsonl"), published_size(read_shape(checkpoint)))
    report = write_report(folder / "report.html", [read_result(folder)], args.images, {})
    print(f"report: {report}")


def main() -> None:
    args = parse_args()
    checkpoint = resolve_checkpoint(args.model)
    open_ones = show(look(checkpoint))
    if args.data:
        open_ones += show(answers(args, checkpoint))
    if open_ones:
        print(f"{open_ones} findings need attention" if open_ones > 1 else "1 finding needs attention")
        sys.exit(NEEDS_ATTENTION)
    print("nothing needs attention")


if __name__ == "__main__":
    command.run(main)
