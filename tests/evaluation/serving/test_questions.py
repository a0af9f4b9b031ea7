"""Questions that are read, and files that are rejected."""

import json
import shutil

import pytest
from PIL import Image

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.questions import read_questions, readable_folder


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": "absent.png"}, "image"),
        ({"image": "../eval/refshapes_val.jsonl"}, "image"),
        ({"width": 161}, "width"),
        ({"width": "160"}, "width"),
        ({"sent": ""}, "sent"),
        ({"bbox": [1]}, "bbox"),
    ],
    ids=lambda value: str(value),
)
def test_bad_rows_name_file_row_and_field(world, copied_world, change_row, changes, field):
    change_row(copied_world / "refshapes_val.jsonl", 2, **changes)
    with pytest.raises(InputError, match=rf'refshapes_val\.jsonl: row 2: field "{field}"'):
        read_questions([copied_world], world / "images")


def test_a_split_in_which_nothing_has_a_box_is_refused_before_anything_is_asked(world, copied_world, change_row):
    file = copied_world / "refshapes_val.jsonl"
    for number in range(1, 7):
        change_row(file, number, bbox=None)
    with pytest.raises(InputError, match=r"refshapes_val\.jsonl: expected at least one sample with a box, .* 6"):
        read_questions([copied_world], world / "images")


def test_a_truncated_image_is_named(world, copied_world, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(world / "images", images)
    first = json.loads((copied_world / "refshapes_val.jsonl").read_text().splitlines()[0])["image"]
    (images / first).write_bytes((images / first).read_bytes()[:200])
    with pytest.raises(InputError, match=r'refshapes_val\.jsonl: row 1: field "image".*decoded in full'):
        read_questions([copied_world / "refshapes_val.jsonl"], images)


def test_links_below_the_images_widen_what_a_server_may_read(world, tmp_path):
    questions = read_questions([world / "eval"], world / "images")
    assert readable_folder(questions, world / "images") == (world / "images").resolve()
    linked = tmp_path / "images"
    linked.mkdir()
    for folder in (world / "images").iterdir():
        (linked / folder.name).symlink_to(folder)
    shared = readable_folder(questions, linked)
    assert all((linked / question.sample.image).resolve().is_relative_to(shared) for question in questions)


def test_the_error_for_an_unknown_split_lists_the_known_ones(world):
    with pytest.raises(InputError, match=r'refshapes_testA, .*got "refcoco_val"'):
        read_questions([world / "eval"], world / "images", splits=["refcoco_val"])


def test_a_split_given_twice_is_rejected(world, copied_world):
    file = "refshapes_val.jsonl"
    with pytest.raises(InputError, match="one file per split"):
        read_questions([world / "eval" / file, copied_world / file], world / "images")


def test_limit_takes_the_first_samples_of_each_chosen_split(world):
    questions = read_questions([world / "eval"], world / "images", ["refshapes_val", "refshapes_testB"], limit=2)
    assert [question.key for question in questions] == [
        "refshapes_testB/000001",
        "refshapes_testB/000002",
        "refshapes_val/000001",
        "refshapes_val/000002",
    ]


def test_a_split_that_is_called_average_is_refused(world, copied_world):
    (copied_world / "refshapes_val.jsonl").rename(copied_world / "average.jsonl")
    with pytest.raises(InputError, match=r'average\.jsonl: expected another name for a split than "average"'):
        read_questions([copied_world], world / "images", splits=["refshapes_testA"])


def test_rows_that_the_release_reads_are_read(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    row = {"image": "/a.png", "width": 200, "height": 100}
    turns = [
        {"from": "human", "value": '<image>\nPlease … describes: <ref> "the "red" cat" </ref>'},
        {"from": "gpt", "value": "<box>[50,200,300,800]</box>"},
    ]
    rows = [
        row | {"sent": "cat", "bbox": [10, 20, 60, 80]},
        row | {"sent": "cat", "modal_bbox": [10, 20, 60, 80]},
        row | {"conversations": turns},
    ]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [question.sample for question in read_questions([tmp_path / "toy.jsonl"], tmp_path)]
    assert [sample.image for sample in samples] == ["a.png"] * 3
    assert [sample.xyxy_px for sample in samples] == [(10, 20, 60, 80)] * 3
    assert [sample.modal_xyxy_px for sample in samples] == [None] * 3
    assert [sample.sent for sample in samples] == ["cat", "cat", 'the "red" cat']


def test_sentences_of_an_object_are_joined_as_quoted_names(world, copied_world):
    file = copied_world / "refshapes_val.jsonl"
    first, *others = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [first, first | {"id": "b", "sent": "the other name"}, *others]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    each = read_questions([file], world / "images")
    joined = read_questions([file], world / "images", joined=True)
    assert len(joined) == len(each) - 1
    assert joined[0].sample.sent == f'{first["sent"]}", "the other name'
    assert [question.key for question in joined[:2]] == [each[0].key, each[2].key]
    assert len(read_questions([file], world / "images", limit=2, joined=True)) == 2
