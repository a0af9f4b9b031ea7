"""The doctor names what is wrong with a file, and finds nothing in a correct one."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import Question, question_key, score
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample, sample_row
from qwen3vl_rl.evaluation.doctor import look
from qwen3vl_rl.grounding import Box, answer_text, px_to_1000
from qwen3vl_rl.models.families.interface import Family
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL

SIZES = ((640, 480), (480, 640), (500, 375), (427, 640), (612, 612))  # sizes of COCO images
LEFT_TURN = 6  # EXIF orientation: viewers rotate the stored picture clockwise by 90 degrees
Rows = list[Sample]


def samples(seed: int, count: int = 60, sizes: tuple[tuple[int, int], ...] = SIZES) -> Rows:
    """Samples of objects anywhere in pictures. As in photographs, some reach an edge."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        width, height = draw.choice(sizes)
        spans = []
        for side in (width, height):
            length = draw.uniform(0.06, 0.7) * side
            start = min(max(draw.uniform(-0.1, 1.1) * side - length / 2, 0), side - length)
            spans.append((round(start, 2), round(start + length, 2)))
        (x1, x2), (y1, y2) = spans
        rows.append(Sample(f"{number}", f"{number}.jpg", width, height, "the dog", (x1, y1, x2, y2)))
    return rows


def attention(path: Path, images: Path | None = None) -> dict[str, str]:
    return {finding.name: finding.found for finding in look(path, images) if not finding.is_fine}


# --- answers ----------------------------------------------------------------------------------------------------------


def relative(sample: Sample) -> Box:
    return px_to_1000(sample.xyxy_px, sample.width, sample.height)


def resized(sample: Sample, family: Family = QWEN3_VL) -> list[int]:
    """The box in px of the resized picture. The processors enlarge small pictures."""
    sides = (sample.width, sample.height)
    seen = family.resized_px(*sides)
    return [round(v * seen[i % 2] / sides[i % 2]) for i, v in enumerate(sample.xyxy_px)]


def xywh(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def centred(box: Box) -> list[float]:
    return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]


def yxyx(box: Box) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


def before_turning(sample: Sample) -> list[int]:
    """The box in 0..1000 of the stored picture, before EXIF rotates it by 90 degrees."""
    x1, y1, x2, y2 = relative(sample)
    return [y1, 1000 - x2, y2, 1000 - x1]


def answer(numbers: object) -> str:
    return f'I see it.\n</think>\n\n```json\n[\n\t{{"bbox_2d": {list(numbers)}, "label": "the dog"}}\n]\n```'


WRITE: dict[str, Callable[[Sample], str]] = {
    "xyxy in px": lambda s: answer(map(round, s.xyxy_px)),
    "xyxy in px of the picture as Qwen3-VL resizes it": lambda s: answer(resized(s)),
    "xyxy in px of the picture as InternVL3.5 resizes it": lambda s: answer(resized(s, INTERNVL)),
    "xyxy in 0..1": lambda s: answer(v / 1000 for v in relative(s)),
    "xywh in 0..1000": lambda s: answer(xywh(relative(s))),
    "xywh in px": lambda s: answer(xywh(s.xyxy_px)),
    "yxyx in 0..1000": lambda s: answer(yxyx(relative(s))),
    "centre, width, height in 0..1000": lambda s: answer(centred(relative(s))),
    "xyxy in 0..1000 of the picture before EXIF turns it": lambda s: answer(before_turning(s)),
}


def write_predictions(path: Path, rows: Rows, text: Callable[[Sample], str], finish: str = "stop") -> Path:
    questions = (Question(question_key("a", k), "a", row) for k, row in enumerate(rows, start=1))
    scored = (score(q, text(q.sample), parser="strict", tokens=9, finish_reason=finish) for q in questions)
    write_jsonl(path, map(asdict, scored))
    return path


