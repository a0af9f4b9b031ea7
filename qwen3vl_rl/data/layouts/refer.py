"""REFER: `DATASET/refs(PARTITION).p` and `DATASET/instances.json` below one folder.

This is the layout in which github.com/lichengunc/refer distributes RefCOCO, RefCOCO+ and RefCOCOg.
"""

import argparse
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.layouts.record import (
    Record,
    field,
    json_list,
    positive,
    read_json,
    refcoco_record,
    sentence_texts,
    skipping_bad,
)
from qwen3vl_rl.data.refcoco import PARTITIONS, split_name
from qwen3vl_rl.errors import InputError, row_error

FAMILY = [f"{dataset}:{partition}" for dataset, partition in PARTITIONS.items()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, help="the folder with refcoco/, refcoco+/ and refcocog/")
    parser.add_argument("--parts", nargs="+", default=FAMILY, metavar="DATASET:PARTITION", help=" ".join(FAMILY))


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every object of the chosen parts. Raises InputError naming file, row and field."""
    for part in args.parts:
        dataset, _, partition = part.partition(":")
        split_name(dataset, partition, "train")  # rejects a bad part before anything is read
        yield from _part(args, left_out, dataset, partition)


def load_pickle(path: Path) -> Any:
    """Load plain data from a pickle. A pickle that would import or call anything is rejected before it can.

    Raises InputError for a missing, broken or rejected file.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()  # written by Python 2
    except OSError as error:
        raise InputError(f"{path}: expected a pickle ({error.strerror})") from None
    except Exception as error:  # pickle does not document all exceptions that broken files raise
        raise InputError(f"{path}: expected a pickle of plain data ({type(error).__name__}: {error})") from None


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it would import {module}.{name}")


def _part(args: argparse.Namespace, left_out: Counter[str], dataset: str, partition: str) -> Iterator[Record]:
    folder = args.root / dataset
    path = folder / f"refs({partition}).p"
    images, boxes = _read_instances(folder / "instances.json")  # read first because it needs the most memory
    refs = load_pickle(path)
    if not isinstance(refs, list):
        raise InputError(f"{path}: expected a list of references, got {type(refs).__name__}")
    for number, ref in enumerate(refs, start=1):
        with skipping_bad(args, left_out):
            image, ann = field(path, number, ref, "image_id"), field(path, number, ref, "ann_id")
            if not isinstance(image, int) or image not in images:
                raise row_error(path, number, "image_id", "the id of an image in instances.json", image)
            if not isinstance(ann, int) or ann not in boxes:
                raise row_error(path, number, "ann_id", "the id of an annotation in instances.json", ann)
            own = {name: field(path, number, ref, name) for name in ("split", "ref_id")}
            known = {"dataset": dataset, "partition": partition, "bbox": boxes[ann]}
            sents = sentence_texts(path, number, ref)
            yield refcoco_record(path, number, own | known | images[image] | {"sents": sents})


def _read_instances(path: Path) -> tuple[dict[int, dict], dict[int, Any]]:
    """(file name and size of every image, box of every annotation), each by id."""
    instances = read_json(path)
    images = {
        positive(path, number, "id", field(path, number, image, "id")): {
            name: field(path, number, image, name) for name in ("file_name", "width", "height")
        }
        for number, image in enumerate(json_list(path, instances, "images"), start=1)
    }
    boxes = {
        positive(path, number, "id", field(path, number, annotation, "id")): field(path, number, annotation, "bbox")
        for number, annotation in enumerate(json_list(path, instances, "annotations"), start=1)
    }
    return images, boxes
