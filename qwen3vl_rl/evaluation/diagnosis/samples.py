"""Checks of a file of samples: rejected rows, boxes in another format, sizes from before the EXIF rotation."""

from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.samples import ImageCheck
from qwen3vl_rl.data.tools.check import Expectations, check_rows
from qwen3vl_rl.data.tools.conventions import MIN_BOXES
from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.diagnosis.readings import RESIZED

WRONG_PLACE = "The boxes do not fit their pictures as the format requires. Right answers would score 0."
CONVERT = "Convert the boxes: samples need xyxy in px, SFT and RL rows need xyxy in 0..1000."
TURNED = "All stages rotate a picture by its EXIF orientation first, so these boxes would miss their objects."
TURN = "Write width, height and boxes of the rotated picture, or save the picture rotated and without EXIF."


def look_at_samples(path: Path, images: Path | None) -> Iterator[Finding]:
    """All findings about a file of samples, SFT rows or RL rows. With the folder `images`, its pictures are opened.

    Raises InputError if the file has none of our formats.
    """
    findings = check_rows(path, Expectations(ImageCheck(images) if images else None, images, set()), shown=1)
    if other := findings.conventions.other(RESIZED):
        yield Finding("coordinates", other, WRONG_PLACE, CONVERT)
    else:
        count = max(len(findings.conventions.different(in_px)) for in_px in (True, False))
        enough = "no other box format fits the pictures better"
        few = f"not checked: {count} different boxes, {MIN_BOXES} are needed"
        yield Finding("coordinates", enough if count >= MIN_BOXES else few)
    if images:
        turned = f"{findings.turned:,} of {findings.rows:,} rows give the size before the EXIF rotation"
        yield Finding("pictures", turned, *((TURNED, TURN) if findings.turned else ()))
    if not findings.rows:
        yield Finding("rows", "the file has no rows", "There is nothing to train or evaluate on.", "Check the path.")
        return
    found = f"{findings.problems:,} problems in {findings.rows:,} rows"
    see = f"List all: python -m qwen3vl_rl.data.tools.check {path}" + (f" --images {images}" if images else "")
    yield Finding("rows", found, *((f"The first: {findings.first[0]}", see) if findings.problems else ()))
