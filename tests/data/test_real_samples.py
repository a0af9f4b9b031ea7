"""Real annotations through the converters: RefCOCO records, COCOA scenes, RefCOCOS images, ReferItGame."""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.layouts.cocoa import read_scenes
from qwen3vl_rl.data.refcoco import split_name
from qwen3vl_rl.data.samples import check_images, iter_samples, read_samples
from qwen3vl_rl.data.tools.mirror import CannotMirrorError, mirror
from qwen3vl_rl.grounding import eval_iou, px_to_1000

DATA = Path(os.environ.get("EGM_REAL_DATA", ""))
pytestmark = [
    pytest.mark.skipif("EGM_REAL_DATA" not in os.environ, reason="EGM_REAL_DATA is not set"),
    pytest.mark.slow,
]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_85_refcoco_sentences_land_in_their_split_with_their_box(run, tmp_path):
    path = DATA / "refcoco_tfds_4img/refs.jsonl"
    assert run("convert", "tfds", "--files", path, "--out", tmp_path).code == 0
    wanted = defaultdict(list)
    for row in read_rows(path):
        x, y, width, height = row["bbox_xywh"]
        split = split_name(row["dataset"], row["split_by"], row["split"])
        wanted[split] += [(row["file_name"], sent, x, y, x + width, y + height) for sent in row["sentences"]]
    found = {file.stem: read_samples(file) for file in tmp_path.rglob("*.jsonl")}
    assert found.keys() == wanted.keys() and len(found) == 16
    assert sum(map(len, found.values())) == 85
    for split, samples in found.items():
        for sample, (file_name, sent, *xyxy_px) in zip(samples, wanted[split], strict=True):
            assert (Path(sample.image).name, sample.sent) == (file_name, sent)
            assert sample.xyxy_px == pytest.approx(xyxy_px, abs=0.005)


def test_the_24_amodal_pairs_of_cocoa_equal_the_derived_boxes():
    pairs = 0
    derived = {
        (row["image_id"], row["region"]): row for row in read_rows(DATA / "cocoa_demo5/amodal_visible_boxes.jsonl")
    }
    for path in (DATA / "cocoa_demo5/annotations").glob("*.json"):
        for _, scene in read_scenes(path):
            for index, region in enumerate(scene.regions):
                row = derived.pop((scene.image_id, index))
                assert (scene.width, scene.height) == (row["width"], row["height"])
                assert region.amodal_xyxy_px == pytest.approx(row["amodal_xyxy"], abs=0.5)
                assert region.modal_xyxy_px == pytest.approx(row["visible_xyxy"], abs=0.5)
                pairs += row["occluded"]
    assert pairs == 24 and not derived


def test_cocoa_samples_match_their_images(run, tmp_path):
    files = sorted((DATA / "cocoa_demo5/annotations").glob("*.json"))
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco/val2014").symlink_to(DATA / "cocoa_demo5/images")
    arguments = ["--files", *files, "--name", "cocoa_val", "--outside", "clip", "--out", tmp_path]
    done = run("convert", "cocoa", *arguments)
    assert done.code == 0 and "cocoa_val_heavy" in done.out
    done = run("check", *(tmp_path / "eval").iterdir(), "--images", tmp_path)
    assert done.code == 0 and done.out.count(" 0 problems") == 3


@pytest.fixture(scope="module")
def refcocos(tmp_path_factory):
    """(path of evaluation rows, original rows) of the 32 RefCOCOS rows with an image and a referent."""
    rows = [row for row in read_rows(DATA / "refcocos_val2017/matched_with_images.jsonl") if row["bbox_xyxy"]]
    path = tmp_path_factory.mktemp("refcocos") / "refcocos.jsonl"
    names = ("image", "width", "height")
    evaluation = ({n: row[n] for n in names} | {"sent": row["expression"], "bbox": row["bbox_xyxy"]} for row in rows)
    write_jsonl(path, evaluation)
    return path, rows


def test_refcocos_rows_round_trip_between_px_and_1000_within_one_unit(run, refcocos, tmp_path):
    path, rows = refcocos
    folder = DATA / "refcocos_val2017"
    samples = read_samples(path)
    assert len(samples) == 32
    check_images([(path, number, sample) for number, sample in enumerate(samples, start=1)], folder)
    out = tmp_path / "refcocos.parquet"
    assert run("rl_parquet", "--samples", path, "--images", folder, "--split", "test", "--out", out).code == 0
    assert run("convert", "released", "--files", out, "--out", tmp_path).code == 0
    for back, sample, row in zip(read_samples(tmp_path / "eval/refcocos.jsonl"), samples, rows, strict=True):
        units = px_to_1000(back.xyxy_px, back.width, back.height)
        assert units == pytest.approx(row["normalized_1000"], abs=1)
        assert back.xyxy_px == pytest.approx(sample.xyxy_px, abs=max(sample.width, sample.height) / 1000)
        assert eval_iou(units, sample.xyxy_px, sample.width, sample.height) > 0.9


def test_real_images_are_flipped_with_their_boxes(run, refcocos, tmp_path):
    path, _ = refcocos
    (tmp_path / "images").symlink_to(DATA / "refcocos_val2017/images")
    done = run("flip", "--samples", path, "--images", tmp_path, "--out", tmp_path / "flip.jsonl")
    assert done.code == 0, done.err
    assert run("check", tmp_path / "flip.jsonl", "--images", tmp_path).code == 0
    done = run("check", tmp_path / "flip.jsonl", "--evaluation", path)
    assert done.code == 1 and " 0 problems" not in done.out


def test_the_whole_referitgame_is_converted_and_checked(run, tmp_path):
    folder = DATA / "referitgame_refclef"
    done = run("convert", "referit", "--folder", folder, "--out", tmp_path)
    counts = [line.split() for line in done.out.splitlines()]
    assert counts == [["referit_train", "54,134"], ["referit_val", "5,842"], ["referit_test", "60,105"]]
    held_out = [tmp_path / "eval/referit_val.jsonl", tmp_path / "eval/referit_test.jsonl"]
    done = run("check", tmp_path / "referit_train.jsonl", "--evaluation", *held_out)
    assert done.code == 0, done.out


def test_most_real_expressions_can_be_mirrored(run, tmp_path):
    run("convert", "referit", "--folder", DATA / "referitgame_refclef", "--out", tmp_path)
    sents = [sample.sent for sample in iter_samples(tmp_path / "eval/referit_val.jsonl")]
    left_out = 0
    for sent in sents:
        try:
            assert mirror(mirror(sent)) == sent
        except CannotMirrorError:
            left_out += 1
    assert 0 < left_out < 0.03 * len(sents)
