"""The tools `check` and `describe`."""

import json

import pyarrow as pa
import pytest
from PIL import Image

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.parquet import write_rows
from qwen3vl_rl.data.predictions import Question, append, score
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import read_samples
from sft.build_dataset import SFT_SCHEMA, read_traces, sft_row


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """RefShapes, and one file of each of our formats."""
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=24, val=6, seed=0)
    samples, images = read_samples(folder / "refshapes_train.jsonl"), folder / "images"
    traces = read_traces(folder / "refshapes_train_traces.jsonl")
    write_rl_parquet(folder / "rl.parquet", samples, "train", images)
    rows = (sft_row(sample, traces[sample.id].reasoning, images) for sample in samples)
    write_rows(folder / "sft.parquet", rows, SFT_SCHEMA)
    with (folder / "predictions.jsonl").open("w") as file:
        for number, sample in enumerate(samples, start=1):
            append(file, score(Question(f"s/{number:06d}", "s", sample), "no box", parser="strict"))
    return folder


FORMATS = ("refshapes_train.jsonl", "eval/refshapes_val.jsonl", "rl.parquet", "sft.parquet", "predictions.jsonl")


def test_every_format_passes(run, world):
    done = run("check", *(world / name for name in FORMATS), "--images", world / "images")
    assert done.code == 0, done.out
    assert done.out.count(" 0 problems") == len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_images_are_checked_with_the_images_option(run, world, tmp_path, name):
    done = run("check", world / name, "--images", tmp_path)
    rows = 6 if "val" in name else 24
    absolute = name.endswith(".parquet")  # parquet files contain absolute paths
    assert done.code == (0 if absolute else 1)
    assert f" {0 if absolute else rows} problems" in done.out


def test_all_problems_are_counted_and_the_first_ones_shown(run, tmp_path):
    good = {"id": "1", "image": "a.png", "sent": "cat", "bbox": [0, 0, 5, 5], "width": 10, "height": 10}
    rows = [good, good, good | {"id": "2", "bbox": [0, 0, 50, 5]}, good | {"id": 3, "sent": ""}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"torn')
    done = run("check", tmp_path / "a.jsonl", "--show", 3)
    assert done.code == 1
    *problems, summary = done.out.splitlines()
    assert [problem.split('"')[1] for problem in problems] == ["id", "bbox", "sent"]
    assert summary.endswith("a.jsonl: 5 rows, 1 repeated, 4 problems")


def test_evaluation_images_in_training_are_found_mirrored_or_not(run, tmp_path):
    row = {"sent": "cat", "bbox": [0, 0, 5, 5], "width": 10, "height": 10}
    images = ["coco/train2014/COCO_train2014_000000000001.jpg", "coco_flip/train2014/COCO_train2014_000000000002.jpg"]
    write_jsonl(tmp_path / "train.jsonl", [row | {"image": image} for image in [*images, "coco/train2014/3.jpg"]])
    write_jsonl(tmp_path / "val.jsonl", [row | {"image": f"val2017/00000000000{k}.jpg"} for k in (1, 2, 3)])
    done = run("check", tmp_path / "train.jsonl", "--evaluation", tmp_path / "val.jsonl")
    assert done.code == 1 and "2 problems" in done.out
    assert 'row 2: field "image": expected no image of the evaluation files' in done.out


def test_absolute_paths_are_compared_below_the_image_folder(run, world):
    arguments = [world / "rl.parquet", "--evaluation", world / "refshapes_train.jsonl", "--no-check-images"]
    done = run("check", *arguments, "--images", world / "images")
    assert done.code == 1 and " 24 problems" in done.out
    done = run("check", *arguments)
    assert done.code == 2 and "--images: expected the folder" in done.err


def test_a_refcoco_split_with_other_counts_is_a_problem(run, tmp_path):
    row = {"image": "a.png", "sent": "cat", "bbox": [0, 0, 5, 5], "width": 10, "height": 10}
    write_jsonl(tmp_path / "refcoco+_testA.jsonl", [row])
    done = run("check", tmp_path / "refcoco+_testA.jsonl")
    assert done.code == 1 and "expected the 5,726 rows of refcoco+_testA, found 1" in done.out


def test_describe_prints_numbers_and_draws_boxes(run, tmp_path):
    Image.new("RGB", (200, 100), "blue").save(tmp_path / "a.png")
    row = {"image": "a.png", "width": 200, "height": 100}
    rows = [
        row | {"sent": "one two three", "bbox": [0, 0, 200, 50]},
        row | {"sent": "one", "bbox": [0, 0, 20, 10]},
        row | {"sent": "nothing", "bbox": None},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    done = run("describe", tmp_path / "a.jsonl", "--sheet", tmp_path / "sheet.png", "--images", tmp_path)
    assert done.code == 0, done.err
    assert "3 rows, 1 images, 1 rows without a referent" in done.out
    words = next(line for line in done.out.splitlines() if "words" in line).split()
    assert words[-1] == "1.7"
    area = next(line for line in done.out.splitlines() if "box area" in line).split()
    assert area[-1] == "25.5"
    assert "small 50.0%, medium 0.0%, large 50.0%" in done.out
    sheet = Image.open(tmp_path / "sheet.png")
    assert (0, 255, 0) in {colour for _, colour in sheet.getcolors(1 << 20)}


def test_describe_needs_good_rows_and_an_image_folder(run, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"image": "a.png"}])
    assert 'field "width"' in run("describe", tmp_path / "a.jsonl").err
    assert "--images DIR" in run("describe", tmp_path / "a.jsonl", "--sheet", tmp_path / "s.png").err


