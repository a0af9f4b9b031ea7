"""ReferItGame (RefCLEF): `referit_query_SPLIT.json`, `referit_bbox.json` and `referit_imsize.json` in one folder.

Its boxes include their last row and column of pixels. Our right and bottom edges are exclusive, so 1 is added.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.boxes import check_box_px, is_number
from qwen3vl_rl.data.layouts.record import Record, check_sents, positive, read_json, skipping_bad
from qwen3vl_rl.errors import InputError, row_error

_IMAGE_FOLDER = "saiapr_tc-12"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="the folder with these files")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every region of the three splits. Raises InputError naming file, row and field."""
    bboxes = _read_object(args.folder / "referit_bbox.json")
    sizes = _read_object(args.folder / "referit_imsize.json")
    for split in ("train", "val", "test"):
        path = args.folder / f"referit_query_{split}.json"
        for number, (region, sents) in enumerate(_read_object(path).items(), start=1):
            with skipping_bad(args, left_out):
                image = f"{region.rpartition('_')[0]}.jpg"
                size = sizes.get(image)
                if not isinstance(size, list) or len(size) != 2:
                    raise row_error(path, number, region, f"[width, height] of {image} in referit_imsize.json", size)
                width, height = (positive(path, number, region, side) for side in size)
                yield Record(
                    split=f"referit_{split}",
                    id=f"referit_{region}",
                    image=f"{_IMAGE_FOLDER}/{image}",
                    width=width,
                    height=height,
                    xyxy_px=_box_px(path, number, region, bboxes.get(region), width, height),
                    sents=check_sents(path, number, sents),
                )


def _box_px(path: Path, number: int, region: str, box: Any, width: int, height: int):
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise row_error(path, number, region, "four numbers for this region in referit_bbox.json", box)
    x1, y1, last_x, last_y = box
    return check_box_px(path, number, region, (x1, y1, last_x + 1, last_y + 1), width, height)


def _read_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected an object whose keys are regions or images, got {type(found).__name__}")
    return found
