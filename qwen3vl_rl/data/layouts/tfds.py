"""TensorFlow Datasets' `ref_coco`: its `refcoco.json`, or jsonl with one object per line.

TFDS's manual preparation writes `refcoco.json`: `ref` (REFER's references with `ann`, `dataset`, `dataset_partition`)
and `coco_anns` (by image id: `info`). A line of the jsonl has `dataset`, `split_by`, `split`, `ref_id`, `file_name`,
`width`, `height`, `bbox_xywh` (px) and `sentences`.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.layouts.record import (
    Record,
    field,
    json_list,
    read_json,
    refcoco_record,
    sentence_texts,
    skipping_bad,
)
from qwen3vl_rl.errors import row_error

_NAMES = {"partition": "split_by", "bbox": "bbox_xywh", "sents": "sentences"}
_FIELDS = ("dataset", "partition", "split", "ref_id", "file_name", "width", "height", "bbox", "sents")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="refcoco.json or jsonl")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every object of every partition. Raises InputError naming file, row and field."""
    for path in args.files:
        yield from (_from_json if path.suffix == ".json" else _from_jsonl)(path, args, left_out)


def _from_jsonl(path: Path, args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    for number, line in iter_lines(path):
        with skipping_bad(args, left_out):
            row = parse_line(path, number, line)
            ref = {name: field(path, number, row, _NAMES.get(name, name)) for name in _FIELDS}
            yield refcoco_record(path, number, ref)


def _from_json(path: Path, args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    whole = read_json(path)
    refs, images = json_list(path, whole, "ref"), field(path, 1, whole, "coco_anns")
    for number, ref in enumerate(refs, start=1):
        with skipping_bad(args, left_out):
            image_id = str(field(path, number, ref, "image_id"))
            if not isinstance(images, dict) or image_id not in images:
                raise row_error(path, number, "image_id", "the id of an image in coco_anns", image_id)
            info = field(path, number, images[image_id], "info")
            yield refcoco_record(
                path,
                number,
                {name: field(path, number, info, name) for name in ("file_name", "width", "height")}
                | {name: field(path, number, ref, name) for name in ("dataset", "split", "ref_id")}
                | {
                    "partition": field(path, number, ref, "dataset_partition"),
                    "bbox": field(path, number, field(path, number, ref, "ann"), "bbox"),
                    "sents": sentence_texts(path, number, ref),
                },
            )