def test_a_truncated_image_is_named_and_no_sheet_is_drawn(run, tmp_path):
    Image.effect_noise((100, 50), 80).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    write_jsonl(
        tmp_path / "a.jsonl", [{"image": "a.png", "width": 100, "height": 50, "sent": "x", "bbox": [0, 0, 9, 9]}]
    )
    done = run("describe", tmp_path / "a.jsonl", "--sheet", tmp_path / "sheet.png", "--images", tmp_path)
    assert done.code == 2 and 'row 1: field "image": expected an image that can be decoded in full' in done.err
    assert not (tmp_path / "sheet.png").exists()


def test_wrong_values_inside_parquet_are_named(run, world, tmp_path):
    table = pa.parquet.read_table(world / "rl.parquet")
    for column, value, field in [
        ("images", [], "images"),
        ("prompt", [], "prompt"),
        ("reward_model", {"style": "rule", "ground_truth": [0, 0, 1001, 5]}, "reward_model.ground_truth"),
        ("reward_model", None, "reward_model"),
        ("extra_info", None, "extra_info"),
    ]:
        rows = table.to_pylist()
        rows[4][column] = value
        pa.parquet.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "rl.parquet")
        done = run("check", tmp_path / "rl.parquet")
        assert done.code == 1 and f'rl.parquet: row 5: field "{field}"' in done.out, done.out


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", "x"), ("height", 0), ("xyxy_px", [1, 2]), ("image", None), ("sent", 5), ("key", 7), ("iou", "x")],
)
def test_wrong_values_inside_predictions_are_named(run, world, tmp_path, name, value):
    rows = [json.loads(line) for line in (world / "predictions.jsonl").read_text().splitlines()]
    without = {key: kept for key, kept in rows[1].items() if key != name}
    write_jsonl(tmp_path / "p.jsonl", [rows[0], rows[1] | {name: value}, without, rows[3]])
    done = run("check", tmp_path / "p.jsonl")
    assert done.code == 1 and f'row 2: field "{name}": expected' in done.out and " 2 problems" in done.out
    assert f'row 3: field "{name}": expected this field in every prediction' in done.out


def test_wrong_turns_inside_sft_parquet_are_named(run, world, tmp_path):
    table = pa.parquet.read_table(world / "sft.parquet")
    good = table.to_pylist()
    for messages in ([], good[0]["messages"][:1], [good[0]["messages"][0], {"role": "assistant", "content": "no box"}]):
        rows = json.loads(json.dumps(good))
        rows[2]["messages"] = messages
        pa.parquet.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "sft.parquet")
        done = run("check", tmp_path / "sft.parquet")
        assert done.code == 1 and 'sft.parquet: row 3: field "messages"' in done.out
