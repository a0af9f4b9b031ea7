"""Filtering samples by difficulty and by held-out images."""

import json

import pytest

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.predictions import Question, append, score
from qwen3vl_rl.data.samples import read_samples

# By IoU: the answer's box in 0..1000, for a true box that covers the whole image
ANSWERS = {1.0: [0, 0, 1000, 1000], 0.6: [0, 0, 1000, 600], 0.25: [0, 0, 500, 500], 0.0: None}


@pytest.fixture
def samples(tmp_path):
    """Four samples, with unusual spaces in their lines that must be kept."""
    path = tmp_path / "train.jsonl"
    rows = [
        {"image": f"coco/x/{k}.jpg", "sent": f"s{k}", "bbox": [0, 0, 100, 100], "width": 100, "height": 100, "probe": v}
        for k, v in enumerate((1.0, 0.6, 0.25, None))
    ]
    path.write_text("".join(json.dumps(row, indent=None, separators=(" , ", " : ")) + "\n" for row in rows))
    return path


def predict(path, samples, ious, split="train", error=None):
    """Write a predictions.jsonl with one of these IoUs for each sample; None: no prediction."""
    with path.open("w") as file:
        for number, (sample, iou) in enumerate(zip(read_samples(samples), ious, strict=True), start=1):
            if iou is not None:
                text = json.dumps([{"bbox_2d": ANSWERS[iou], "label": "x"}]) if ANSWERS[iou] else "none"
                question = Question(f"{split}/{number:06d}", split, sample)
                append(file, score(question, text, parser="strict", error=error))
    return path


def kept(path):
    return [json.loads(line)["sent"] for line in path.read_text().splitlines()]


def test_filter_by_mean_iou(run, samples, tmp_path):
    a = predict(tmp_path / "a.jsonl", samples, [1.0, 0.6, 0.25, 0.0])
    b = predict(tmp_path / "b.jsonl", samples, [1.0, 0.0, 0.25, None])
    out = tmp_path / "out.jsonl"
    done = run("filter", "--samples", samples, "--predictions", a, b, "--iou", "0.2:0.5", "--out", out)
    assert done.code == 0, done.err
    assert kept(out) == ["s1", "s2"]
    assert set(out.read_bytes().splitlines()) <= set(samples.read_bytes().splitlines())
    assert "left out 1: too easy" in done.out and "left out 1: too hard" in done.out


def test_filter_by_pass_rate(run, samples, tmp_path):
    a = predict(tmp_path / "a.jsonl", samples, [1.0, 0.6, 0.25, 0.0])
    b = predict(tmp_path / "b.jsonl", samples, [1.0, 0.0, 0.25, 0.0])
    out = tmp_path / "out.jsonl"
    done = run("filter", "--samples", samples, "--predictions", a, b, "--pass-rate", "0.1:0.9", "--out", out)
    assert done.code == 0 and kept(out) == ["s1"]


def test_filter_by_a_column_of_ious(run, samples, tmp_path):
    out = tmp_path / "out.jsonl"
    done = run("filter", "--samples", samples, "--column", "probe", "--iou", "0:0.6", "--out", out)
    assert done.code == 0 and kept(out) == ["s1", "s2"] and "left out 1: no answer" in done.out


def test_failed_requests_are_skipped(run, samples, tmp_path):
    failed = predict(tmp_path / "a.jsonl", samples, [0.0] * 4, error="timeout")
    arguments = ["--samples", samples, "--iou", "0:1", "--out", tmp_path / "out.jsonl"]
    done = run("filter", *arguments, "--predictions", failed)
    assert done.code == 2 and "expected answers for train, found none" in done.err


def test_an_iou_that_is_not_a_number_is_named(run, samples, tmp_path):
    answers = predict(tmp_path / "a.jsonl", samples, [1.0] * 4)
    rows = [json.loads(line) | {"iou": "high"} for line in answers.read_text().splitlines()]
    write_jsonl(answers, rows)
    done = run(
        "filter", "--samples", samples, "--predictions", answers, "--iou", "0:1", "--out", tmp_path / "out.jsonl"
    )
    assert done.code == 2 and 'a.jsonl: row 1: field "iou": expected a number' in done.err


def test_held_out_images_are_left_out(run, samples, tmp_path):
    row = {"sent": "cat", "bbox": [0, 0, 5, 5], "width": 10, "height": 10}
    write_jsonl(tmp_path / "val.jsonl", [row | {"image": "coco_flip/x/1.jpg"}, row | {"image": "coco/x/3.jpg"}])
    out = tmp_path / "out.jsonl"
    done = run("filter", "--samples", samples, "--without-images-of", tmp_path / "val.jsonl", "--out", out)
    assert done.code == 0 and kept(out) == ["s0", "s2"] and "left out 2: its image is held out" in done.out


def test_absolute_image_paths_need_the_image_folder(run, samples, tmp_path):
    samples.write_text(samples.read_text().replace("coco/x", f"{tmp_path}/coco/x"))
    out = tmp_path / "out.jsonl"
    done = run("filter", "--samples", samples, "--column", "probe", "--iou", "0.5:1", "--out", out)
    assert done.code == 0 and kept(out) == ["s0", "s1"], done.err
    row = {"sent": "cat", "bbox": [0, 0, 5, 5], "width": 10, "height": 10}
    write_jsonl(tmp_path / "val.jsonl", [row | {"image": "coco_flip/x/1.jpg"}])
    arguments = ["--samples", samples, "--without-images-of", tmp_path / "val.jsonl", "--out", out]
    done = run("filter", *arguments)
    assert done.code == 2 and done.err.startswith("error: --images: expected the folder")
    done = run("filter", *arguments, "--images", tmp_path)
    assert done.code == 0 and kept(out) == ["s0", "s2", "s3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --iou, --pass-rate, --strong-column or --without-images-of"),
        (["--iou", "0:1"], "together with --predictions or --column"),
        (["--column", "probe"], "together with --predictions or --column"),
        (["--column", "probe", "--iou", "0.5"], "expected LOW:HIGH"),
        (["--column", "probe", "--iou", "0.9:0.1"], "expected LOW:HIGH"),
        (["--column", "width", "--iou", "0:1"], 'field "width": expected an IoU in 0..1'),
        (["--column", "none", "--iou", "0:1"], "expected at least one row to keep, found none; left out 4: no answer"),
    ],
)
def test_bad_options_give_one_line_and_change_nothing(run, samples, tmp_path, arguments, message):
    out = tmp_path / "out.jsonl"
    out.write_text("earlier")
    done = run("filter", "--samples", samples, "--out", out, *arguments)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
    assert out.read_text() == "earlier"


def test_predictions_of_an_earlier_file_are_rejected(run, samples, tmp_path):
    predictions = predict(tmp_path / "a.jsonl", samples, [1.0] * 4)
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[1:] + lines[:1]))
    arguments = ["--samples", samples, "--iou", "0:1", "--out", tmp_path / "out.jsonl"]
    done = run("filter", *arguments, "--predictions", predictions)
    expected = "expected the sample that the predictions answer, ('coco/x/0.jpg', 's0'), got ('coco/x/1.jpg', 's1')"
    assert done.code == 2 and f'train.jsonl: row 1: field "image, sent": {expected}' in done.err
