"""Which samples the report shows, and with which images."""

import shutil

import numpy as np
from PIL import Image

from qwen3vl_rl.evaluation.reporting.browser import browser_data, spread
from qwen3vl_rl.evaluation.scoring.metrics import is_correct


def test_every_split_and_outcome_is_among_the_first_samples(results):
    joined = [dict(zip("abc", rows, strict=True)) for rows in zip(*(r.predictions for r in results), strict=True)]
    kinds = [(rows["a"].split, tuple(map(is_correct, rows.values()))) for rows in spread(joined)]
    assert len(kinds) == len(joined)
    assert len(set(kinds[: len(set(kinds))])) == len(set(kinds)) == 8


def test_a_picture_that_cannot_be_decoded_does_not_cost_the_report(results, world, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(world / "images", images)
    broken = images / results[0].predictions[0].image
    broken.write_bytes(broken.read_bytes()[:200])
    shown = browser_data(results, images)["samples"]
    assert shown and results[0].predictions[0].image not in {sample["image"] for sample in shown}


def test_pictures_stay_within_their_budget(results, world, monkeypatch):
    monkeypatch.setattr("qwen3vl_rl.evaluation.reporting.browser.PICTURES_BYTES", 3_000)
    data = browser_data(results, world / "images")
    assert 0 < len(data["samples"]) < data["total"] == 24
    assert {sample["image"] for sample in data["samples"]} == set(data["pictures"])
    assert sum(map(len, list(data["pictures"].values())[:-1])) < 3_000


def test_photographs_stay_small(results, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    for row in results[0].predictions:
        (tmp_path / row.image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(tmp_path / row.image, "JPEG")
    pictures = browser_data(results, tmp_path)["pictures"].values()
    assert all(url.startswith("data:image/jpeg") for url in pictures)


def test_samples_on_which_models_differ_come_from_every_split_and_outcome_in_turn(results, world):
    only_rl = [result for result in results if result.name != "sft"]
    data = browser_data([results[0], results[1]], world / "images")
    outcomes = [tuple(answer["right"] for answer in sample["answers"]) for sample in data["samples"]]
    differing = [index for index, outcome in enumerate(outcomes) if len(set(outcome)) == 2]
    assert sorted(data["differing"]) == differing and data["total_differing"] == len(differing) == 12
    assert len({data["samples"][index]["split"] for index in data["differing"][:4]}) == 4
    assert browser_data(only_rl, world / "images")["total_differing"] == 24
    assert browser_data(results[:1], world / "images")["differing"] == []
