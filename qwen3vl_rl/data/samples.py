"""One sample = one image, one referring expression, one box; and the two jsonl formats that hold it.

Training rows (the released raw format): `image`, `height`, `width`, `conversations` whose answer holds
`<box>[x1,y1,x2,y2]</box>` in 0..1000, and `id`, `sent`. Evaluation rows: `image`, `sent`, `bbox` (xyxy px), `width`,
`height`, and `id`. In both, `modal_bbox` (xyxy px, the visible part) marks an amodal sample, whose box is the whole
object's. Other columns are allowed and left alone. `bbox` null says that nothing in the image fits the expression;
only the evaluation reads such rows.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.pictures import Header, PictureError, open_picture, read_header, refused_size
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box

_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_BOX = re.compile(r"<box>\s*\[([^\[\]]*)\]\s*</box>")
_MEDIA = re.compile(r"<(?:image|video|audio)>")  # verl puts an image wherever a prompt has such a mark


# COCO gives x and width in hundredths of a px, each rounded, so their sum may pass the image's edge by a hundredth.
ROUNDING_PX = 0.011
_NUMBERS = frozenset({int, float})  # and not bool


@dataclass(frozen=True, slots=True)
class Sample:
    """`image` is relative to the image folder; boxes are xyxy px inside the image. `xyxy_px` None: no referent."""

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


def sample_row(sample: Sample) -> dict[str, Any]:
    """The evaluation row of a sample, which `parse_sample` reads back unchanged."""
    row = {
        "id": sample.id,
        "image": sample.image,
        "width": sample.width,
        "height": sample.height,
        "sent": sample.sent,
        "bbox": sample.xyxy_px,
    }
    return row if sample.modal_xyxy_px is None else row | {"modal_bbox": sample.modal_xyxy_px}


def iter_samples(path: Path, allow_no_referent: bool = False) -> Iterator[Sample]:
    """Validated samples of a training or evaluation jsonl file, one at a time.

    Raises InputError naming file, row and field; also for a row without a referent, unless these are allowed.
    """
    for number, line in iter_lines(path):
        yield parse_sample(path, number, parse_line(path, number, line), allow_no_referent)


def read_samples(path: Path, allow_no_referent: bool = False) -> list[Sample]:
    """All samples of a file; see `iter_samples`."""
    return list(iter_samples(path, allow_no_referent))


def parse_sample(path: Path, number: int, row: dict[str, Any], allow_no_referent: bool = False) -> Sample:
    """The sample of one training or evaluation row. Raises InputError naming file, row and field."""
    image, width, height, modal = row.get("image"), row.get("width"), row.get("height"), row.get("modal_bbox")
    if type(image) is not str or not image:
        raise row_error(path, number, "image", "a path relative to the image folder", image)
    if type(width) is not int or width <= 0:
        raise row_error(path, number, "width", "the image's width in px", width)
    if type(height) is not int or height <= 0:
        raise row_error(path, number, "height", "the image's height in px", height)
    if expected := refused_size(width, height):
        raise row_error(path, number, "width", expected, f"{width}x{height}")
    if is_training := "conversations" in row:
        box = _conversation_box(path, number, row, width, height)
        sent = row["sent"] if "sent" in row else _conversation_sent(path, number, row)
    else:
        box, sent = row.get("bbox"), row.get("sent")
    no_referent = allow_no_referent and box is None and "bbox" in row
    return Sample(
        id=_check_id(path, number, row),
        image=image,
        width=width,
        height=height,
        sent=check_sent(path, number, "sent", sent),
        xyxy_px=None
        if no_referent
        else check_box_px(path, number, "conversations" if is_training else "bbox", box, width, height),
        modal_xyxy_px=None if modal is None else check_box_px(path, number, "modal_bbox", modal, width, height),
    )


def check_sent(path: Path, number: int, name: str, value: Any) -> str:
    """`value` where it can be an expression, else an InputError that names the field `name`."""
    if type(value) is not str or not value or value.isspace():
        raise row_error(path, number, name, "the expression", value)
    if "<" in value and _MEDIA.search(value):
        raise row_error(path, number, name, "an expression without <image>, <video> or <audio>", value)
    return value


def check_box_px(path: Path, number: int, name: str, value: Any, width: int, height: int) -> Box:
    """`value` where it is an xyxy box in px inside the image, else an InputError that names the field `name`.

    What passes an edge by no more than `ROUNDING_PX` is cut off there.
    """
    is_box = type(value) in (list, tuple) and len(value) == 4 and _NUMBERS.issuperset(map(type, value))
    if is_box and not _is_inside(value, width, height):
        value = [_cut(v, side) for v, side in zip(value, (width, height) * 2, strict=True)]
    if not is_box or not _is_inside(value, width, height):
        raise row_error(path, number, name, f"xyxy px inside the {width}x{height} image with x1 < x2, y1 < y2", value)
    x1, y1, x2, y2 = value
    return float(x1), float(y1), float(x2), float(y2)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; True and False are none."""
    return type(value) in _NUMBERS and abs(value) < math.inf  # also for integers too large for a float


