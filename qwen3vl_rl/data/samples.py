"""One sample = one image, one referring expression, one box; and the two jsonl formats that hold it.

Training rows (the released raw format): `image`, `height`, `width`, `conversations` whose answer holds
`<box>[x1,y1,x2,y2]</box>` in 0..1000, and `id`, `sent`. Evaluation rows: `image`, `sent`, `bbox` (xyxy px), `width`,
`height`. In both, `modal_bbox` (xyxy px, the visible part) marks an amodal sample, whose box is the whole object's.
Other columns are allowed and left alone.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from qwen3vl_rl.grounding import Box, InputError, row_error

_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_BOX = re.compile(r"<box>\s*\[([^\[\]]*)\]\s*</box>")


@dataclass(frozen=True, slots=True)
class Sample:
    """`image` is relative to the image folder; boxes are xyxy px inside the image, None without a referent."""

    id: str
    image: str
    width: int
    height: int
    sent: str
    xyxy_px: Box | None
    modal_xyxy_px: Box | None = None

    @property
    def prompt_name(self) -> str:
        """The prompt that training and evaluation share (recipe: `qwen3`, and `qwen3_amodal` for amodal boxes)."""
        return "qwen3" if self.modal_xyxy_px is None else "qwen3_amodal"


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write all rows or leave the earlier file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(part, path)


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a jsonl file. Raises InputError for a missing file, broken JSON or a row that is no object."""
    if not path.is_file():
        raise InputError(f"{path}: expected a jsonl file, found none")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text ({error.reason} at byte {error.start})") from None
    rows = []
    # Not splitlines(): JSON strings may hold U+0085 or U+2028, which it also takes for the end of a line.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise row_error(path, number, "(line)", f"one JSON object ({error.msg})", line[:80]) from None
        if not isinstance(row, dict):
            raise row_error(path, number, "(line)", "one JSON object", line[:80])
        rows.append(row)
    return rows


def read_samples(path: Path, allow_no_referent: bool = False) -> list[Sample]:
    """Validated samples of a training or evaluation jsonl file. Raises InputError naming file, row and field.

    `allow_no_referent`: evaluation rows may say `"bbox": null`, that nothing in the image is meant.
    """
    return [_parse_row(path, number, row, allow_no_referent) for number, row in enumerate(read_jsonl(path), start=1)]


def check_images(located: Iterable[tuple[Path, int, Sample]], folder: Path) -> None:
    """`located`: samples with their file and 1-based row. Raises InputError for the first image below `folder` that is
    missing, cannot be opened, or has another size than its row says."""
    sizes: dict[str, tuple[int, int]] = {}
    for path, number, sample in located:
        if sample.image not in sizes:
            try:
                with Image.open(folder / sample.image) as image:  # reads the header alone
                    sizes[sample.image] = image.size
            except FileNotFoundError:
                raise row_error(path, number, "image", f"a file below {folder}", sample.image) from None
            except (OSError, ValueError):  # ValueError: a path that no file can have
                raise row_error(path, number, "image", "a readable image", sample.image) from None
        if sizes[sample.image] != (sample.width, sample.height):
            size = "{}x{}".format(*sizes[sample.image])
            raise row_error(path, number, "width", f"the image's size {size}", f"{sample.width}x{sample.height}")


def _parse_row(path: Path, number: int, row: dict, allow_no_referent: bool) -> Sample:
    def field(name: str, kind: type, expected: str):
        value = row.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or value in ("", 0):
            raise row_error(path, number, name, expected, value)
        return value

    width = field("width", int, "the image's width in px")
    height = field("height", int, "the image's height in px")
    is_training = "conversations" in row
    box = _conversation_box(path, number, row, width, height) if is_training else row.get("bbox")
    name = "conversations" if is_training else "bbox"
    modal = row.get("modal_bbox")
    is_absent = allow_no_referent and not is_training and "bbox" in row and box is None
    return Sample(
        id=str(row.get("id", f"{path.stem}_{number}")),
        image=field("image", str, "a path relative to the image folder"),
        width=width,
        height=height,
        sent=_conversation_sent(path, number, row)
        if is_training and "sent" not in row
        else field("sent", str, "the expression"),
        xyxy_px=None if is_absent else _check_box(path, number, name, box, width, height),
        modal_xyxy_px=None if modal is None else _check_box(path, number, "modal_bbox", modal, width, height),
    )


def _turn(path: Path, number: int, row: dict, speaker: str) -> str:
    turns = row["conversations"]
    texts = (
        [t.get("value") for t in turns if isinstance(t, dict) and t.get("from") == speaker]
        if isinstance(turns, list)
        else []
    )
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise row_error(path, number, "conversations", f"one {speaker} turn with a text", turns)
    return texts[0]


def _conversation_sent(path: Path, number: int, row: dict) -> str:
    text = _turn(path, number, row, "human")
    if (found := _REF.search(text)) is None:
        raise row_error(path, number, "conversations", "the expression inside <ref>…</ref>", text)
    return found[1]


def _conversation_box(path: Path, number: int, row: dict, width: int, height: int) -> list[float]:
    text = _turn(path, number, row, "gpt")
    found = _BOX.search(text)
    try:
        xyxy_1000 = [float(v) for v in found[1].split(",")] if found else []
    except ValueError:
        xyxy_1000 = []
    if len(xyxy_1000) != 4:
        raise row_error(path, number, "conversations", "<box>[x1,y1,x2,y2]</box> in 0..1000", text)
    return [v * side / 1000 for v, side in zip(xyxy_1000, (width, height, width, height), strict=True)]


def _is_number(value) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf  # also for integers too large for a float


def _check_box(path: Path, number: int, name: str, value, width: int, height: int) -> Box:
    is_box = isinstance(value, list) and len(value) == 4 and all(_is_number(v) for v in value)
    if not is_box or not (0 <= value[0] < value[2] <= width and 0 <= value[1] < value[3] <= height):
        raise row_error(path, number, name, f"xyxy px inside the {width}x{height} image with x1 < x2, y1 < y2", value)
    return tuple(float(v) for v in value)
