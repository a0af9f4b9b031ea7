"""The shell scripts of examples/data_preprocess, from annotations to parquet."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.refcoco import EVAL_SPLITS

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "examples" / "data_preprocess"


def bash(script, *arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("TRAIN_JSON", "VAL_DIR")}
    environment |= {name: str(value) for name, value in variables.items()}
    return subprocess.run(["bash", SCRIPTS / script, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """RefShapes with the file names of the RefCOCO family."""
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=12, val=10, seed=0)
    (folder / "val").mkdir()
    for split in EVAL_SPLITS:
        (folder / "val" / f"{split}.jsonl").write_bytes((folder / "eval/refshapes_val.jsonl").read_bytes())
    return folder


def test_grounding_scripts(world, tmp_path):
    shared = {"BASE_IMG_PATH": world / "images", "OUTPUT_DIR": tmp_path, "VAL_DIR": world / "val"}
    for arguments, rows in (([], 3), (["--choice", "released"], 8)):
        done = bash("grounding_val.sh", *arguments, **shared)
        assert done.returncode == 0, done.stderr
        assert len(pd.read_parquet(tmp_path / "val_grounding.parquet")) == rows
    done = bash("grounding_all.sh", **shared, TRAIN_JSON=world / "refshapes_train.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "train_grounding.parquet")) == 12
    done = bash("grounding_all.sh", **shared, TRAIN_JSON=world / "val/refcoco_val.jsonl")
    assert done.returncode == 1 and "expected no image of the evaluation files" in done.stdout


def test_training_rows_with_absolute_image_paths(world, tmp_path):
    rows = [json.loads(line) for line in (world / "refshapes_train.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "train.jsonl", (row | {"image": f"{world}/images/{row['image']}"} for row in rows))
    shared = {"BASE_IMG_PATH": world / "images", "OUTPUT_DIR": tmp_path, "VAL_DIR": world / "val"}
    done = bash("grounding_all.sh", **shared, TRAIN_JSON=tmp_path / "train.jsonl")
    assert done.returncode == 0 and "12 rows, 0 problems" in done.stdout, done.stderr


def test_amodal_script(tmp_path):
    shape = [0, 0, 60, 0, 60, 40, 0, 40]
    visible = {"size": [50, 100], "counts": [0, 500, 4500]}
    region = {"name": "cup", "segmentation": shape, "occlude_rate": 0.8, "visible_mask": visible}
    for year, image_id in (("train2014", 1), ("val2014", 2)):
        name = f"COCO_{year}_{image_id:012d}.jpg"
        (tmp_path / "coco" / year).mkdir(parents=True)
        Image.new("RGB", (100, 50)).save(tmp_path / "coco" / year / name)
        (tmp_path / f"{year}.json").write_text(json.dumps({"image_id": image_id, "url": name, "regions": [region]}))
    files = {"TRAIN_JSON": tmp_path / "train2014.json", "VAL_JSON": tmp_path / "val2014.json"}
    done = bash("amodal.sh", BASE_IMG_PATH=tmp_path, OUTPUT_DIR=tmp_path / "out", **files)
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_parquet(tmp_path / "out/train_amodal.parquet").itertuples()
    assert row.prompt[0]["content"] == "<image>Locate cup amodally, output its bbox coordinates using JSON format"
    assert list(row.reward_model["ground_truth"]) == [0, 0, 600, 800]
    (evaluation,) = (tmp_path / "out/eval/cocoa_val_heavy.jsonl").read_text().splitlines()
    assert json.loads(evaluation)["modal_bbox"] == [0, 0, 10, 50]


@pytest.mark.parametrize("script", ["grounding_val.sh", "grounding_all.sh", "amodal.sh"])
def test_a_missing_variable_is_named(tmp_path, script):
    done = bash(script, BASE_IMG_PATH=tmp_path)
    assert (
        done.returncode == 2 and done.stderr.startswith("error: OUTPUT_DIR is not set") and done.stderr.count("\n") == 1
    )
