"""Will stage 2 fit in memory, and how long will it take? Computed from first principles.

    python -m qwen3vl_rl.plan --gpu h100 size=8b hardware=node8 [OVERRIDE OF THE RECIPE …]

The planner reads the recipe that `qwen3vl_rl.train` would run, and counts bytes and floating-point operations from the
model's shape. It divides them by what a GPU can do, times the share of it that is reached in practice
(`training/planner/constants.yaml`). Each of these constants names the measurement that it comes from, or says that it
is assumed; `benchmarks/planner/fit.py` fits them.

Nothing is started, and neither torch nor a GPU is needed. The exit code is 1 if the run does not fit. The preflight of
`qwen3vl_rl.train` uses the same memory model.
"""

import argparse

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.models.families.qwen3_vl import MERGED_PATCH_PX
from qwen3vl_rl.training import preflight
from qwen3vl_rl.training.gpus import GPUS
from qwen3vl_rl.training.memory import problems
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.report import report
from qwen3vl_rl.training.workload import PAPER_WORKLOAD, Workload, compose_recipe, read_run


def count(text: str) -> int:
    """Raises ArgumentTypeError unless `text` is an integer of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Width and height in px. Raises ArgumentTypeError unless `text` is WIDTHxHEIGHT."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or min(int(width), int(height)) < MERGED_PATCH_PX:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT of at least {MERGED_PATCH_PX} px each, got {text}")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--gpu", choices=GPUS, default="h200", help="default: h200")
    samples = f"rows of the training set (default: {PAPER_WORKLOAD.train_rows}, the paper's)"
    parser.add_argument("--samples", type=count, default=PAPER_WORKLOAD.train_rows, help=samples)
    parser.add_argument(
        "--image", type=image_size, default=PAPER_WORKLOAD.image_px, metavar="WIDTHxHEIGHT", help="default: 640x480"
    )
    tokens = f"mean length of an answer (default: {PAPER_WORKLOAD.answer_tokens}, EGM-8B's in the paper)"
    parser.add_argument("--answer-tokens", type=count, default=PAPER_WORKLOAD.answer_tokens, help=tokens)
    args = parser.parse_intermixed_args()
    constants, sources = read_constants()
    config, gpu = compose_recipe(args.overrides), GPUS[args.gpu]
    if (longest := config.data.max_response_length) < args.answer_tokens:
        raise InputError(f"--answer-tokens {args.answer_tokens}: expected at most data.max_response_length={longest}")
    preflight.check_numbers(config)
    preflight.check_lengths(config)
    if (batch := config.data.train_batch_size) > args.samples:
        raise InputError(f"data.train_batch_size={batch}: expected at most the {args.samples} of --samples")
    preflight.check_engine_flags(config)
    preflight.check_on_policy(config)
    run = read_run(config, Workload(args.image, args.answer_tokens, args.samples))
    print(report(run, gpu, constants, sources))
    if problems(run, gpu.memory_gib, constants):
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
