"""Draw the RL validation parquet from the RefCOCO evaluation files.

    python -m qwen3vl_rl.data.tools.rl_val --val-dir DIR --images DIR --choice clean --out val_grounding.parquet

`clean` (recommended) draws a tenth of each of the three val splits, so that no checkpoint is selected on test data.
`released` draws the rows of the released file, in its order: a tenth of each of the eight files, including test splits.
As in that file, true boxes are not rounded, ids are left out, and `question` is the plain expression.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from qwen3vl_rl.data.parquet import Located, add_image_arguments, add_no_referent_argument, add_prompts_argument
from qwen3vl_rl.data.refcoco import VAL_SPLITS
from qwen3vl_rl.data.rl_rows import write_released_validation, write_rl_parquet
from qwen3vl_rl.data.samples import Sample, check_images, read_samples
from qwen3vl_rl.errors import InputError, cli

# The order in which the released code reads its files. One random generator draws from all of them.
RELEASED_ORDER = (
    *("refcoco_testA", "refcoco_testB", "refcoco+_testA", "refcoco+_testB"),
    *("refcoco+_val", "refcocog_val", "refcocog_test", "refcoco_val"),
)
CHOICES = {"clean": VAL_SPLITS, "released": RELEASED_ORDER}
SHARE, SEED = 0.1, 42  # of the released recipe


def draw_released(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(file, 0-based row) as the released code draws them from files of these lengths, at least one per file."""
    rng = np.random.default_rng(SEED)
    drawn = [
        (file, int(row)) for file, count in enumerate(counts) for row in rng.permutation(count)[: _share_of(count)]
    ]
    return [drawn[index] for index in rng.permutation(len(drawn))]


def draw_clean(counts: Sequence[int]) -> list[tuple[int, int]]:
    """(file, 0-based row), sorted by file and row."""
    return [
        (file, row)
        for file, count in enumerate(counts)
        for row in sorted(random.Random(SEED).sample(range(count), _share_of(count)))
    ]


def _share_of(count: int) -> int:
    return max(1, int(SHARE * count))


def draw_validation(val_dir: Path, choice: str, images: Path | None, no_referent: bool = False) -> Iterator[Sample]:
    """Yield the samples drawn from the files of a choice.

    `images`: the folder in which to check the images of the drawn samples; None skips this check. Raises InputError
    for a missing or bad file or image.
    """
    files = [_read(val_dir / f"{split}.jsonl", no_referent) for split in CHOICES[choice]]
    draw = draw_released if choice == "released" else draw_clean
    chosen = [files[file][row] for file, row in draw([*map(len, files)])]
    if images:
        check_images(chosen, images)
    yield from (sample for _, _, sample in chosen)


def _read(path: Path, no_referent: bool) -> list[Located]:
    located = [(path, number, sample) for number, sample in enumerate(read_samples(path, no_referent), start=1)]
    if not located:
        raise InputError(f"{path}: expected at least one sample, found none")
    return located


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val-dir", type=Path, required=True, help="the folder with refcoco_val.jsonl etc.")
    parser.add_argument("--choice", choices=tuple(CHOICES), default="clean")
    add_image_arguments(parser)
    add_prompts_argument(parser)
    add_no_referent_argument(parser)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.choice == "released" and args.no_referent:
        raise InputError("--choice released: expected no --no-referent, because the release has no such rows")
    images = args.images if args.check_images else None
    samples = draw_validation(args.val_dir, args.choice, images, args.no_referent)
    if args.choice == "released":
        count = write_released_validation(args.out, samples, args.images)
    else:
        count = write_rl_parquet(args.out, samples, "test", args.images, args.prompts)
    print(f"{args.out}: {count} rows")


if __name__ == "__main__":
    cli(main)
