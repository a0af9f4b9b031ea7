"""What every layout is read into, and the checks that all layouts share."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from qwen3vl_rl.data.boxes import check_box_px, is_number
from qwen3vl_rl.data.expressions import check_sent
from qwen3vl_rl.data.refcoco import split_name
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, xywh_to_xyxy

COCO_TRAIN_FOLDER = "coco/train2014"  # where the released archive unpacks the images of the RefCOCO family
# COCO rounds to hundredths, so a box may end a little outside its image; further out it is wrong. Ours.
EDGE_PX = 1.0
BAD = "bad records (--skip-bad)"


@dataclass(frozen=True, slots=True)
class Record:
    """One object with all expressions for it. `split` names the file that its samples go to; boxes are xyxy px.
    `xyxy_px` None: nothing in the image fits the expressions."""

    split: str
    id: str
    image: str
    width: int
    height: int
    xyxy_px: Box | None
    sents: tuple[str, ...]
    modal_xyxy_px: Box | None = None

    def samples(self) -> Iterator[Sample]:
        """One sample per expression, with ids `{id}_0`, `{id}_1`, …"""
        for k, sent in enumerate(self.sents):
            yield Sample(f"{self.id}_{k}", self.image, self.width, self.height, sent, self.xyxy_px, self.modal_xyxy_px)


@contextmanager
def skipping_bad(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[None]:
    """With `--skip-bad`, count a record that is wrong instead of raising its InputError."""
    try:
        yield
    except InputError as error:
        if not args.skip_bad:
            raise
        if not left_out[BAD]:
            print(f"left out, as others may be: {error}")
        left_out[BAD] += 1


def refcoco_record(path: Path, number: int, ref: Mapping[str, Any]) -> Record:
    """The record of one RefCOCO object: `dataset`, `partition`, `split`, `ref_id`, `file_name`, `width`, `height`,
    `bbox` (COCO's xywh px) and `sents`. Raises InputError naming file, row and field."""
    try:
        split = split_name(ref["dataset"], ref["partition"], ref["split"])
    except InputError as error:
        raise InputError(f"{path}: row {number}: {error}") from None
    width, height = (positive(path, number, name, ref[name]) for name in ("width", "height"))
    return Record(
        split=split,
        id=f"{split}_{ref['ref_id']}",
        image=f"{COCO_TRAIN_FOLDER}/{text(path, number, 'file_name', ref['file_name'])}",
        width=width,
        height=height,
        xyxy_px=coco_box_px(path, number, "bbox", ref["bbox"], width, height),
        sents=check_sents(path, number, ref["sents"]),
    )


def coco_box_px(path: Path, number: int, field: str, xywh_px: Any, width: int, height: int) -> Box:
    """COCO's xywh as xyxy in hundredths of a px; what ends up to `EDGE_PX` outside the image is clipped."""
    if not isinstance(xywh_px, list | tuple) or len(xywh_px) != 4 or not all(map(is_number, xywh_px)):
        raise row_error(path, number, field, "four numbers, xywh in px", xywh_px)
    x1, y1, x2, y2 = (round(v, 2) for v in xywh_to_xyxy(tuple(xywh_px)))
    if min(x1, y1) < -EDGE_PX or x2 > width + EDGE_PX or y2 > height + EDGE_PX:
        raise row_error(path, number, field, f"xywh px inside the {width}x{height} image", xywh_px)
    return check_box_px(path, number, field, clip((x1, y1, x2, y2), width, height), width, height)


def clip(xyxy_px: Box, width: int, height: int) -> Box:
    """The part of a box that lies inside the image."""
    x1, y1, x2, y2 = xyxy_px
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def check_sents(path: Path, number: int, value: Any) -> tuple[str, ...]:
    """The expressions of a record, without space around them. Raises InputError for none, or an empty one."""
    if not isinstance(value, list | tuple) or not value:
        raise row_error(path, number, "sentences", "a list of expressions", value)
    for sent in value:
        check_sent(path, number, "sentences", sent)
        if not _is_unicode(sent):
            raise row_error(path, number, "sentences", "text without lone surrogates", sent)
    return tuple(sent.strip() for sent in value)


def sentence_texts(path: Path, number: int, ref: Mapping[str, Any]) -> list[Any]:
    """The `sent` of each of a REFER reference's `sentences`. Raises InputError where that is no list of objects."""
    sentences = field(path, number, ref, "sentences")
    if not isinstance(sentences, list):
        raise row_error(path, number, "sentences", "a list of objects with sent", sentences)
    return [field(path, number, sentence, "sent") for sentence in sentences]


def positive(path: Path, number: int, name: str, value: Any) -> int:
    """`value` where it is a positive integer, else an InputError."""
    if type(value) is not int or value <= 0:
        raise row_error(path, number, name, "a positive integer", value)
    return value


def text(path: Path, number: int, name: str, value: Any) -> str:
    """`value` where it is a text, else an InputError."""
    if type(value) is not str or not value or "\0" in value:
        raise row_error(path, number, name, "a text", value)
    return value


def field(path: Path, number: int, row: Any, name: str) -> Any:
    """`row[name]`. Raises InputError where `row` is no object or lacks it."""
    if not isinstance(row, dict):
        raise row_error(path, number, name, "an object with this field", row)
    if name not in row:
        raise row_error(path, number, name, f"this field beside {', '.join(map(str, row))}", None)
    return row[name]


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises InputError where it is missing or broken."""
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected a JSON file ({error.strerror})") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: expected JSON ({error})") from None


def json_list(path: Path, whole: Any, name: str) -> list[Any]:
    """The list `whole[name]` of a JSON file. Raises InputError where there is none."""
    found = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(found, list):
        raise InputError(f'{path}: field "{name}": expected a list, got {type(found).__name__}')
    return found


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
