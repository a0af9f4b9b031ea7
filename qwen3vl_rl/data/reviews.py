"""Published reviews of the RefCOCO splits, which mark rows as right or wrong. Users provide the files.

- Ref-L4's `refcocos_annotation_reviewed/SPLIT_reviewed.json` (hub: JierunChen/Ref-L4 at d62c4f4, CC BY-NC 4.0):
  each expression has one image entry with its `caption`, and one annotation; `bbox` is xywh px, `caption_quality` is 0
  if the expression is wrong.
- RefCOCO-M's `validation-*.parquet` (hub: moondream/refcoco-m, MIT): RefCOCO val without the objects whose masks could
  not be corrected; a row is an image, `samples` lists its objects with `sentences` and `bbox` (xywh px).

The layouts were taken from the projects' documentation and from programs that read the files (inlmouse/MACH at
2979536, AlanAkillove/calibrated-candidate-grounding at 7feaa68), not from the files.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.boxes import is_box
from qwen3vl_rl.data.entries import image_key
from qwen3vl_rl.data.layouts.record import field as field_of
from qwen3vl_rl.data.layouts.record import json_list, read_json, text
from qwen3vl_rl.data.parquet import iter_parquet, open_parquet
from qwen3vl_rl.data.refcoco import EVAL_SPLITS
from qwen3vl_rl.data.samples import letters
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, iou, xywh_to_xyxy

REF_L4, REFCOCO_M = "Ref-L4", "RefCOCO-M"
REVIEWED = "_reviewed"  # suffix of the stem of Ref-L4's files
REVIEWED_HELP = "Ref-L4's SPLIT_reviewed.json or RefCOCO-M's parquet: also score only the rows that they mark as right"
SAME_OBJECT_IOU = 0.5  # our choice: RefCOCO-M's boxes may follow its new masks
_COLUMNS = ("file_name", "samples")

Key = tuple[str, str]  # key of an image, and the letters and digits of an expression


@dataclass
class Review:
    """One project's review of one split. `rows`: (box in xyxy px, whether it is right), by image and expression."""

    name: str
    split: str
    rows: dict[Key, list[tuple[Box, bool]]] = field(default_factory=lambda: defaultdict(list))

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def judge(self, samples: Iterable[tuple[str, str, Box]]) -> list[bool | None]:
        """Whether each sample (image, expression, xyxy px) is right; None if the review has no row for it.

        Each row of the review is used for one sample. A sample takes the unused row whose box is nearest.
        """
        left = {key: list(rows) for key, rows in self.rows.items()}
        return [_judge(left.get(key(image, sent), []), box) for image, sent, box in samples]


def _judge(left: list[tuple[Box, bool]], xyxy_px: Box) -> bool | None:
    ious = [iou(box, xyxy_px) for box, _ in left]
    best = max(range(len(left)), key=ious.__getitem__, default=None)
    return left.pop(best)[1] if best is not None and ious[best] > SAME_OBJECT_IOU else None


def key(image: str, sent: str) -> Key:
    return image_key(image), letters(sent)


def read_reviews(paths: Sequence[Path]) -> list[Review]:
    """Read the reviews in these files, merged by project and split. Raises InputError naming file and row."""
    reviews: dict[tuple[str, str], Review] = {}
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("--reviewed: expected each file only once")
    for path in paths:
        name, split, read = _layout(path)
        review = reviews.setdefault((name, split), Review(name, split))
        for image, sent, box, is_right in read(path):
            review.rows[key(Path(image).name, sent)].append((box, is_right))
    return list(reviews.values())


def _layout(path: Path) -> tuple[str, str, Any]:
    split = path.stem.removesuffix(REVIEWED)
    if path.suffix == ".json" and path.stem.endswith(REVIEWED) and split in EVAL_SPLITS:
        return REF_L4, split, _ref_l4
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if not missing:
            return REFCOCO_M, "refcoco_val", _refcoco_m
    expected = "Ref-L4's SPLIT_reviewed.json, or RefCOCO-M's validation-*.parquet with file_name and samples"
    raise InputError(f"{path}: expected {expected}")


def _ref_l4(path: Path) -> Iterator[tuple[str, str, Box, bool]]:
    whole = read_json(path)
    listed = enumerate(json_list(path, whole, "images"), start=1)
    images = {_id(path, number, image, "id"): image for number, image in listed}
    for number, annotation in enumerate(json_list(path, whole, "annotations"), start=1):
        image = images.get(_id(path, number, annotation, "image_id"))
        if image is None:
            raise row_error(path, number, "image_id", "the id of an entry in images", annotation["image_id"])
        quality = field_of(path, number, annotation, "caption_quality")
        if quality not in (0, 1, "0", "1"):
            raise row_error(path, number, "caption_quality", "0 or 1", quality)
        names = (text(path, number, name, field_of(path, number, image, name)) for name in ("file_name", "caption"))
        yield *names, _box(path, number, annotation), bool(int(quality))


def _refcoco_m(path: Path) -> Iterator[tuple[str, str, Box, bool]]:
    for number, row in iter_parquet(path, _COLUMNS):
        image = text(path, number, "file_name", row["file_name"])
        if not isinstance(row["samples"], list):
            raise row_error(path, number, "samples", "a list of objects", row["samples"])
        for found in row["samples"]:
            box = _box(path, number, found)
            sents = field_of(path, number, found, "sentences")
            if not isinstance(sents, list):
                raise row_error(path, number, "sentences", "a list of expressions", sents)
            for sent in sents:
                yield image, text(path, number, "sentences", sent), box, True


def _id(path: Path, number: int, row: Any, name: str) -> int:
    value = field_of(path, number, row, name)
    if type(value) is not int:
        raise row_error(path, number, name, "an integer", value)
    return value


def _box(path: Path, number: int, row: dict[str, Any]) -> Box:
    box = field_of(path, number, row, "bbox")
    if not is_box(box):
        raise row_error(path, number, "bbox", "four numbers, xywh in px", box)
    x, y, width, height = box
    return xywh_to_xyxy((x, y, width, height))
