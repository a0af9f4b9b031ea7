"""Accuracy on rows that reviewers found right. The test files follow the layouts that other programs read."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3vl_rl.data.refcoco import EVAL_SPLITS
from qwen3vl_rl.data.reviews import read_reviews
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.reporting.tables import reviewed_table
from qwen3vl_rl.evaluation.scoring.metrics import summarize
from qwen3vl_rl.evaluation.scoring.results import Result
from qwen3vl_rl.evaluation.scoring.reviews import score_reviewed

BOX = [100.0, 100.0, 200.0, 200.0]  # xywh of `make_prediction`'s truth
ELSEWHERE = [600.0, 600.0, 100.0, 100.0]


def image(number: int) -> str:
    return f"coco/train2014/COCO_train2014_{number:012d}.jpg"


def ref_l4(folder: Path, rows: list[tuple[int, str, list[float], int]], split: str = "refcoco_val") -> Path:
    """`rows`: number of the image, expression, xywh px, quality."""
    images = [
        {"id": k, "original_id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "caption": sent, "tokens_negative": []}
        for k, (n, sent, _, _) in enumerate(rows)
    ]
    annotations = [
        {"id": k, "image_id": k, "original_id": 7, "bbox": box, "caption_quality": quality, "tokens_positive": []}
        for k, (_, _, box, quality) in enumerate(rows)
    ]
    path = folder / f"{split}_reviewed.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [], "licenses": []}))
    return path


def refcoco_m(path: Path, rows: list[tuple[int, list[str], list[float]]]) -> Path:
    found = [
        {
            "image_id": n,
            "file_name": f"COCO_train2014_{n:012d}.jpg",
            "samples": [{"id": 1, "image_id": n, "label": "dog", "sentences": sents, "bbox": box}],
        }
        for n, sents, box in rows
    ]
    pq.write_table(pa.Table.from_pylist(found), path)
    return path


@pytest.fixture
def result(make_prediction):
    """A result with six questions, of which the first three are answered correctly."""

    def make(split: str = "refcoco_val") -> Result:
        rows = [make_prediction(n, n < 3, split=split, image=image(n)) for n in range(6)]
        rows = [replace(row, sent=f"The dog, no. {number}") for number, row in enumerate(rows)]
        return Result("ours", rows, summarize(rows), {})

    return make


def test_rows_are_matched_by_image_sentence_and_box(result, tmp_path):
    rows = [
        (0, "the dog no 0", BOX, 1),  # differs in punctuation and case
        (1, "the dog no 1", BOX, 0),
        (2, "the dog no 2", ELSEWHERE, 1),  # another object with the same expression
        (3, "the dog no 3", [101.0, 99.0, 200.0, 200.0], 1),
        (4, "a cat", BOX, 1),  # another expression
        (5, "the dog no 5", BOX, 1),
        (9, "the dog no 9", BOX, 1),  # another image
    ]
    (part,) = score_reviewed(result(), read_reviews([ref_l4(tmp_path, rows)]))
    assert (part.right, part.wrong, part.unknown, part.unasked) == (3, 1, 2, 3)
    assert part.acc_all == 0.5 and part.acc == pytest.approx(1 / 3)
    low, high = part.interval
    assert low <= part.acc <= high


def test_refcoco_m_counts_what_it_kept(result, tmp_path):
    shards = [
        refcoco_m(tmp_path / "validation-00000-of-00002.parquet", [(0, ["The dog, no. 0", "left dog"], BOX)]),
        refcoco_m(
            tmp_path / "validation-00001-of-00002.parquet", [(4, ["The dog, no. 4"], [90.0, 90.0, 190.0, 190.0])]
        ),
    ]
    (part,) = score_reviewed(result(), read_reviews(shards))
    assert (part.review, part.right, part.wrong, part.unknown, part.unasked) == ("RefCOCO-M", 2, 0, 4, 1)
    assert part.acc == 0.5


def test_all_eight_splits_have_an_average(result, make_prediction, tmp_path):
    rows = [row for split in EVAL_SPLITS for row in result(split).predictions]
    whole = Result("ours", rows, summarize(rows), {})
    paths = [
        ref_l4(tmp_path, [(n, f"the dog no {n}", BOX, int(n != 5)) for n in range(6)], split) for split in EVAL_SPLITS
    ]
    *parts, average = score_reviewed(whole, read_reviews(paths))
    assert len(parts) == 8 and average.split == "average"
    assert (average.right, average.wrong, average.acc_all) == (40, 8, 0.5) and average.acc == pytest.approx(0.6)
    table = reviewed_table([whole], read_reviews(paths))
    assert [row[0] for row in table.rows] == [*EVAL_SPLITS, "average"]
    assert table.rows[0][3:5] == ("50.0", "60.0")


def test_a_review_in_which_nothing_is_right_has_no_accuracy(result, tmp_path):
    (part,) = score_reviewed(result(), read_reviews([ref_l4(tmp_path, [(0, "the dog no 0", BOX, 0)])]))
    assert (
        part.acc is None
        and reviewed_table([result()], read_reviews([ref_l4(tmp_path, [])])).rows[0][4] == "\N{EN DASH}"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption_quality": 0.5}, 'row 1: field "caption_quality": expected 0 or 1'),
        ({"bbox": [1, 2]}, 'row 1: field "bbox": expected four numbers'),
        ({"image_id": 9}, 'row 1: field "image_id"'),
    ],
)
def test_other_layouts_are_refused(tmp_path, change, message):
    path = ref_l4(tmp_path, [(0, "dog", BOX, 1)])
    whole = json.loads(path.read_text())
    whole["annotations"][0] |= change
    path.write_text(json.dumps(whole))
    with pytest.raises(InputError, match=message):
        read_reviews([path])


@pytest.mark.parametrize("name", ["refcoco_val.json", "refcoco_train_reviewed.json", "a.jsonl"])
def test_files_that_are_no_reviews_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"expected Ref-L4's SPLIT_reviewed\.json, or RefCOCO-M's"):
        read_reviews([tmp_path / name])


def test_a_row_of_the_review_judges_one_question(result, make_prediction, tmp_path):
    """Two overlapping objects with one expression, of which one is right; and one expression given twice."""
    near, far = [100.0, 100.0, 200.0, 200.0], [150.0, 100.0, 200.0, 200.0]
    path = ref_l4(tmp_path, [(0, "dog", far, 0), (0, "dog", near, 1), (1, "cat", near, 1), (1, "cat", near, 1)])
    rows = [make_prediction(k, True, split="refcoco_val", image=image(k // 2)) for k in range(4)]
    rows = [replace(row, sent=sent) for row, sent in zip(rows, ("dog", "dog", "cat", "cat"), strict=True)]
    rows[0] = replace(rows[0], xyxy_px=(150.0, 100.0, 350.0, 300.0))
    (part,) = score_reviewed(Result("ours", rows, summarize(rows), {}), read_reviews([path]))
    assert (part.right, part.wrong, part.unknown, part.unasked) == (3, 1, 0, 0)


def test_a_file_given_twice_is_rejected(tmp_path):
    path = ref_l4(tmp_path, [(0, "dog", BOX, 1)])
    with pytest.raises(InputError, match="expected each file only once"):
        read_reviews([path, path])


def test_an_average_needs_all_eight_splits(result, tmp_path):
    rows = [row for split in EVAL_SPLITS for row in result(split).predictions]
    whole = Result("ours", rows, summarize(rows), {})
    paths = [ref_l4(tmp_path, [(0, "the dog no 0", BOX, int(split != "refcoco_val"))], split) for split in EVAL_SPLITS]
    assert [part.split for part in score_reviewed(whole, read_reviews(paths))] == [*EVAL_SPLITS]
