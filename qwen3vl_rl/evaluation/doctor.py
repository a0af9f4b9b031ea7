"""Find out why the IoU is zero: check answers or data files, and print what is wrong and how to fix it.

    python -m qwen3vl_rl.evaluation.doctor OUT/rl/predictions.jsonl                 answers (or OUT/rl)
    python -m qwen3vl_rl.evaluation.doctor refcoco_val.jsonl train.parquet --images DIR     samples, SFT and RL rows

Answers are scored again in other box formats (px, 0..1, 0..1000, px of the picture as a family of models resizes it;
xyxy, xywh, yxyx, centre boxes; before the EXIF rotation). If they are right in another format, the model writes that
one. The doctor also reports answers that are cut off, contain no box, or never close their reasoning. Boxes of samples
are compared with the sizes of their pictures. The exit code is 1 if something needs attention.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.entries import holds_predictions
from qwen3vl_rl.data.predictions import read_predictions
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.diagnosis import NEEDS_ATTENTION, Finding, show
from qwen3vl_rl.evaluation.diagnosis.answers import judge
from qwen3vl_rl.evaluation.diagnosis.samples import look_at_samples
from qwen3vl_rl.evaluation.scoring.results import PREDICTIONS


def look(path: Path, images: Path | None) -> Iterator[Finding]:
    """All findings about a file. Raises InputError if its format is unknown or a row of answers is malformed."""
    if path.is_dir():
        path = path / PREDICTIONS
    if holds_predictions(path):
        yield from judge(read_predictions(path), images=images)
    else:
        yield from look_at_samples(path, images)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.evaluation.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    formats = "predictions.jsonl, samples, SFT rows or RL rows (jsonl or parquet)"
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=formats)
    parser.add_argument("--images", type=Path, help="the folder that image paths are relative to")
    args = parser.parse_args()
    if args.images and not args.images.is_dir():
        raise InputError(f"--images {args.images}: expected a folder")
    problems = 0
    for path in args.files:
        print(path)
        problems += show(look(path, args.images))
    if problems:
        sys.exit(NEEDS_ATTENTION)


if __name__ == "__main__":
    cli(main)
