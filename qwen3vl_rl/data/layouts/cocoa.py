"""COCOA (COCO-Amodal): regions whose `segmentation` is the whole object and `visible_mask` the visible part.

Reads the published files (`images`, `annotations`) and files that contain one annotation. COCOA's `name` is a class
name, so it is used as the expression only if no other region of the image has the same name. `--expressions` provides
real expressions as jsonl: `image_id`, `region` (its 0-based index), `sent`. Stuff regions are left out.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from qwen3vl_rl.data.boxes import check_box_px, is_number
from qwen3vl_rl.data.jsonl import read_jsonl
from qwen3vl_rl.data.layouts.record import (
    EDGE_PX,
    Record,
    check_sents,
    clip,
    field,
    json_list,
    positive,
    read_json,
    skipping_bad,
    text,
)
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, xywh_to_xyxy

# Largest occlusion rate of each level, from the authors' evaluation (github.com/Wakeupbuddy/amodalAPI).
LEVELS = {"none": 0.00001, "partial": 0.25, "heavy": 1.0}
FOLDERS = {"train2014": "coco/train2014", "val2014": "coco/val2014"}

Expressions = Mapping[tuple[int, int], list[str]]  # by (image id, region index)


@dataclass(frozen=True, slots=True)
class Region:
    """Boxes are xyxy px; the amodal box may extend beyond the image. `modal_xyxy_px` None: no pixel is visible."""

    name: str
    is_stuff: bool
    occlude_rate: float
    amodal_xyxy_px: Box
    modal_xyxy_px: Box | None


@dataclass(frozen=True, slots=True)
class Scene:
    """One annotation: an image and its regions, in the file's order."""

    image_id: int
    file_name: str
    width: int
    height: int
    regions: tuple[Region, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="COCOA json")
    parser.add_argument("--name", required=True, help="prefix of the splits NAME_none, NAME_partial and NAME_heavy")
    parser.add_argument("--expressions", type=Path, help="jsonl of image_id, region, sent")
    parser.add_argument(
        "--outside",
        choices=("clip", "drop"),
        required=True,
        help="for amodal boxes that extend beyond the image: clip the box to the image, or drop the region",
    )


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield the regions that have an expression and are usable. Raises InputError naming file, row and field."""
    expressions = _read_expressions(args.expressions) if args.expressions else None
    seen = set()
    for path in args.files:
        for number, scene in read_scenes(path):
            for index, (region, sents) in enumerate(_with_sents(scene, expressions)):
                seen.add((scene.image_id, index))
                box = _inside(region, scene, args.outside)
                if reason := _why_not(region, sents, box):
                    left_out[reason] += 1
                    continue
                with skipping_bad(args, left_out):
                    yield _record(path, number, args.name, scene, index, sents, box)
    if unknown := sorted(set(expressions or ()) - seen):
        image_id, index = unknown[0]
        raise InputError(
            f"{args.expressions}: expected only regions of the COCOA files, got image {image_id} region {index}"
        )


def read_scenes(path: Path) -> Iterator[tuple[int, Scene]]:
    """Yield (1-based number, annotation) of a file. Raises InputError naming file, row and field."""
    whole = read_json(path)
    is_published = isinstance(whole, dict) and "annotations" in whole
    annotations = json_list(path, whole, "annotations") if is_published else [whole]
    images = json_list(path, whole, "images") if is_published else []
    by_id = {
        positive(path, number, "id", field(path, number, image, "id")): image
        for number, image in enumerate(images, start=1)
    }
    for number, annotation in enumerate(annotations, start=1):
        image_id = positive(path, number, "image_id", field(path, number, annotation, "image_id"))
        yield number, _scene(path, number, annotation, image_id, by_id.get(image_id, {}))


def occlusion_level(rate: float) -> str:
    """`none`, `partial` or `heavy`, as in COCOA's evaluation."""
    return next(level for level, most in LEVELS.items() if rate <= most)


def _with_sents(scene: Scene, expressions: Expressions | None) -> Iterator[tuple[Region, list[str]]]:
    """Yield every region with its given expressions, or else with its name if that is unique in the image."""
    shared = Counter(region.name.lower() for region in scene.regions)
    for index, region in enumerate(scene.regions):
        if expressions is not None:
            yield region, expressions.get((scene.image_id, index), [])
        else:
            yield region, [region.name] if shared[region.name.lower()] == 1 else []


def _record(path: Path, number: int, name: str, scene: Scene, index: int, sents: list[str], box: Box) -> Record:
    region, size = scene.regions[index], (scene.width, scene.height)
    return Record(
        split=f"{name}_{occlusion_level(region.occlude_rate)}",
        id=f"{name}_{scene.image_id}_{index}",
        image=f"{_folder(scene.file_name)}/{scene.file_name}",
        width=scene.width,
        height=scene.height,
        xyxy_px=check_box_px(path, number, f"regions[{index}].segmentation", box, *size),
        sents=check_sents(path, number, sents),
        modal_xyxy_px=check_box_px(path, number, f"regions[{index}].visible_mask", region.modal_xyxy_px, *size),
    )


