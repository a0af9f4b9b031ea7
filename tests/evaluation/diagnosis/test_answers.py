"""The checks of answers find what is wrong with them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qwen3vl_rl.data.predictions import Prediction, Question, score
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.evaluation.diagnosis.answers import judge, published
from qwen3vl_rl.grounding import Box, answer_text, px_to_1000

WIDTH, HEIGHT, COUNT = 640, 480, 40


def predictions(write: Callable[[Box], str], split: str = "refcoco_val") -> list[Prediction]:
    """Answers for boxes in many places. `write` gets the true box in px and returns the answer."""
    rows = []
    for number in range(COUNT):
        x, y = 10 * (number % 8), 8 * (number % 5)
        box = (100.0 + x, 60.0 + y, 330.0 + x, 190.0 + y)
        sample = Sample(id=f"{number}", image=f"{number}.jpg", width=WIDTH, height=HEIGHT, sent="the star", xyxy_px=box)
        question = Question(f"{split}/{number:06d}", split, sample)
        rows.append(score(question, write(box), parser="strict", tokens=40, finish_reason="stop"))
    return rows


def right(box: Box) -> str:
    return f"I see it.\n</think>\n\n{answer_text(px_to_1000(box, WIDTH, HEIGHT), 'the star')}"


def attention(rows: list[Prediction], size: str | None = None) -> dict[str, str]:
    return {one.name: one.found for one in judge(rows, size) if not one.is_fine}


def test_right_answers_need_no_attention():
    assert attention(predictions(right), "8B") == {}


def test_failed_requests_are_reported_and_do_not_hide_other_findings():
    rows = predictions(right)
    rows[:4] = [replace(row, error="HTTP 400", text="", pred_xyxy_px=None, iou=0.0) for row in rows[:4]]
    assert attention(rows) == {"requests": "4 of 40 requests failed"}
    assert list(attention([replace(row, error="HTTP 400") for row in rows])) == ["requests"]


def test_answers_that_are_cut_off_are_reported():
    rows = [replace(row, finish_reason="length") for row in predictions(right)]
    assert attention(rows) == {"length": "40 of 40 answers hit the token limit"}


def test_float16_overflow_is_recognised_by_its_exclamation_marks():
    found = attention(predictions(lambda box: "!" * 400))
    assert found["NaN logits"] == "40 of 40 answers contain a run of exclamation marks"
    assert found["boxes"] == "40 of 40 answers contain no box"


@pytest.mark.parametrize(
    ("reading", "write"),
    [
        ("xyxy in px", lambda box: [round(v) for v in box]),
        ("xyxy in 0..1", lambda box: [round(v / 1000, 3) for v in px_to_1000(box, WIDTH, HEIGHT)]),
        (
            "xywh in 0..1000",
            lambda box: [box[0] / 0.64, box[1] / 0.48, (box[2] - box[0]) / 0.64, (box[3] - box[1]) / 0.48],
        ),
        ("yxyx in 0..1000", lambda box: [px_to_1000(box, WIDTH, HEIGHT)[at] for at in (1, 0, 3, 2)]),
    ],
)
def test_another_box_format_is_named_by_the_one_that_scores(reading, write):
    found = attention(predictions(lambda box: f"</think>\n\n{list(write(box))}"))
    assert found["coordinates"].startswith(f"100% of the answers are right if read as {reading}, ")


def test_px_of_the_resized_picture_differ_from_px_of_the_file():
    rows = []
    for row in predictions(right):  # the processor enlarges pictures of 100 px to 256
        box = (60.0, 50.0, 90.0, 80.0)
        sample = Sample(id=row.key, image=row.image, width=100, height=100, sent=row.sent, xyxy_px=box)
        numbers = [2.56 * v for v in box]
        rows.append(score(Question(row.key, row.split, sample), f"</think>\n{numbers}", parser="strict"))
    assert (
        "100% of the answers are right if read as xyxy in px of the picture as Qwen3-VL resizes it"
        in attention(rows)["coordinates"]
    )


def test_accuracy_far_below_the_published_is_reported():
    wrong = answer_text((0, 0, 10, 10), "the star")
    rows = predictions(right)
    rows[::2] = [row for row in predictions(lambda box: f"</think>\n{wrong}")[::2]]
    found = attention(rows, "8B")
    assert "refcoco_val 50.0 (" in found["accuracy"] and found["accuracy"].endswith("published 91.0 to 93.9")
    assert attention(rows, "2B") == {} and attention(predictions(right, "own_split"), "8B") == {}
    assert published("4B", "refcoco+_testB") == [79.3, 84.9]