def save_turned(folder: Path, rows: Rows) -> None:
    """Save pictures that have the sizes of the rows after EXIF rotates them by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = LEFT_TURN
    for row in rows:
        Image.new("RGB", (row.height, row.width)).save(folder / row.image, exif=exif)


@pytest.mark.parametrize("convention", WRITE)
def test_answers_in_another_box_format_are_named(tmp_path, convention):
    small = ((100, 80), (90, 120), (130, 100))  # the processor enlarges these
    rows = samples(1, sizes=small if "resizes" in convention else SIZES)
    images = tmp_path if "EXIF" in convention else None
    if images:
        save_turned(images, rows)
    found = attention(write_predictions(tmp_path / "predictions.jsonl", rows, WRITE[convention]), images)
    assert f"right if read as {convention}, " in found["coordinates"], found


@pytest.mark.parametrize(
    ("name", "text", "finish"),
    [
        ("length", lambda s: "The dogs from left to right are", "length"),
        ("boxes", lambda s: "</think>\n\nThe dog is on the left.", "stop"),
        ("reasoning", lambda s: f"{'The dog is behind the chair. ' * 8}\n{answer_text(relative(s), 'dog')}", "stop"),
        ("reasoning", lambda s: f"<think>The dog.\n{answer_text(relative(s), 'dog')}", "stop"),
        ("NaN logits", lambda s: "!" * 40, "stop"),
    ],
)
def test_bad_answers_are_reported(tmp_path, name, text, finish):
    assert name in attention(write_predictions(tmp_path / "predictions.jsonl", samples(2), text, finish))


def test_right_answers_read_as_px_are_reported_as_0_to_1000(tmp_path):
    rows = samples(4)
    questions = (Question(question_key("a", k), "a", row) for k, row in enumerate(rows, start=1))
    scored = [
        score(q, answer(relative(q.sample)), parser="released_eval", coordinates="px", finish_reason="stop")
        for q in questions
    ]
    write_jsonl(tmp_path / "predictions.jsonl", map(asdict, scored))
    assert "right if read as xyxy in 0..1000, " in attention(tmp_path / "predictions.jsonl")["coordinates"]


# --- samples ----------------------------------------------------------------------------------------------------------

BOXES: dict[str, Callable[[Sample], list[float]]] = {
    "xywh in px": lambda s: xywh(s.xyxy_px),
    "yxyx in px": lambda s: yxyx(s.xyxy_px),
    "centre, width, height in px": lambda s: centred(s.xyxy_px),
    "xyxy in 0..1000": relative,
    "xyxy in 0..1": lambda s: [v / 1000 for v in relative(s)],
    "xywh in 0..1": lambda s: [v / 1000 for v in xywh(relative(s))],
    "xyxy in px of the picture as Qwen3-VL resizes it": resized,
    "xyxy in px of the picture as InternVL3.5 resizes it": lambda s: resized(s, INTERNVL),
}


def write_samples(path: Path, rows: Rows, box: Callable[[Sample], list[float]] | None = None) -> Path:
    write_jsonl(path, (sample_row(row) | ({"bbox": box(row)} if box else {}) for row in rows))
    return path


@pytest.mark.parametrize("convention", BOXES)
def test_samples_in_another_box_format_are_named(tmp_path, convention):
    small = ((100, 80), (90, 120), (130, 100))
    rows = samples(3, sizes=small if "resizes" in convention else SIZES)
    found = attention(write_samples(tmp_path / "a.jsonl", rows, BOXES[convention]))
    assert found["coordinates"].endswith(f"look like {convention}"), found


def test_truths_of_rl_rows_in_px_are_named(tmp_path):
    rows = samples(5)
    write_rl_parquet(tmp_path / "rl.parquet", rows, "train", tmp_path)
    table = pq.read_table(tmp_path / "rl.parquet")
    changed = table.to_pylist()
    for row, sample in zip(changed, rows, strict=True):
        row["reward_model"]["ground_truth"] = list(sample.xyxy_px)
    pq.write_table(pa.Table.from_pylist(changed, table.schema), tmp_path / "rl.parquet")
    assert attention(tmp_path / "rl.parquet")["coordinates"].endswith("look like xyxy in px")


def test_pictures_with_an_exif_rotation_are_reported(tmp_path):
    rows = samples(6)
    save_turned(tmp_path, rows)
    assert attention(write_samples(tmp_path / "right.jsonl", rows), tmp_path) == {}
    stored = [Sample(row.id, row.image, row.height, row.width, row.sent, (1.0, 1.0, 90.0, 90.0)) for row in rows]
    found = attention(write_samples(tmp_path / "stored.jsonl", stored), tmp_path)
    turned = sum(row.width != row.height for row in rows)
    assert found["pictures"] == f"{turned} of 60 rows give the size before the EXIF rotation"


# --- right files ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.tuples(st.integers(64, 2600), st.integers(64, 2600)), min_size=1, max_size=4),
    right=st.floats(0.3, 1.0),
    count=st.integers(1, 80),
)
def test_right_files_need_no_attention(tmp_path, seed, sizes, right, count):
    """For any picture sizes, and any share of right answers."""
    rows = samples(seed, count, tuple(sizes))
    draw = random.Random(seed)

    def text(sample: Sample) -> str:
        elsewhere = draw.choice(samples(draw.randrange(10**6), 1, ((sample.width, sample.height),)))
        return answer(relative(sample if draw.random() < right else elsewhere))

    write_rl_parquet(tmp_path / "rl.parquet", rows, "train", tmp_path)
    files = (
        write_predictions(tmp_path / "predictions.jsonl", rows, text),
        write_samples(tmp_path / "a.jsonl", rows),
        tmp_path / "rl.parquet",
    )
    for path in files:
        assert attention(path) == {}, path


@pytest.mark.skipif("EGM_REAL_DATA" not in os.environ, reason="EGM_REAL_DATA is not set")
def test_real_samples_and_pictures_need_no_attention(tmp_path):
    real = Path(os.environ["EGM_REAL_DATA"]) / "refcocos_val2017"
    rows = [json.loads(line) for line in (real / "matched_with_images.jsonl").read_text().splitlines()]
    found = [
        Sample(str(k), row["image"], row["width"], row["height"], row["expression"], tuple(row["bbox_xyxy"]))
        for k, row in enumerate(rows)
        if row["bbox_xyxy"]
    ]
    assert len(found) == 32
    assert attention(write_samples(tmp_path / "a.jsonl", found), real) == {}
    path = write_predictions(tmp_path / "predictions.jsonl", found, lambda s: answer(relative(s)))
    assert attention(path, real) == {}


def test_the_command_says_what_to_change(tmp_path):
    path = write_predictions(tmp_path / "predictions.jsonl", samples(7), WRITE["xyxy in px"])
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_rl.evaluation.doctor", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "!!  coordinates" in done.stdout and "Use a checkpoint of Qwen3-VL" in done.stdout
    right = write_predictions(tmp_path / "right.jsonl", samples(7), lambda s: answer(relative(s)))
    done = subprocess.run(
        [sys.executable, "-m", "qwen3vl_rl.evaluation.doctor", right], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "!!" not in done.stdout, done.stdout


# --- earlier bugs -----------------------------------------------------------------------------------------------------


def sft_parquet(path: Path, texts: list[str]) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>Locate the dog, output its bbox coordinates using JSON format"},
                {"role": "assistant", "content": text},
            ],
            "images": [f"{k}.jpg"],
        }
        for k, text in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_sft_rows_are_checked_without_picture_sizes(tmp_path):
    rows = samples(8)
    right = sft_parquet(tmp_path / "right.parquet", [answer(relative(row)) for row in rows])
    assert attention(right) == {}
    wrong = sft_parquet(tmp_path / "wrong.parquet", [answer(xywh(relative(row))) for row in rows])
    assert attention(wrong)["coordinates"].endswith("look like xywh in 0..1000")


@pytest.mark.parametrize("bad", [[0, 0, 9000, 9000], [0, 0, 1900, 1500], [0, 0, int("9" * 400), 5]], ids=str)
def test_one_odd_box_among_many_changes_nothing(tmp_path, bad):
    rows = samples(9, 300, ((2000, 1600),))
    boxes = [relative(row) for row in rows[:-1]] + [bad]
    written = [sample_row(row) | {"bbox": list(box)} for row, box in zip(rows, boxes, strict=True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    assert attention(tmp_path / "a.jsonl")["coordinates"].endswith("look like xyxy in 0..1000")


def test_a_syntax_that_the_parser_does_not_read_is_no_other_convention(tmp_path):
    def text(sample: Sample) -> str:
        return "".join(
            f"{name} {v} " for name, v in zip(("xmin:", "ymin:", "xmax:", "ymax:"), relative(sample), strict=True)
        )

    rows = samples(10)
    write_predictions(tmp_path / "predictions.jsonl", rows, text)
    found = {finding.name: finding for finding in look(tmp_path / "predictions.jsonl", None)}["coordinates"]
    assert "right if read as xyxy in 0..1000, " in found.found and "does not read" in found.means


def test_a_sentence_around_the_box_is_no_reasoning(tmp_path):
    def text(sample: Sample) -> str:
        return f"The bounding box coordinates of the red dog that sits on the left are: {list(relative(sample))}"

    assert attention(write_predictions(tmp_path / "predictions.jsonl", samples(11), text)) == {}


def test_one_split_of_several_is_named(tmp_path):
    rows = samples(12, 240)
    questions = [Question(question_key(f"s{k % 8}", k), f"s{k % 8}", row) for k, row in enumerate(rows, start=1)]
    scored = [
        score(
            q,
            WRITE["xyxy in px"](q.sample) if q.split == "s3" else answer(relative(q.sample)),
            parser="strict",
            finish_reason="stop",
        )
        for q in questions
    ]
    write_jsonl(tmp_path / "predictions.jsonl", map(asdict, scored))
    found = attention(tmp_path / "predictions.jsonl")["coordinates"]
    assert found.startswith("s3: ") and "right if read as xyxy in px, " in found


def test_an_empty_file_needs_attention(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert attention(tmp_path / "a.jsonl") == {"rows": "the file has no rows"}
