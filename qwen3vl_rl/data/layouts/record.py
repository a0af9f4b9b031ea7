"""`Record`, which all layouts are converted to, and the checks that the layouts share."""

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

COCO_TRAIN_FOLDER = "coco/train2014"  # where the released archive puts the images of the RefCOCO family
# Our choice: COCO rounds to hundredths, so a box may slightly exceed its image. Beyond this it is rejected.
EDGE_PX = 1.0
BAD = "bad records (--skip-bad)"


@dataclass(frozen=True, slots=True)
class Record:
    """One object with all its expressions. Boxes are xyxy px.

    `split` names the file that its samples are written to. `xyxy_px` None: nothing in the image fits the expressions.
    """

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
    """With `--skip-bad`, count a bad record instead of raising its InputError. The first error is printed."""
    try:
        yield
    except InputError as error:
        if not args.skip_bad:
            raise
        if not left_out[BAD]:
            print(f"first bad record, left out: {error}")
        left_out[BAD] += 1


def refcoco_record(path: Path, number: int, ref: Mapping[str, Any]) -> Record:
    """The record of one RefCOCO object.

    `ref` has the fields `dataset`, `partition`, `split`, `ref_id`, `file_name`, `width`, `height`, `bbox` (COCO's xywh
    px) and `sents`. Raises InputError naming file, row and field.
    """
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
    """COCO's xywh px as xyxy px rounded to hundredths. A box that exceeds the image by at most `EDGE_PX` is clipped."""
    if not isinstance(xywh_px, list | tuple) or len(xywh_px) != 4 or not all(map(is_number, xywh_px)):
        raise row_error(path, number, field, "four numbers, xywh in px", xywh_px)
    x1, y1, x2, y2 = (round(v, 2) for v in xywh_to_xyxy(tuple(xywh_px)))
    if min(x1, y1) < -EDGE_PX or x2 > width + EDGE_PX or y2 > height + EDGE_PX:
        raise row_error(path, number, field, f"a box inside the {width}x{height} image, xywh in px", xywh_px)
    return check_box_px(path, number, field, clip((x1, y1, x2, y2), width, height), width, height)


def clip(xyxy_px: Box, width: int, height: int) -> Box:
    """The part of a box that lies inside the image."""
    x1, y1, x2, y2 = xyxy_px
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def check_sents(path: Path, number: int, value: Any) -> tuple[str, ...]:
    """The expressions of a record, stripped. Raises InputError for an empty list or an empty expression."""
    if not isinstance(value, list | tuple) or not value:
        raise row_error(path, number, "sentences", "a list of expressions", value)
    for sent in value:
        check_sent(path, number, "sentences", sent)
        if not _is_unicode(sent):
            raise row_error(path, number, "sentences", "text without lone surrogates", sent)
    return tuple(sent.strip() for sent in value)


def sentence_texts(path: Path, number: int, ref: Mapping[str, Any]) -> list[Any]:
    """The `sent` of each of a REFER reference's `sentences`. Raises InputError if they are not a list of objects."""
    sentences = field(path, number, ref, "sentences")
    if not isinstance(sentences, list):
        raise row_error(path, number, "sentences", "a list of objects with the field sent", sentences)
    return [field(path, number, sentence, "sent") for sentence in sentences]


def positive(path: Path, number: int, name: str, value: Any) -> int:
    """Return `value` if it is a positive integer. Raises InputError otherwise."""
    if type(value) is not int or value <= 0:
        raise row_error(path, number, name, "a positive integer", value)
    return value


def text(path: Path, number: int, name: str, value: Any) -> str:
    """Return `value` if it is a non-empty string without NUL. Raises InputError otherwise."""
    if type(value) is not str or not value or "\0" in value:
        raise row_error(path, number, name, "a non-empty string", value)
    return value


def field(path: Path, number: int, row: Any, name: str) -> Any:
    """Return `row[name]`. Raises InputError if `row` is not an object or lacks the field."""
    if not isinstance(row, dict):
        raise row_error(path, number, name, "an object with this field", row)
    if name not in row:
        raise row_error(path, number, name, f"this field in addition to {', '.join(map(str, row))}", None)
    return row[name]


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError if it is missing or broken."""
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected a JSON file ({error.strerror})") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: expected JSON ({error})") from None


def json_list(path: Path, whole: Any, name: str) -> list[Any]:
    """Return the list `whole[name]` of a JSON file. Raises InputError if there is none."""
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
