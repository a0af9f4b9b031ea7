"""Real COCO images and expressions (RefCOCOS, val2017) through the sample reader, the image check and RL parquet."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from qwen3vl_rl.data.rl_parquet import write_rl_parquet
from qwen3vl_rl.data.samples import check_images, read_samples, write_jsonl
from qwen3vl_rl.grounding import eval_iou

DATA = os.environ.get("EGM_REAL_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="EGM_REAL_DATA is not set")


@pytest.fixture(scope="module")
def folder():
    return Path(DATA) / "refcocos_val2017"


@pytest.fixture(scope="module")
def rows(folder):
    return [json.loads(line) for line in (folder / "matched_with_images.jsonl").open()]


def test_real_rows_become_rl_parquet_and_keep_their_boxes(folder, rows, tmp_path):
    evaluation = [
        {**{key: row[key] for key in ("image", "width", "height")}, "sent": row["expression"], "bbox": row["bbox_xyxy"]}
        for row in rows
        if row["bbox_xyxy"]
    ]
    path = tmp_path / "refcocos.jsonl"
    write_jsonl(path, evaluation)
    samples = read_samples(path)
    assert len(samples) == 32
    check_images([(path, number, sample) for number, sample in enumerate(samples, start=1)], folder)
    write_rl_parquet(tmp_path / "rl.parquet", samples, "test", folder)
    for row, sample in zip(pd.read_parquet(tmp_path / "rl.parquet").itertuples(), samples, strict=True):
        truth_1000 = tuple(row.reward_model["ground_truth"])
        assert eval_iou(truth_1000, sample.xyxy_px, sample.width, sample.height) > 0.9
