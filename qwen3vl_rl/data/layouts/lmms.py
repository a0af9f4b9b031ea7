"""The parquet files of `lmms-lab-encoder/RefCOCO`, `RefCOCOplus` and `RefCOCOg` on the hub, formerly `lmms-lab/…`.

A row is one object: `image` (bytes; only its size is read), `answer` (its expressions), `bbox` (xywh px) and
`file_name`, which is COCO's name followed by the annotation's number. The part of a file's name before the first
hyphen is its split. Check the counts: the hub's RefCOCO `val` has 8,811 objects, while unc has 3,811.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.layouts.embedded import image_size
from qwen3vl_rl.data.layouts.record import Record, refcoco_record, skipping_bad, text
from qwen3vl_rl.data.parquet import iter_parquet
from qwen3vl_rl.data.refcoco import PARTITIONS

_ANNOTATION_NUMBER = re.compile(r"_\d+(?=\.\w+$)")
_COLUMNS = ("question_id", "image", "answer", "bbox", "file_name")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=tuple(PARTITIONS), required=True)
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="SPLIT-*.parquet")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every object of the files. Raises InputError naming file, row and field."""
    for path in args.files:
        split = path.name.partition("-")[0]
        for number, row in iter_parquet(path, _COLUMNS):
            with skipping_bad(args, left_out):
                width, height = image_size(path, number, row["image"])
                yield refcoco_record(
                    path,
                    number,
                    {
                        "dataset": args.dataset,
                        "partition": PARTITIONS[args.dataset],
                        "split": split,
                        "ref_id": row["question_id"],
                        "file_name": _coco_name(text(path, number, "file_name", row["file_name"])),
                        "width": width,
                        "height": height,
                        "bbox": row["bbox"],
                        "sents": row["answer"],
                    },
                )


def _coco_name(file_name: str) -> str:
    """`COCO_train2014_000000581857_16.jpg` without the annotation's number."""
    stem = _ANNOTATION_NUMBER.sub("", file_name)
    return stem if re.search(r"\d{12}\.", stem) else file_name
