"""The RL validation parquet, drawn from the RefCOCO evaluation files.

    python -m qwen3vl_rl.data.tools.rl_val --val-dir DIR --images DIR --choice clean --out val_grounding.parquet

`clean` (recommended) takes a tenth of each of the three val splits, so that no checkpoint is picked on test data.
`released` takes a tenth of each of all eight files, test splits included, as the release does; which rows, only the
release's own file knows, as its draw is not published: seed and share are the same.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.parquet import add_image_arguments, add_prompts_argument
from qwen3vl_rl.data.refcoco import EVAL_SPLITS, VAL_SPLITS
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample, check_images, read_samples
from qwen3vl_rl.errors import InputError, cli

CHOICES = {"clean": VAL_SPLITS, "released": EVAL_SPLITS}
SHARE, SEED = 0.1, 42  # of the released recipe


def draw_validation(val_dir: Path, choice: str, images: Path | None) -> Iterator[Sample]:
    """A tenth of each file of the choice, in the file's order, never fewer than one sample.

    `images`: the folder to look the drawn samples' images up in. Raises InputError for a missing or bad file or image.
    """
    for split in CHOICES[choice]:
        path = val_dir / f"{split}.jsonl"
        located = [(path, number, sample) for number, sample in enumerate(read_samples(path), start=1)]
        if not located:
            raise InputError(f"{path}: expected at least one sample, found none")
        drawn = random.Random(SEED).sample(range(len(located)), max(1, int(SHARE * len(located))))
        chosen = [located[index] for index in sorted(drawn)]
        if images:
            check_images(chosen, images)
        yield from (sample for _, _, sample in chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val-dir", type=Path, required=True, help="holds refcoco_val.jsonl and so on")
    parser.add_argument("--choice", choices=tuple(CHOICES), default="clean")
    add_image_arguments(parser)
    add_prompts_argument(parser)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    samples = draw_validation(args.val_dir, args.choice, args.images if args.check_images else None)
    print(f"{args.out}: {write_rl_parquet(args.out, samples, 'test', args.images, args.prompts)} rows")


if __name__ == "__main__":
    cli(main)
