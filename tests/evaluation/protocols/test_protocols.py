"""Protocols read boxes and count hits as their projects do."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import Prediction, Question, question_key, score
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import protocols
from qwen3vl_rl.evaluation.protocols import NAMES, protocol
from qwen3vl_rl.evaluation.protocols.readings import READINGS
from qwen3vl_rl.grounding import Box, target_text

PROTOCOLS = Path(protocols.__file__).parent
WIDTH, HEIGHT = 640, 480
TRUTH = (64.0, 48.0, 320.0, 240.0)  # in 0..1000: 100, 100, 500, 500


def read(reading: str, answer: str, truth: Box = TRUTH) -> Box | None:
    return READINGS[reading](answer, WIDTH, HEIGHT, truth)


@pytest.mark.parametrize(
    ("reading", "answer", "box"),
    [
        ("first_json", '```json\n[{"bbox_2d": [100, 100, 500, 500], "label": "a"}]\n```', TRUTH),
        ("first_json", '[{"bbox_2d": [500, 500, 100, 100]}, {"bbox_2d": [1, 1, 2, 2]}]', TRUTH),
        ("first_json", '{"bbox_2d": [99.9, 100, 500, 500]}', (63, 48, 320, 240)),  # truncated to whole px
        ("first_json", "[{'bbox_2d': [100, 100, 500, 500], 'label': 'a'}]", TRUTH),  # Python syntax
        (
            "first_json",
            '```json\n[{"bbox_2d": [100, 100, 500, 500], "label": "a"}, {"bbox_2d": [1, 2',
            TRUTH,
        ),  # cut off
        ("first_json", "The box is [100, 100, 500, 500].", None),
        ("first_json", '[{"bbox": [100, 100, 500, 500]}]', None),
        ("by_magnitude", "[100, 100, 500, 500]", TRUTH),
        ("by_magnitude", "[0.1 0.1 0.5 0.5]", TRUTH),
        ("by_magnitude", "from (100, 100) to (500, 500)", TRUTH),
        ("by_magnitude", "[64, 48, 320, 240]", (40.96, 23.04, 204.8, 115.2)),  # px of a small picture
        ("by_magnitude", "[1200, 100, 2000, 500]", (640, 100, 640, 480)),  # px, clipped at the edges
        ("by_magnitude", "three numbers: 1, 2, 3", None),
        ("best_of_all", '[{"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [100, 100, 500, 500]}]', TRUTH),
        ("best_of_all", '{"box": [64, 48, 320, 240]}', TRUTH),  # px
        ("best_of_all", "first 1 1 2 2, then 100, 100, 500, 500", TRUTH),
        ("best_of_all", "nothing", None),
        ("first_json", f'[{{"bbox_2d": [1, 2, 3, {"9" * 400}]}}]', None),
        ("released", '"bbox_2d": [100, 100, 500, 500]', (64, 48, 320, 240)),
    ],
)
def test_answers_are_read_as_the_projects_read_them(reading, answer, box):
    assert read(reading, answer) == (None if box is None else pytest.approx(box))


@given(st.text(alphabet='[]{}",:0123456789. \n-bx_2d`jsonE', max_size=200), st.sampled_from(sorted(READINGS)))
def test_no_answer_breaks_a_reading(answer, reading):
    found = read(reading, answer)
    assert found is None or len(found) == 4


@pytest.mark.parametrize("reading", sorted(READINGS))
@pytest.mark.parametrize("text", ["1 " * 20_000, " " * 20_000, "```" * 7_000, "[" * 20_000, "1," + " " * 20_000])
def test_long_answers_are_read_quickly(reading, text):
    read(reading, text)  # a pattern that backtracks would take minutes


def prediction(number: int, text: str, split: str = "refcoco_val") -> Prediction:
    sample = Sample(str(number), f"{number}.jpg", WIDTH, HEIGHT, "the dog", TRUTH)
    return score(Question(question_key(split, number), split, sample), text, parser="strict", finish_reason="stop")


def test_protocols_differ_for_an_iou_of_exactly_half():
    half = prediction(1, target_text("I see.", (100, 100, 300, 500), "the dog"))
    assert half.iou == 0.5
    assert {name: protocol(name).is_hit(half) for name in NAMES} == {
        "paper": False,
        "qwen": True,
        "vlmevalkit": True,
        "lmms_eval": True,
    }


def test_boxes_in_the_reasoning_do_not_count():
    listed = prediction(1, target_text("Dogs: [1, 1, 5, 5], [7, 7, 9, 9].", (100, 100, 500, 500), "the dog"))
    assert all(protocol(name).is_hit(listed) for name in NAMES)


def test_averages_are_over_splits_or_over_questions():
    right, wrong = target_text("", (100, 100, 500, 500), "the dog"), "none"
    rows = [prediction(k, right, "a_val") for k in range(3)] + [prediction(4, wrong, "b_val")]
    assert protocol("paper").accuracies(rows) == {"a_val": 1.0, "b_val": 0.0, "average": 0.5}
    assert protocol("lmms_eval").accuracies(rows)["average"] == 0.75


@pytest.mark.skipif("EGM_REAL_DATA" not in os.environ, reason="EGM_REAL_DATA is not set")
def test_answers_to_real_pictures_under_all_protocols(tmp_path):
    real = Path(os.environ["EGM_REAL_DATA"]) / "refcocos_val2017" / "matched_with_images.jsonl"
    rows = [json.loads(line) for line in real.read_text().splitlines()]
    predictions = []
    for number, row in enumerate(rows, start=1):
        box = tuple(row["bbox_xyxy"]) if row["bbox_xyxy"] else None
        sample = Sample(str(number), row["image"], row["width"], row["height"], row["expression"], box)
        box_1000 = tuple(row["normalized_1000"]) if box else None
        text = target_text("I see it.", box_1000, sample.sent)
        predictions.append(score(Question(question_key("real", number), "real", sample), text, parser="strict"))
    write_jsonl(tmp_path / "predictions.jsonl", map(asdict, predictions))
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_rl.evaluation.protocols", tmp_path / "predictions.jsonl"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(" 100.0  ") == len(NAMES), done.stdout


def test_reasoning_that_was_cut_off_is_no_answer():
    cut = replace(prediction(1, "The dogs are at [100, 100, 500, 500] and"), finish_reason="length")
    assert not any(protocol(name).is_hit(cut) for name in NAMES if protocol(name).reads == "answer")


def test_a_custom_protocol_is_checked(tmp_path, monkeypatch):
    good = (PROTOCOLS / "qwen.yaml").read_text()
    for change, message in (
        ("reading: first_json", "reading: expected one of"),
        ('published_in: "arXiv 2511.21631"\n', "expected the fields source, asks"),
        ("prompt: qwen3_official", "prompt: expected one of"),
    ):
        path = tmp_path / "mine.yaml"
        path.write_text(
            good.replace(
                change,
                change.replace("first_json", "mine")
                if "first" in change
                else ""
                if "published" in change
                else "prompt: mine",
            )
        )
        monkeypatch.setitem(protocols._FILES, "mine", path)
        protocol.cache_clear()
        with pytest.raises(InputError, match=message):
            protocol("mine")
