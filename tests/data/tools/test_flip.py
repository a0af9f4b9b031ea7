"""Flipped samples and images."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qwen3vl_rl.data.entries import image_key
from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.samples import Sample, read_samples
from qwen3vl_rl.data.tools.flip import flip_box, flip_path, flip_sample
from qwen3vl_rl.errors import InputError

hundredths = st.integers(0, 200_000).map(lambda v: v / 100)


@given(st.tuples(hundredths, hundredths, hundredths, hundredths), st.integers(2000, 5000))
def test_flipping_a_box_twice_is_the_identity(box, width):
    x1, y1, x2, y2 = min(box[0], box[2]), box[1], max(box[0], box[2]), box[3]
    flipped = flip_box((x1, y1, x2, y2), width)
    assert 0 <= flipped[0] <= flipped[2] <= width
    assert flip_box(flipped, width) == (x1, y1, x2, y2)


def test_a_sample_keeps_its_meaning(tmp_path):
    sample = Sample("a", "coco/train2014/x.jpg", 100, 50, "left cup", (10, 5, 30, 40), (10, 5, 20, 40))
    flipped = flip_sample(tmp_path, 1, sample)
    assert flipped == Sample(
        "a_flip", "coco_flip/train2014/x.jpg", 100, 50, "right cup", (70, 5, 90, 40), (80, 5, 90, 40)
    )


@pytest.mark.parametrize(
    ("image", "key"),
    [
        ("coco/train2014/COCO_train2014_000000581857.jpg", "000000581857"),
        ("/data/coco_flip/train2014/COCO_train2014_000000581857.jpg", "000000581857"),
        ("val2017/000000581857.jpg", "000000581857"),
        ("mine_flip/a/x.png", "mine/a/x.png"),
        ("/disk/mine_flip/a/x.png", "mine/a/x.png"),
        ("mine/a/x.png", "mine/a/x.png"),
        ("_flip/x.png", "x.png"),
    ],
)
def test_an_image_and_its_mirror_image_have_one_key(image, key):
    assert image_key(image, Path("/disk")) == key


@pytest.mark.parametrize("image", ["x.png", "mine/a/x.png"])
def test_flipped_paths_are_relative_and_keep_the_image_key(tmp_path, image):
    copy = flip_path(tmp_path, 1, image)
    assert copy != image and image_key(copy) == image_key(image)
    with pytest.raises(InputError, match='field "image": expected a path relative to the image folder'):
        flip_path(tmp_path, 1, f"/{image}")


@pytest.fixture
def world(tmp_path):
    """Three images and three samples, one of which cannot be mirrored."""
    (tmp_path / "mine").mkdir()
    pixels = np.zeros((50, 100, 3), dtype=np.uint8)
    pixels[5:40, 10:30] = (255, 0, 0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(pixels).save(tmp_path / "mine" / name)
    row = {"width": 100, "height": 50, "bbox": [10, 5, 30, 40]}
    rows = [
        row | {"id": "1", "image": "mine/a.png", "sent": "left square"},
        row | {"id": "2", "image": "mine/b.png", "sent": "red square"},
        row | {"id": "3", "image": "mine/c.png", "sent": "second square"},
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    return tmp_path


def test_images_boxes_and_expressions_are_flipped_together(run, world):
    out = world / "flip.jsonl"
    done = run("flip", "--samples", world / "train.jsonl", "--images", world, "--out", out)
    assert done.code == 0, done.err
    assert "2 rows" in done.out and "left out 1: it counts without saying from where" in done.out
    samples = read_samples(out)
    assert [sample.sent for sample in samples] == ["right square", "red square"]
    for sample in samples:
        x1, y1, x2, y2 = map(int, sample.xyxy_px)
        red = np.asarray(Image.open(world / sample.image))[..., 0] == 255
        assert red[y1:y2, x1:x2].all() and red.sum() == (x2 - x1) * (y2 - y1)
    assert not (world / "mine_flip/c.png").exists()


def test_a_second_run_keeps_the_images_that_are_there(run, world):
    arguments = ["--samples", world / "train.jsonl", "--images", world, "--out", world / "flip.jsonl"]
    assert run("flip", *arguments).code == 0
    before = (world / "mine_flip/a.png").stat().st_mtime_ns
    (world / "mine_flip/b.png").unlink()
    assert run("flip", *arguments).code == 0
    assert (world / "mine_flip/a.png").stat().st_mtime_ns == before and (world / "mine_flip/b.png").exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "turned"])
def test_a_bad_image_is_named_and_no_jsonl_appears(run, world, damage):
    image = world / "mine/b.png"
    data = image.read_bytes()
    if damage == "missing":
        image.unlink()
    elif damage == "cut":
        image.write_bytes(data[: len(data) * 2 // 3])
    else:
        Image.new("RGB", (50, 100)).save(image)
    done = run("flip", "--samples", world / "train.jsonl", "--images", world, "--out", world / "flip.jsonl")
    assert done.code == 2 and f'train.jsonl: row 2: field "{"width" if damage == "turned" else "image"}"' in done.err
    assert not (world / "flip.jsonl").exists() and not list(world.rglob("*.part"))


def test_training_rows_are_flipped_too(run, world):
    row = json.loads((world / "train.jsonl").read_text().splitlines()[0])
    turns = [
        {"from": "human", "value": "<image>\n<ref>left square</ref>"},
        {"from": "gpt", "value": "<box>[100,100,300,800]</box>"},
    ]
    write_jsonl(
        world / "raw.jsonl", [{k: row[k] for k in ("id", "image", "width", "height")} | {"conversations": turns}]
    )
    assert run("flip", "--samples", world / "raw.jsonl", "--images", world, "--out", world / "flip.jsonl").code == 0
    (sample,) = read_samples(world / "flip.jsonl")
    assert sample.sent == "right square" and sample.xyxy_px == (70, 5, 90, 40)
