"""Ref-Adv-s: `data/train-*.parquet` (hub: dddraxxx/ref-adv-s), 1,142 expressions in images with distractors.

A row is an expression: `image` (bytes), `file_name`, `normal_caption` and `solution` (xyxy px). Several rows may share
an image. The columns are those that the project's run.py reads (dddraxxx/Ref-Adv at b6b1826). Images are written to
IMAGES/ref_adv.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.boxes import check_box_px
from qwen3vl_rl.data.layouts.embedded import add_arguments as add_arguments
from qwen3vl_rl.data.layouts.embedded import write_image
from qwen3vl_rl.data.layouts.record import Record, check_sents, skipping_bad, text
from qwen3vl_rl.data.parquet import iter_parquet

FOLDER, SPLIT = "ref_adv", "ref_adv_s"
_COLUMNS = ("image", "file_name", "normal_caption", "solution")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every expression of the files. Raises InputError naming file, row and field."""
    for path in args.files:
        for number, row in iter_parquet(path, _COLUMNS):
            with skipping_bad(args, left_out):
                name = f"{FOLDER}/{Path(text(path, number, 'file_name', row['file_name'])).name}"
                width, height = write_image(path, number, row["image"], args.images / name)
                yield Record(
                    split=SPLIT,
                    id=f"{path.stem}_{number}",
                    image=name,
                    width=width,
                    height=height,
                    xyxy_px=check_box_px(path, number, "solution", row["solution"], width, height),
                    sents=check_sents(path, number, [row["normal_caption"]]),
                )
