"""Amodal regions of COCOA."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from qwen3vl_rl.data.layouts.cocoa import occlusion_level, read_scenes
from qwen3vl_rl.data.samples import read_samples

WIDTH, HEIGHT = 100, 80


def rle(x1: int, y1: int, x2: int, y2: int) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    encoded = coco_mask.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def polygon(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def region(name: str, segmentation, rate: float = 0.0, **more) -> dict:
    return {"name": name, "segmentation": segmentation, "occlude_rate": rate, "isStuff": 0, "order": 1} | more


@pytest.fixture
def annotation() -> dict:
    return {
        "image_id": 5,
        "url": "https://example.org/COCO_val2014_000000000005.jpg",
        "regions": [
            region("cup ", polygon(10, 10, 50.5, 40), 0.4, visible_mask=rle(10, 10, 30, 40)),
            region("spoon", polygon(60, 10, 120, 20), 0.1, visible_mask=rle(60, 10, 90, 20)),
            region("plate", [polygon(0, 0, 20, 20), polygon(30, 0, 40, 30)]),
            region("cat", rle(1, 2, 30, 40)),
            region("cat", polygon(1, 2, 30, 40)),
            region("sky", polygon(0, 0, 100, 20), isStuff=1),
            region("ghost", polygon(1, 2, 30, 40), 1.0, visible_mask=rle(0, 0, 0, 0)),
        ],
    }


def convert(run, folder, annotation, *more):
    (folder / "cocoa.json").write_text(json.dumps(annotation))
    arguments = ["--files", folder / "cocoa.json", "--name", "cocoa_val", "--out", folder, *more]
    done = run("convert", "cocoa", *arguments)
    samples = {s.sent: s for path in (folder / "eval").glob("*.jsonl") for s in read_samples(path)}
    return done, samples


def test_regions_become_amodal_samples_by_occlusion(run, tmp_path, annotation):
    done, samples = convert(run, tmp_path, annotation, "--outside", "clip")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {
        "cocoa_val_none.jsonl",
        "cocoa_val_partial.jsonl",
        "cocoa_val_heavy.jsonl",
    }
    cup = samples["cup"]
    assert cup.xyxy_px == (10, 10, 50.5, 40) and cup.modal_xyxy_px == (10, 10, 30, 40)
    assert cup.image == "coco/val2014/COCO_val2014_000000000005.jpg" and (cup.width, cup.height) == (WIDTH, HEIGHT)
    assert all(sample.prompt_name == "qwen3_amodal" for sample in samples.values())
    assert samples["spoon"].xyxy_px == (60, 10, 100, 20)
    assert samples["plate"].xyxy_px == samples["plate"].modal_xyxy_px == (0, 0, 40, 30)
    assert set(samples) == {"cup", "spoon", "plate"}
    for reason in ("left out 2: no unique expression", "left out 1: stuff", "left out 1: no visible part"):
        assert reason in done.out


def test_reasons_are_reported_if_no_region_is_left(run, tmp_path, annotation):
    annotation["regions"] = annotation["regions"][3:]
    done, _ = convert(run, tmp_path, annotation, "--outside", "clip")
    reasons = "; left out 2: no unique expression; left out 1: stuff; left out 1: no visible part\n"
    assert done.code == 2 and done.err.endswith(f"found none{reasons}") and not (tmp_path / "eval").exists()


def test_boxes_beyond_the_image_can_be_dropped(run, tmp_path, annotation):
    done, samples = convert(run, tmp_path, annotation, "--outside", "drop")
    assert "spoon" not in samples and "left out 1: amodal box extends beyond the image" in done.out


def test_expressions_replace_the_names(run, tmp_path, annotation):
    rows = [{"image_id": 5, "region": 3, "sent": "the grey cat"}, {"image_id": 5, "region": 3, "sent": "cat in front"}]
    (tmp_path / "sents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, samples = convert(run, tmp_path, annotation, "--outside", "clip", "--expressions", tmp_path / "sents.jsonl")
    assert set(samples) == {"the grey cat", "cat in front"}
    assert samples["cat in front"].xyxy_px == (1, 2, 30, 40)


def test_expressions_of_unknown_regions_are_an_error(run, tmp_path, annotation):
    (tmp_path / "sents.jsonl").write_text('{"image_id": 5, "region": 30, "sent": "x"}\n')
    done, _ = convert(run, tmp_path, annotation, "--outside", "clip", "--expressions", tmp_path / "sents.jsonl")
    assert done.code == 2 and "got image 5 region 30" in done.err


def test_published_files_state_the_size_of_their_images(tmp_path, annotation):
    annotation["regions"] = annotation["regions"][2:3]
    image = {"id": 5, "file_name": "COCO_val2014_000000000005.jpg", "width": WIDTH, "height": HEIGHT}
    (tmp_path / "cocoa.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    ((number, scene),) = read_scenes(tmp_path / "cocoa.json")
    assert number == 1 and (scene.width, scene.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("rate", "level"), [(0, "none"), (0.0001, "partial"), (0.25, "partial"), (0.26, "heavy"), (1, "heavy")]
)
def test_occlusion_levels(rate, level):
    assert occlusion_level(rate) == level


@pytest.mark.parametrize("counts", [[0, 10, 7990], "no run lengths"])
def test_uncompressed_and_bad_masks_do_not_crash(run, tmp_path, annotation, counts):
    annotation["regions"] = [region("cup", {"size": [HEIGHT, WIDTH], "counts": counts})]
    annotation["regions"][0]["visible_mask"] = rle(0, 0, 1, 10)
    done, samples = convert(run, tmp_path, annotation, "--outside", "clip")
    assert done.code in (0, 2) and done.err.count("\n") <= 1
    if counts == [0, 10, 7990]:
        assert samples["cup"].xyxy_px == (0, 0, 1, 10)
