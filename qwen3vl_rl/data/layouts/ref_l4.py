"""Ref-L4's expressions: `ref-l4-val.parquet` and `ref-l4-test.parquet` (hub: JierunChen/Ref-L4, CC BY-NC 4.0).

A row is an expression: `id`, `caption`, `bbox` (xywh px), `width`, `height` and `file_name`. Unpack the project's
images.tar.gz, which has no subfolders, to IMAGES/ref_l4. The columns and counts are taken from the project's dataset
card: of 45,341 rows, 13,420 are val.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.layouts.record import Record, check_sents, coco_box_px, field, positive, skipping_bad, text
from qwen3vl_rl.data.parquet import iter_parquet

FOLDER = "ref_l4"
_COLUMNS = ("id", "caption", "bbox", "width", "height", "file_name", "split")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="ref-l4-*.parquet")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every expression of the files. Raises InputError naming file, row and field."""
    for path in args.files:
        for number, row in iter_parquet(path, _COLUMNS):
            with skipping_bad(args, left_out):
                width, height = (positive(path, number, side, row[side]) for side in ("width", "height"))
                yield Record(
                    split=f"ref_l4_{text(path, number, 'split', row['split'])}",
                    id=f"ref_l4_{field(path, number, row, 'id')}",
                    image=f"{FOLDER}/{Path(text(path, number, 'file_name', row['file_name'])).name}",
                    width=width,
                    height=height,
                    xyxy_px=coco_box_px(path, number, "bbox", row["bbox"], width, height),
                    sents=check_sents(path, number, [row["caption"]]),
                )
