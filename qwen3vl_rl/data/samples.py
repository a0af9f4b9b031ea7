"""One sample is one image, one referring expression and one box. Two jsonl formats hold samples.

Training rows (the released raw format): `image`, `height`, `width`, `conversations` whose answer contains
`<box>[x1,y1,x2,y2]</box>` in 0..1000; optionally `id` and `sent`. Evaluation rows: `image`, `sent`, `bbox` (xyxy px),
`width`, `height`; optionally `id`. In both, `modal_bbox` (xyxy px of the visible part) marks an amodal sample, whose
box covers the whole object. Other columns are allowed and ignored. `bbox` null means that nothing in the image fits
the expression.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.boxes import check_box_1000, check_box_px
from qwen3vl_rl.data.expressions import check_sent, read_prompt
from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.pictures import Header, PictureError, open_picture, read_header, refused_size
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, scale_to_px

_BOX = re.compile(r"<box>\s*\[([^\[\]]*)\]\s*</box>")


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
        """The prompt used in training and evaluation (recipe: `qwen3`, or `qwen3_amodal` for amodal boxes)."""
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


def iter_released_samples(path: Path) -> Iterator[Sample]:
    """`iter_samples` for the evaluation, which accepts all rows that the released evaluation accepts.

    These are rows with `modal_bbox` but no `bbox`, where `modal_bbox` is the box; image paths with a leading slash; and
    conversations with the expression in quotation marks.
    """
    for number, line in iter_lines(path):
        yield parse_sample(path, number, as_evaluation_row(parse_line(path, number, line)), allow_no_referent=True)


def as_evaluation_row(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row that the released evaluation accepts to the form that `parse_sample` accepts."""
    image = row.get("image")
    if isinstance(image, str) and image.startswith("/") and not Path(image).exists():
        row = row | {"image": image.lstrip("/")}
    if "modal_bbox" in row and "bbox" not in row and "conversations" not in row:
        row = row | {"bbox": row["modal_bbox"], "modal_bbox": None}
    if "conversations" in row and "sent" not in row and (found := _ref_of(row["conversations"])):
        row = row | {"sent": found.strip("\"' ")}
    return row


def _ref_of(turns: Any) -> str | None:
    """The content of `<ref>` in the first turn that has one."""
    for turn in turns if isinstance(turns, list) else ():
        text = turn.get("value") if isinstance(turn, dict) else None
        if isinstance(text, str) and (found := _inside_ref(text)):
            return found
    return None


def _inside_ref(text: str) -> str | None:
    begin, end = text.find("<ref>"), text.rfind("</ref>")
    return text[begin + len("<ref>") : end] if 0 <= begin < end else None


def iter_samples(path: Path, allow_no_referent: bool = False) -> Iterator[Sample]:
    """Yield the validated samples of a training or evaluation jsonl file.

    Raises InputError naming file, row and field, also for a row without a referent unless `allow_no_referent` is set.
    """
    for number, line in iter_lines(path):
        yield parse_sample(path, number, parse_line(path, number, line), allow_no_referent)


def read_samples(path: Path, allow_no_referent: bool = False) -> list[Sample]:
    """All samples of a file; see `iter_samples`."""
    return list(iter_samples(path, allow_no_referent))


def parse_sample(path: Path, number: int, row: dict[str, Any], allow_no_referent: bool = False) -> Sample:
    """Parse one training or evaluation row. Raises InputError naming file, row and field."""
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
        sent = _conversation_sent(path, number, row)
    else:
        box, sent = row.get("bbox"), row.get("sent")
    no_referent = box is None and "bbox" in row
    if no_referent and not allow_no_referent:
        raise row_error(path, number, "bbox", "a box, xyxy in px (--no-referent accepts null)", None)
    if no_referent and modal is not None:
        raise row_error(path, number, "modal_bbox", "null, because bbox is null", modal)
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


class TurnedError(InputError):
    """A row has the size of its picture before the EXIF orientation is applied."""


class ImageCheck:
    """Check each image below `folder` once. Only the header and the end of its file are read.

    An image is decoded only if its file may be truncated.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._headers: dict[str, Header] = {}

    def check(self, path: Path, number: int, sample: Sample) -> None:
        """Raise InputError if the sample's image cannot be read or does not have the size that its row states."""
        self.check_image(path, number, sample.image, (sample.width, sample.height))

    def check_image(self, path: Path, number: int, image: str, stated: tuple[int, int] | None) -> None:
        """`check` for an image whose row states this (width, height) in px, or no size."""
        header = self._headers.get(image)
        if header is None:
            header = self._headers[image] = self._read(path, number, image)
        if stated in (None, header.size):
            return
        expected = "the image's size {}x{}".format(*header.size)
        if stated == header.stored:
            expected += " after its EXIF orientation is applied (the row has the size before)"
            raise TurnedError(str(row_error(path, number, "width", expected, "{}x{}".format(*stated))))
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
    """The error for an image whose header is valid but whose pixels cannot be decoded."""
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
        raise row_error(path, number, "id", "a string or an integer", value)
    return str(value)


def conversation_turn(path: Path, number: int, row: dict[str, Any], speaker: str) -> str:
    """The text of the only turn of `speaker` (human or gpt) in a training row. Raises InputError if it is not one."""
    turns = row.get("conversations")
    texts = (
        [t.get("value") for t in turns if isinstance(t, dict) and t.get("from") == speaker]
        if isinstance(turns, list)
        else []
    )
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise row_error(path, number, "conversations", f"one {speaker} turn with text", turns)
    return texts[0]


def _conversation_sent(path: Path, number: int, row: dict[str, Any]) -> Any:
    """The row's `sent`, or the prompt's expression if the row has no `sent`.

    The prompt's `<ref>` may differ from `sent` in case, spaces and punctuation, see `letters`.
    """
    if "sent" in row:
        sent, found = row["sent"], _ref_of(row["conversations"])
        if found and type(sent) is str and found != sent and letters(found) != letters(sent):
            raise row_error(path, number, "sent", f"the expression in the prompt, {found!r}", sent)
        return sent
    text = conversation_turn(path, number, row, "human")
    return _inside_ref(text) or read_prompt(path, number, "conversations", text)[1]


def letters(text: str) -> str:
    """Letters and digits in lower case. Copies of an expression may differ in everything else."""
    return "".join(filter(str.isalnum, text.casefold()))


def _conversation_box(path: Path, number: int, row: dict[str, Any], width: int, height: int) -> Box:
    text = conversation_turn(path, number, row, "gpt")
    found = _BOX.findall(text)
    try:
        (numbers,) = found
        xyxy_1000 = [float(v) for v in numbers.split(",")]
    except ValueError:
        expected = "one <box>[x1,y1,x2,y2]</box> in 0..1000" + (f", not {len(found)} of them" if len(found) > 1 else "")
        raise row_error(path, number, "conversations", expected, text) from None
    return scale_to_px(check_box_1000(path, number, "conversations", xyxy_1000, width, height), width, height)
