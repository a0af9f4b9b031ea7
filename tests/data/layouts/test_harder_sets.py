"""Ref-L4, Ref-Adv-s and GroundingME, with files of our making that have the columns the projects' programs read."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qwen3vl_rl.data.samples import read_samples


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "JPEG")
    return buffer.getvalue()


def parquet(path: Path, *rows: dict) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


REF_L4 = {
    "id": 1,
    "caption": "Within the frame, an antique camera.",
    "bbox": [580.6163330048, 179.4965209869, 93.59924316159993, 112.1013793848],
    "bbox_area": 10492.6,
    "bbox_id": "o365_1",
    "ori_category_id": "o365_64",
    "image_id": "o365_922765",
    "height": 741,
    "width": 1024,
    "file_name": "objects365_v2_00922765.jpg",
    "is_rewrite": True,
    "split": "val",
}


def test_ref_l4_is_written_by_split(run, tmp_path):
    path = parquet(tmp_path / "ref-l4-val.parquet", REF_L4, REF_L4 | {"id": 2, "split": "test"})
    assert run("convert", "ref_l4", "--files", path, "--out", tmp_path).code == 0
    (sample,) = read_samples(tmp_path / "eval" / "ref_l4_val.jsonl")
    assert (sample.id, sample.image) == ("ref_l4_1_0", "ref_l4/objects365_v2_00922765.jpg")
    assert sample.xyxy_px == (580.62, 179.5, 674.22, 291.6)
    assert len(read_samples(tmp_path / "eval" / "ref_l4_test.jsonl")) == 1


REF_ADV = {"image": {"bytes": jpeg(60, 40)}, "file_name": "000000547144.jpg", "normal_caption": "the cup", "row_idx": 0}


def test_ref_adv_writes_its_images_once(run, tmp_path):
    rows = [REF_ADV | {"solution": [1.5, 2.0, 30.0, 40.0]}, REF_ADV | {"solution": [5.0, 2.0, 30.0, 40.0]}]
    path = parquet(tmp_path / "train-00000.parquet", *rows)
    done = run("convert", "ref_adv", "--files", path, "--images", tmp_path / "images", "--out", tmp_path)
    assert done.code == 0, done.err
    samples = read_samples(tmp_path / "eval" / "ref_adv_s.jsonl")
    assert [sample.xyxy_px for sample in samples] == [(1.5, 2.0, 30.0, 40.0), (5.0, 2.0, 30.0, 40.0)]
    assert (tmp_path / "images" / samples[0].image).read_bytes() == REF_ADV["image"]["bytes"]
    assert run("check", tmp_path / "eval" / "ref_adv_s.jsonl", "--images", tmp_path / "images").code == 0


ME = {
    "id": 7,
    "image": {"bytes": jpeg(60, 40)},
    "description": "the cup",
    "detection_type": "x",
    "width": 60,
    "height": 40,
    "subtask_l1": "Spatial",
    "subtask_l2": "Counting",
}


def test_rejections_of_grounding_me_have_no_box(run, tmp_path):
    rows = [
        ME | {"bbox": [1, 2, 30, 40]},
        ME | {"id": 8, "bbox": None, "subtask_l1": "Rejection", "subtask_l2": "Text"},
    ]
    path = parquet(tmp_path / "test-00000.parquet", *rows)
    done = run("convert", "grounding_me", "--files", path, "--images", tmp_path / "images", "--out", tmp_path)
    assert done.code == 0, done.err
    first, second = read_samples(tmp_path / "eval" / "grounding_me.jsonl", allow_no_referent=True)
    assert (first.id, first.xyxy_px) == ("spatial_counting_7_0", (1.0, 2.0, 30.0, 40.0))
    assert (second.id, second.xyxy_px, second.image) == ("rejection_text_8_0", None, "grounding_me/8.jpg")
    assert run("check", tmp_path / "eval" / "grounding_me.jsonl", "--images", tmp_path / "images").code == 0


@pytest.mark.parametrize(
    ("layout", "row", "message"),
    [
        (
            "ref_l4",
            REF_L4 | {"bbox": [900.0, 1.0, 300.0, 5.0]},
            'row 1: field "bbox": expected a box inside the 1024x741 image, xywh in px',
        ),
        ("ref_adv", REF_ADV | {"solution": [1.0, 2.0, 300.0, 40.0]}, 'row 1: field "solution"'),
        ("ref_adv", REF_ADV | {"image": {"bytes": b"x"}, "solution": [1.0, 2.0, 3.0, 4.0]}, 'row 1: field "image"'),
        ("grounding_me", ME | {"bbox": None}, 'row 1: field "bbox"'),
        ("grounding_me", ME | {"bbox": [1, 2, 30, 40], "id": "../7"}, 'row 1: field "id": expected an integer'),
        ("grounding_me", ME | {"bbox": [1, 2, 30, 40], "width": 40, "height": 60}, 'row 1: field "width"'),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(run, tmp_path, layout, row, message):
    path = parquet(tmp_path / "a.parquet", row)
    images = () if layout == "ref_l4" else ("--images", tmp_path / "images")
    done = run("convert", layout, "--files", path, "--out", tmp_path / "out", *images)
    assert done.code == 2 and message in done.err, done.err
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_two_pictures_with_one_name_are_rejected(run, tmp_path):
    box = {"solution": [1.5, 2.0, 30.0, 40.0]}
    path = parquet(tmp_path / "a.parquet", REF_ADV | box, REF_ADV | box | {"image": {"bytes": jpeg(60, 41)}})
    done = run("convert", "ref_adv", "--files", path, "--images", tmp_path / "images", "--out", tmp_path)
    assert done.code == 2 and 'row 2: field "image": expected the same picture as in' in done.err
