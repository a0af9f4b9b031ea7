"""Samples in both jsonl formats, and errors that name file, row and field."""

import json

import pytest
from PIL import Image

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.samples import check_images, read_samples
from qwen3vl_rl.errors import InputError

EVALUATION = {"image": "a.png", "sent": "the cat", "bbox": [10, 20, 60, 80], "width": 200, "height": 100}
TRAINING = {
    "id": "x1",
    "image": "a.png",
    "width": 200,
    "height": 100,
    "conversations": [
        {"from": "human", "value": "<image>\nPlease … describes: <ref>the cat</ref>"},
        {"from": "gpt", "value": "<ref>the cat</ref><box>[50,200,300,800]</box>"},
    ],
}


def write(path, *rows):
    write_jsonl(path, rows)
    return path


def test_both_formats_give_the_same_sample(tmp_path):
    (training,) = read_samples(write(tmp_path / "train.jsonl", TRAINING))
    (evaluation,) = read_samples(write(tmp_path / "eval.jsonl", EVALUATION))
    assert training.xyxy_px == evaluation.xyxy_px == (10, 20, 60, 80)
    assert training.sent == evaluation.sent == "the cat"
    assert (training.id, evaluation.id) == ("x1", "eval_1")


def test_modal_box_selects_the_amodal_prompt(tmp_path):
    rows = read_samples(write(tmp_path / "a.jsonl", EVALUATION, EVALUATION | {"modal_bbox": [10, 20, 30, 40]}))
    assert [row.prompt_name for row in rows] == ["qwen3", "qwen3_amodal"]


def test_rounding_overshoot_is_clipped(tmp_path):
    rows = [
        EVALUATION | {"bbox": [-0.01, 20, 200.01, 80]},
        EVALUATION | {"bbox": [150.1 + 0.2, 20, 200.00000000001, 80]},
    ]
    first, second = read_samples(write(tmp_path / "a.jsonl", *rows))
    assert first.xyxy_px == (0, 20, 200, 80)
    assert second.xyxy_px == (150.1 + 0.2, 20, 200, 80)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bbox": [10, 20, 201, 80]}, "bbox"),
        ({"bbox": [10, 20, 200.02, 80]}, "bbox"),
        ({"bbox": [-0.02, 20, 60, 80]}, "bbox"),
        ({"bbox": [60, 20, 10, 80]}, "bbox"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [0, 0, 10**400, 5]}, "bbox"),
        ({"modal_bbox": [0, 0, 500, 5]}, "modal_bbox"),
        ({"sent": ""}, "sent"),
        ({"image": 3}, "image"),
        ({"width": "200"}, "width"),
        ({"height": 0}, "height"),
        ({"height": True}, "height"),
    ],
)
def test_a_bad_field_is_named_with_file_and_row(tmp_path, change, field):
    path = write(tmp_path / "bad.jsonl", EVALUATION, EVALUATION | change)
    with pytest.raises(InputError, match=rf'bad\.jsonl: row 2: field "{field}": expected .+, got ') as error:
        read_samples(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "turns",
    [
        [],
        "text",
        [{"from": "gpt", "value": "no box"}],
        [{"from": "gpt", "value": "<box>[1,2,3]</box>"}],
        [{"from": "gpt", "value": "<box>[a,b,c,d]</box>"}],
        [{"from": "gpt", "value": "<box>[900,0,100,10]</box>"}],
        [{"from": "gpt", "value": "<box>[0,0,1100,10]</box>"}],
    ],
)
def test_bad_conversations_are_named(tmp_path, turns):
    path = write(tmp_path / "bad.jsonl", TRAINING | {"conversations": turns})
    with pytest.raises(InputError, match='row 1: field "conversations"'):
        read_samples(path)


@pytest.mark.parametrize("line", ["{", "[1]", "\n{}", "nothing"])
def test_broken_lines_are_named(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(EVALUATION) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl: row 2: "):
        read_samples(path)


def test_unicode_line_separators_do_not_split_rows(tmp_path):
    sent = "a\u0085b\u2028c\u2029d"
    rows = read_samples(write(tmp_path / "rows.jsonl", EVALUATION | {"sent": sent}, EVALUATION))
    assert [row.sent for row in rows] == [sent, "the cat"]


def test_non_utf8_files_are_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"sent": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"latin\.jsonl: row 1: .* expected UTF-8"):
        read_samples(tmp_path / "latin.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: expected a jsonl file"):
        read_samples(tmp_path / "none.jsonl")


def test_images_are_checked(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (100, 200)).save(tmp_path / "turned.png")
    for name, message in {
        "missing.png": 'row 1: field "image": expected a file below',
        "broken.png": 'row 1: field "image": expected a readable image',
        "turned.png": 'row 1: field "width": expected the image\'s size 100x200',
    }.items():
        path = write(tmp_path / "rows.jsonl", EVALUATION | {"image": name})
        with pytest.raises(InputError, match=message):
            check_images([(path, 1, read_samples(path)[0])], tmp_path)
    path = write(tmp_path / "rows.jsonl", EVALUATION)
    check_images([(path, 1, read_samples(path)[0])], tmp_path)


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = write(tmp_path / "rows.jsonl", EVALUATION)
    before = path.read_text()
    with pytest.raises(TypeError):
        write_jsonl(path, [EVALUATION, {"image": object()}])
    assert path.read_text() == before