def _scene(path: Path, number: int, annotation: dict[str, Any], image_id: int, image: dict[str, Any]) -> Scene:
    rows = field(path, number, annotation, "regions")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise row_error(path, number, "regions", "a list of objects", rows)
    width, height = _size(path, number, rows, image)
    url = text(path, number, "url", image.get("file_name") or annotation.get("url"))
    file_name = text(path, number, "url", url.rpartition("/")[2])
    return Scene(
        image_id=image_id,
        file_name=file_name,
        width=width,
        height=height,
        regions=tuple(_region(path, number, index, row, width, height) for index, row in enumerate(rows)),
    )


def _size(path: Path, number: int, rows: list[dict[str, Any]], image: dict[str, Any]) -> tuple[int, int]:
    """(width, height) in px, from the file's `images` or else from the size in the masks."""
    if image:
        size = image.get("height"), image.get("width")
    else:
        masks = (row.get("visible_mask") for row in rows)
        size = next((mask.get("size") for mask in masks if isinstance(mask, dict)), None)
        if not isinstance(size, list) or len(size) != 2:
            raise row_error(path, number, "regions", "a visible_mask with the image's [height, width]", size)
    height, width = size
    return positive(path, number, "width", width), positive(path, number, "height", height)


def _region(path: Path, number: int, index: int, row: dict[str, Any], width: int, height: int) -> Region:
    def value(name: str) -> Any:
        return field(path, number, row, name)

    rate = value("occlude_rate")
    if not is_number(rate) or not 0 <= rate <= 1:
        raise row_error(path, number, f"regions[{index}].occlude_rate", "a rate in 0..1", rate)
    amodal = _extent(path, number, f"regions[{index}].segmentation", value("segmentation"), width, height)
    if amodal is None:
        raise row_error(path, number, f"regions[{index}].segmentation", "a non-empty mask", row["segmentation"])
    visible = row.get("visible_mask")
    modal = (
        clip(amodal, width, height)
        if visible is None
        else _extent(path, number, f"regions[{index}].visible_mask", visible, width, height)
    )
    return Region(
        name=text(path, number, f"regions[{index}].name", value("name")).strip(),
        is_stuff=bool(row.get("isStuff")),
        occlude_rate=float(rate),
        amodal_xyxy_px=amodal,
        modal_xyxy_px=modal,
    )


def _extent(path: Path, number: int, name: str, mask: Any, width: int, height: int) -> Box | None:
    """The bounding box (xyxy px) of polygons or an RLE mask; None if the mask is empty."""
    if isinstance(mask, dict):
        return _rle_extent(path, number, name, mask, width, height)
    polygons = mask if isinstance(mask, list) and mask and isinstance(mask[0], list) else [mask]
    for polygon in polygons:
        is_polygon = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not is_polygon or not all(map(is_number, polygon)):
            raise row_error(path, number, name, "polygons of at least three points, or an RLE mask", polygon)
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _rle_extent(path: Path, number: int, name: str, mask: dict[str, Any], width: int, height: int) -> Box | None:
    counts, size = mask.get("counts"), mask.get("size")
    if size != [height, width] or not isinstance(counts, str | list):
        raise row_error(path, number, name, f"an RLE mask of size {[height, width]}", mask)
    try:
        rle = coco_mask.frPyObjects(mask, height, width) if isinstance(counts, list) else mask
        box = coco_mask.toBbox(rle).tolist()
    except (TypeError, ValueError, OverflowError) as error:
        raise row_error(path, number, name, f"an RLE mask ({error})", mask) from None
    x1, y1, x2, y2 = xywh_to_xyxy(tuple(box))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _inside(region: Region, scene: Scene, outside: str) -> Box | None:
    """The amodal box clipped to the image; None if it is dropped (`outside`), or if no part of it is inside."""
    box = clip(region.amodal_xyxy_px, scene.width, scene.height)
    overshoot_px = max(abs(a - b) for a, b in zip(box, region.amodal_xyxy_px, strict=True))
    if box[0] >= box[2] or box[1] >= box[3] or (outside == "drop" and overshoot_px > EDGE_PX):
        return None
    return box


def _why_not(region: Region, sents: list[str], box: Box | None) -> str | None:
    if region.is_stuff:
        return "stuff"
    if not sents:
        return "no unique expression"
    if region.modal_xyxy_px is None:
        return "no visible part"
    return "amodal box extends beyond the image" if box is None else None


def _folder(file_name: str) -> str:
    """The folder that COCO's archives unpack an image to, from its name `COCO_val2014_…`."""
    return next((folder for part, folder in FOLDERS.items() if part in file_name), "coco")


def _read_expressions(path: Path) -> Expressions:
    expressions = defaultdict(list)
    for number, row in enumerate(read_jsonl(path), start=1):
        image_id = positive(path, number, "image_id", field(path, number, row, "image_id"))
        region = field(path, number, row, "region")
        if type(region) is not int or region < 0:
            raise row_error(path, number, "region", "the 0-based index of a region", region)
        expressions[image_id, region] += check_sents(path, number, [field(path, number, row, "sent")])
    return dict(expressions)
