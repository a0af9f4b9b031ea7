"""Read any of our file formats row by row: samples (jsonl), RL and SFT parquet, predictions (jsonl)."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from posixpath import normpath
from typing import Any

from qwen3vl_rl.data.boxes import BoxError, check_box_1000, check_box_px, is_number
from qwen3vl_rl.data.expressions import ALL_MARKS, THINK_MARKS, check_label, check_tokens, read_user_turn
from qwen3vl_rl.data.jsonl import iter_lines, parse_line
from qwen3vl_rl.data.parquet import iter_parquet, open_parquet
from qwen3vl_rl.data.predictions import Prediction
from qwen3vl_rl.data.rl_rows import RL_SCHEMA, rl_sample
from qwen3vl_rl.data.samples import Sample, parse_sample
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import Box, answer_numbers, answer_text, parse_box_1000

# Some files append the annotation's number, or `_flip` for a mirrored copy, to the image's number.
_COCO_ID = re.compile(r"(?<!\d)(\d{12})(?:_\d+)?(?:_flip)?\.\w+$")


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields of one sample that all formats share.

    `size`: (width, height) in px, None if the format has no size. `xyxy_1000` is not rounded; None means no referent.
    `in_px`: whether the file gives the box in px. `id`: None if the row has no id.
    """

    id: str | None
    image: str
    size: tuple[int, int] | None
    sent: str
    xyxy_1000: Box | None
    in_px: bool = False


def read_entries(path: Path) -> Iterator[tuple[int, Entry | InputError]]:
    """Yield each row's 1-based number with its entry, or with an InputError if the row is bad.

    Raises InputError if the file is not in one of our formats.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix == ".jsonl":
        return _read_jsonl(path, _prediction_entry if holds_predictions(path) else _sample_entry)
    raise InputError(f"{path}: expected a file named *.jsonl or *.parquet")


def image_key(image: str, folder: Path | None = None) -> str:
    """A key that an image shares with its mirrored copy and with the same COCO image in other folders.

    The key is COCO's image number, or else the path below `folder`. Raises InputError for an absolute path outside
    `folder`.
    """
    if found := _COCO_ID.search(image):
        return found[1]
    if image.startswith("/"):
        root = f"{folder.resolve()}/" if folder else None
        if root is None or not image.startswith(root):
            raise InputError(f"--images: expected the folder that contains {image}, to compare it with other images")
        image = image.removeprefix(root)
    first, slash, rest = normpath(image).partition("/")
    return (first.removesuffix("_flip") + slash + rest).removeprefix("/")


def _read_jsonl(
    path: Path, parse: Callable[[Path, int, dict[str, Any]], Entry]
) -> Iterator[tuple[int, Entry | InputError]]:
    for number, line in iter_lines(path):
        try:
            yield number, parse(path, number, parse_line(path, number, line))
        except InputError as error:
            yield number, error


def _read_parquet(path: Path) -> Iterator[tuple[int, Entry | InputError]]:
    with open_parquet(path) as file:
        columns = file.schema_arrow.names
    if set(RL_SCHEMA.names) <= set(columns):
        names, parse = RL_SCHEMA.names, _rl_entry
    elif {"messages", "images"} <= set(columns):
        names, parse = ["messages", "images"], _sft_entry
    else:
        known = f"{', '.join(RL_SCHEMA.names)} (RL) or messages, images (SFT)"
        raise InputError(f"{path}: expected the columns {known}, found {', '.join(columns)}")
    for number, row in iter_parquet(path, names):
        try:
            yield number, parse(path, number, row)
        except InputError as error:
            yield number, error


def holds_predictions(path: Path) -> bool:
    """Whether the first row of a file is an evaluation's prediction."""
    for number, line in iter_lines(path) if path.suffix == ".jsonl" else ():
        try:
            return "pred_xyxy_px" in parse_line(path, number, line)
        except InputError:
            return False  # reading the file as samples reports the problem
    return False


def _sample_entry(path: Path, number: int, row: dict[str, Any]) -> Entry:
    sample = parse_sample(path, number, row, allow_no_referent=True)
    return _entry(sample, sample.id if "id" in row else None, in_px="conversations" not in row)


def _prediction_entry(path: Path, number: int, row: dict[str, Any]) -> Entry:
    if missing := [field.name for field in fields(Prediction) if field.name not in row]:
        raise row_error(path, number, missing[0], "this field in every prediction", None)
    if type(row["key"]) is not str:
        raise row_error(path, number, "key", "SPLIT/ROW", row["key"])
    if row["iou"] is not None and not is_number(row["iou"]):
        raise row_error(path, number, "iou", "a number, or null if there is no referent", row["iou"])
    known = {name: row[name] for name in ("image", "width", "height", "sent")} | {"id": row["key"], "bbox": None}
    sample = parse_sample(path, number, known, allow_no_referent=True)
    if row["xyxy_px"] is not None:
        truth = check_box_px(path, number, "xyxy_px", row["xyxy_px"], sample.width, sample.height)
        sample = replace(sample, xyxy_px=truth)
    return _entry(sample, sample.id, in_px=True)


def _rl_entry(path: Path, number: int, row: dict[str, Any]) -> Entry:
    sample, _ = rl_sample(path, number, row)
    return _entry(sample, sample.id, in_px=False)


def _sft_entry(path: Path, number: int, row: dict[str, Any]) -> Entry:
    messages, images = row["messages"], row["images"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise row_error(path, number, "messages", "a list of objects", messages)
    if [message.get("role") for message in messages] != ["user", "assistant"]:
        raise row_error(path, number, "messages", "a user and an assistant turn", messages)
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str):
        raise row_error(path, number, "images", "a list of one path", images)
    _, sent = read_user_turn(path, number, "messages", messages[0].get("content"))
    answer = messages[1].get("content")
    has_reasoning = isinstance(answer, str) and "</think>" in answer
    xyxy_1000 = parse_box_1000(answer) if has_reasoning else None
    if has_reasoning and (numbers := answer_numbers(answer.rpartition("</think>")[2], "released_eval", "px")):
        xyxy_1000 = _box_as_written(path, number, numbers)  # unlike the strict parser, keeps swapped corners
    if not has_reasoning or not (xyxy_1000 or answer.endswith(f"</think>\n\n{answer_text(None, sent)}")):
        raise row_error(path, number, "messages", "reasoning, </think> and an answer (a box or an empty list)", answer)
    if xyxy_1000:
        check_label(path, number, "messages", answer, sent)
    check_tokens(path, number, "messages", answer.replace(THINK_MARKS[1], "", 1), ALL_MARKS)
    return Entry(None, images[0], None, sent, xyxy_1000)


def _box_as_written(path: Path, number: int, numbers: Box) -> Box:
    """Check an answer's box in a file that does not hold the image sizes."""
    try:
        return check_box_1000(path, number, "messages", numbers, 1000, 1000)
    except BoxError as error:
        error.size = None
        raise


def _entry(sample: Sample, sample_id: str | None, *, in_px: bool) -> Entry:
    size, xyxy_1000 = (sample.width, sample.height), None
    if sample.xyxy_px:
        x1, y1, x2, y2 = sample.xyxy_px
        x_1000, y_1000 = 1000 / sample.width, 1000 / sample.height
        xyxy_1000 = x1 * x_1000, y1 * y_1000, x2 * x_1000, y2 * y_1000
    return Entry(sample_id, sample.image, size, sample.sent, xyxy_1000, in_px)
