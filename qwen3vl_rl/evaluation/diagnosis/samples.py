"""What the rows of a file of samples say of it: refused rows, boxes in another convention, turned pictures."""

from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.samples import ImageCheck
from qwen3vl_rl.data.tools.check import Expectations, check_rows
from qwen3vl_rl.data.tools.conventions import MIN_BOXES
from qwen3vl_rl.evaluation.diagnosis import Finding
from qwen3vl_rl.evaluation.diagnosis.readings import RESIZED, resized_px

WRONG_PLACE = "Training would reward wrong places, and right answers would score zero."
CONVERT = "Write the boxes as the format has them: xyxy, px in samples, 0..1000 in training conversations and parquets."
TURNED = "Boxes and pictures would be in different frames: all stages turn a picture first."
TURN = "Write width, height and boxes of the turned picture, or save the picture turned and without EXIF."


def look_at_samples(path: Path, images: Path | None) -> Iterator[Finding]:
    """All findings of a file of samples, SFT or RL rows. `images`: the folder of its pictures, to open them. Raises
    InputError where the file is none of our formats."""
    findings = check_rows(path, Expectations(ImageCheck(images) if images else None, images, set()), shown=1)
    if other := findings.conventions.other({RESIZED: resized_px}):
        yield Finding("coordinates", other, WRONG_PLACE, CONVERT)
    else:
        count = max(len(findings.conventions.different(in_px)) for in_px in (True, False))
        enough = "no other reading fits the pictures better"
        yield Finding("coordinates", enough if count >= MIN_BOXES else f"{count} different boxes, too few to tell")
    if images:
        turned = f"{findings.turned:,} of {findings.rows:,} rows have the size before EXIF turns the picture"
        yield Finding("pictures", turned, *((TURNED, TURN) if findings.turned else ()))
    if not findings.rows:
        yield Finding("rows", "there are none", "An empty file teaches and measures nothing.", "Give the right file.")
        return
    found = f"{findings.problems:,} of {findings.rows:,} are refused"
    see = f"See all: python -m qwen3vl_rl.data.tools.check {path}"
    yield Finding("rows", found, *((f"first: {findings.first[0]}", see) if findings.problems else ()))
