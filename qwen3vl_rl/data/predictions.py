"""The evaluation's predictions file: one JSON object per line, appended when a sample is finished, read to resume.

A process killed at any moment leaves at most one torn last line, which `resume` removes. Every row that ends in a
newline is kept, and its sample is not requested again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from qwen3vl_rl.data.boxes import is_box, is_number
from qwen3vl_rl.data.jsonl import append_row, cut_torn_row, read_jsonl, write_jsonl
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import row_error
from qwen3vl_rl.grounding import RELATIVE_1000, Box, answer_box_px, answer_numbers, declines, iou, order_corners

THRESHOLD_IOU = 0.5  # an answer with a larger IoU is correct (paper, table 1)


@dataclass(frozen=True, slots=True)
class Question:
    """One sample of a split. `key` is `{split}/{1-based row in six digits}`, unique within an evaluation."""

    key: str
    split: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of predictions.jsonl. Boxes are xyxy px; the true boxes are not rounded.

    `iou` compares `pred_xyxy_px` with the true box `xyxy_px` (on amodal splits the whole object), `modal_iou` with the
    visible part. `latency_s` is the time from sending the request to receiving the complete answer; `tokens` counts all
    tokens generated for it. A request that failed after all retries has an `error` and counts as wrong. An answer
    without a box has `pred_xyxy_px` None and IoU 0. An expression without a referent has neither a true box nor an
    IoU: its answer is correct if it declines, see `declined`.
    """

    key: str
    split: str
    image: str
    sent: str
    width: int
    height: int
    xyxy_px: Box | None
    modal_xyxy_px: Box | None
    text: str
    pred_xyxy_px: Box | None
    iou: float | None
    modal_iou: float | None
    tokens: int
    latency_s: float
    finish_reason: str | None
    error: str | None


def declined(prediction: Prediction) -> bool:
    """Whether an answer correctly declines an expression without a referent.

    It does so with an empty list, as in our training data, or with any complete answer from which no box is parsed.
    """
    is_whole = prediction.error is None and prediction.finish_reason != "length"
    return is_whole and (prediction.pred_xyxy_px is None or declines(prediction.text))


def boxes_falsely(prediction: Prediction) -> bool:
    """Whether an answer to an expression without a referent gives a box.

    An answer that neither declines nor gives a box was cut off or failed.
    """
    return prediction.pred_xyxy_px is not None and not declines(prediction.text)


def question_key(split: str, row: int) -> str:
    return f"{split}/{row:06d}"


def _is_whole_box(value: Any) -> bool:
    return is_box(value) and all(map(is_number, value))


_FIELDS = {field.name for field in fields(Prediction)}
_CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("split", "image", "sent", "text"), ("a string", lambda value: type(value) is str)),
    **dict.fromkeys(("width", "height"), ("a positive integer in px", lambda value: type(value) is int and value > 0)),
    **dict.fromkeys(
        ("xyxy_px", "modal_xyxy_px", "pred_xyxy_px"),
        ("four numbers, xyxy in px, or null", lambda value: value is None or _is_whole_box(value)),
    ),
    **dict.fromkeys(("iou", "modal_iou"), ("a number or null", lambda value: value is None or is_number(value))),
    **dict.fromkeys(("tokens", "latency_s"), ("a number", lambda value: is_number(value))),
    **dict.fromkeys(
        ("finish_reason", "error"), ("a string or null", lambda value: value is None or type(value) is str)
    ),
}


def score(
    question: Question,
    text: str,
    *,
    parser: str,
    coordinates: str = RELATIVE_1000,
    tokens: int = 0,
    latency_s: float = 0.0,
    finish_reason: str | None = None,
    error: str | None = None,
) -> Prediction:
    """Parse the answer's box with `parser`, in the given `coordinates`, and compare it with the true box."""
    sample = question.sample
    pred_xyxy_px = answer_box_px(text, parser, coordinates, sample.width, sample.height)

    def compare(truth: Box | None) -> float | None:
        return None if truth is None else iou(pred_xyxy_px, truth) if pred_xyxy_px else 0.0

    return Prediction(
        key=question.key,
        split=question.split,
        image=sample.image,
        sent=sample.sent,
        width=sample.width,
        height=sample.height,
        xyxy_px=sample.xyxy_px,
        modal_xyxy_px=sample.modal_xyxy_px,
        text=text,
        pred_xyxy_px=pred_xyxy_px,
        iou=compare(sample.xyxy_px),
        modal_iou=compare(sample.modal_xyxy_px),
        tokens=tokens,
        latency_s=latency_s,
        finish_reason=finish_reason,
        error=error,
    )


def vote(texts: Sequence[str], parser: str, coordinates: str = RELATIVE_1000) -> int:
    """The index of the medoid of several answers: the one whose box has the largest total IoU with all boxes.

    Answers without a box do not vote. If no answer has a box, the first one (0) is returned.
    """
    numbers = {i: answer_numbers(text, parser, coordinates) for i, text in enumerate(texts)}
    boxes = {i: order_corners(box) for i, box in numbers.items() if box}
    return max(boxes, key=lambda i: sum(iou(boxes[i], other) for other in boxes.values()), default=0)


def append(file: TextIO, prediction: Prediction) -> None:
    """Append one row. Killing this process afterwards does not lose it."""
    append_row(file, asdict(prediction))


def read_predictions(path: Path) -> list[Prediction]:
    """All rows sorted by key. Raises InputError naming file, row and field for a malformed or repeated row."""
    rows = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        if set(row) != _FIELDS:
            wrong = sorted(set(row) ^ _FIELDS)[0]
            raise row_error(path, number, wrong, f"exactly the fields {', '.join(sorted(_FIELDS))}", sorted(row))
        if type(row["key"]) is not str:
            raise row_error(path, number, "key", "SPLIT/ROW", row["key"])
        if row["key"] in rows:
            raise row_error(path, number, "key", "each key only once", row["key"])
        for name, (expected, holds) in _CHECKS.items():
            if not holds(row[name]):
                raise row_error(path, number, name, expected, row[name])
        if (row["iou"] is None) != (row["xyxy_px"] is None):
            raise row_error(path, number, "iou", "a number if xyxy_px is a box, else null", row["iou"])
        rows[row["key"]] = Prediction(**{name: _tupled(value) for name, value in row.items()})
    return [rows[key] for key in sorted(rows)]


def resume(path: Path) -> list[Prediction]:
    """Read the rows of an earlier run, sorted by key, and remove a torn last line that a killed run left."""
    if not path.exists():
        return []
    cut_torn_row(path)
    return read_predictions(path)


def drop_failed(path: Path) -> list[Prediction]:
    """Remove the rows of failed requests from the file atomically; returns the other rows sorted by key."""
    kept = [row for row in resume(path) if row.error is None]
    if path.exists():
        write_jsonl(path, map(asdict, kept))
    return kept


def unanswered(questions: Iterable[Question], predictions: Iterable[Prediction]) -> list[Question]:
    """The questions without a prediction, in their order."""
    answered = {prediction.key for prediction in predictions}
    return [question for question in questions if question.key not in answered]


def _tupled(value):
    return tuple(value) if isinstance(value, list) else value