def _is_inside(box: Sequence[float], width: int, height: int) -> bool:
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height  # not so for NaN


def _cut(value: float, side: int) -> float:
    if -ROUNDING_PX <= value < 0:
        return 0
    return side if side < value <= side + ROUNDING_PX else value


class ImageCheck:
    """Opens each image below `folder` once, and reads no more of it than its header and its end: one that may stop
    short is decoded, to be sure."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._headers: dict[str, Header] = {}

    def check(self, path: Path, number: int, sample: Sample) -> None:
        """Raises InputError where the sample's image cannot be read or has another size than its row says."""
        self.check_image(path, number, sample.image, (sample.width, sample.height))

    def check_image(self, path: Path, number: int, image: str, stated: tuple[int, int] | None) -> None:
        """`check` of an image whose row states this (width, height) in px, or none."""
        header = self._headers.get(image)
        if header is None:
            header = self._headers[image] = self._read(path, number, image)
        if stated in (None, header.size):
            return
        expected, turned = "the image's size {}x{}".format(*header.size), stated == header.stored
        expected += " (its EXIF orientation turns it; the row has it unturned)" if turned else ""
        raise row_error(path, number, "width", expected, "{}x{}".format(*stated))

    def _read(self, path: Path, number: int, image: str) -> Header:
        try:
            header = read_header(self._folder / image)
        except FileNotFoundError:
            raise row_error(path, number, "image", f"a file below {self._folder}", image) from None
        except PictureError as error:
            raise row_error(path, number, "image", error.expected, image) from None
        if not header.is_whole:
            try:
                open_picture(self._folder / image)
            except OSError as error:
                raise undecodable(path, number, image, error) from None
        return header


def undecodable(path: Path, number: int, image: str, error: OSError) -> InputError:
    """What to raise where an image with a sound header turns out broken further on."""
    return row_error(path, number, "image", f"an image that can be decoded in full ({error})", image)


def check_images(located: Iterable[tuple[Path, int, Sample]], folder: Path) -> None:
    """`located`: samples with their file and 1-based row. Raises InputError for the first bad image below `folder`."""
    images = ImageCheck(folder)
    for path, number, sample in located:
        images.check(path, number, sample)


def _check_id(path: Path, number: int, row: dict[str, Any]) -> str:
    value = row.get("id")
    if value is None:
        return f"{path.stem}_{number}"
    if type(value) not in (str, int) or value == "":
        raise row_error(path, number, "id", "a text or an integer", value)
    return str(value)


def conversation_turn(path: Path, number: int, row: dict[str, Any], speaker: str) -> str:
    """What `speaker` (human or gpt) says in a training row. Raises InputError unless that is one text."""
    turns = row.get("conversations")
    texts = (
        [t.get("value") for t in turns if isinstance(t, dict) and t.get("from") == speaker]
        if isinstance(turns, list)
        else []
    )
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise row_error(path, number, "conversations", f"one {speaker} turn with a text", turns)
    return texts[0]


def _conversation_sent(path: Path, number: int, row: dict[str, Any]) -> str:
    text = conversation_turn(path, number, row, "human")
    if (found := _REF.search(text)) is None:
        raise row_error(path, number, "conversations", "the expression inside <ref>…</ref>", text)
    return found[1]


def _conversation_box(path: Path, number: int, row: dict[str, Any], width: int, height: int) -> list[float]:
    text = conversation_turn(path, number, row, "gpt")
    found = _BOX.search(text)
    try:
        xyxy_1000 = [float(v) for v in found[1].split(",")] if found else []
    except ValueError:
        xyxy_1000 = []
    if len(xyxy_1000) != 4:
        raise row_error(path, number, "conversations", "<box>[x1,y1,x2,y2]</box> in 0..1000", text)
    return [v * side / 1000 for v, side in zip(xyxy_1000, (width, height, width, height), strict=True)]
