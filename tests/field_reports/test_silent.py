"""Further public reports whose inputs went wrong without a message. README.md lists their sources."""

import json

import pytest
from PIL import Image

from qwen3vl_rl.data.entries import image_key
from qwen3vl_rl.data.openai_client import Choice, read_completion
from qwen3vl_rl.data.samples import Sample, read_samples
from qwen3vl_rl.data.tools.flip import flip_file
from qwen3vl_rl.data.tools.mirror import CannotMirrorError, mirror
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.predict import NO_ANSWER, with_reasoning
from qwen3vl_rl.evaluation.serving.settings import load_settings
from sft.traces import failed_check

SAMPLE = Sample("1", "a.png", 100, 100, "the red cup", (0, 0, 50, 50))
TRACE = "The cup stands on the table and is the only red one of the three."
ANSWER = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "x"}]\n```'


@pytest.mark.parametrize(
    "sent",
    [
        "左边的杯子",
        "левая чашка",
        "la tasse à gauche",
        "die linke Tasse",
        "taza de la izquierda",
        "the man on the lhs",
        "westernmost boat",
        "the northeast tower",
        "port side boat",
        "starboard light",
        "driver's side mirror",
        "passenger side door",
        "\uff4c\uff45\uff46\uff54 cup",
        "le\u200bft cup",
        "cup with a → sign",
        "the counter clockwise arrow",
        "the counter-clockwise arrow",
    ],
)
def test_what_names_a_side_in_another_way_is_not_mirrored_as_if_it_named_none(sent):
    with pytest.raises(CannotMirrorError):
        mirror(sent)


@pytest.mark.parametrize("sent", ["café table", "the man's naïve painting", "red cup — the big one…"])
def test_english_with_accents_is_mirrored(sent):
    assert mirror(sent) == sent


@pytest.mark.parametrize(
    "name",
    ["COCO_train2014_000000581857_16.jpg", "coco/000000581857_flip.jpg", "a/COCO_train2014_000000581857_2_flip.jpg"],
)
def test_a_coco_image_is_known_by_its_number_whatever_stands_behind_it(name):
    assert image_key(name) == "000000581857"


@pytest.mark.parametrize("path", ["./a/b.png", "a//b.png", "a/./b.png", "x/../a/b.png", "a_flip/b.png"])
def test_one_image_has_one_key_however_its_path_is_written(path):
    assert image_key(path) == "a/b.png"


def reply(finish_reason: str = "stop", **message) -> Choice:
    content = {"choices": [{"message": message, "finish_reason": finish_reason}]}
    return read_completion(json.loads(json.dumps(content))).choices[0]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_that_a_server_takes_apart_is_put_back(field):
    whole = with_reasoning(reply(content="\n\n" + ANSWER, **{field: "It is red.\n"}))
    assert whole.text == f"It is red.\n</think>\n\n{ANSWER}"
    assert with_reasoning(reply("length", content=None, **{field: "It is"})).text == "It is"
    assert with_reasoning(reply(content=ANSWER)).text == ANSWER


@pytest.mark.parametrize("reason", sorted(NO_ANSWER))
def test_a_trace_that_the_endpoint_cut_off_is_no_trace(reason):
    assert failed_check(TRACE, SAMPLE) is None
    if reason != "tool_calls":
        assert failed_check(TRACE, SAMPLE, reason) == "truncated"


def test_an_older_mirrored_copy_of_another_picture_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "coco_flip").mkdir()
    (tmp_path / "coco").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "coco" / "a.png")
    Image.new("RGB", (10, 20)).save(tmp_path / "coco_flip" / "a.png")
    row = {"image": "coco/a.png", "sent": "cup", "bbox": [0, 0, 5, 5], "width": 20, "height": 10}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r'field "image": expected .* in the earlier mirrored copy .* .remove it'):
        flip_file([tmp_path / "a.jsonl"], tmp_path, tmp_path / "out.jsonl")
    (tmp_path / "coco_flip" / "a.png").unlink()
    assert flip_file([tmp_path / "a.jsonl"], tmp_path, tmp_path / "out.jsonl")[0] == 1
    assert flip_file([tmp_path / "a.jsonl"], tmp_path, tmp_path / "out.jsonl")[0] == 1


def test_a_nested_list_in_a_box_mark_is_refused(tmp_path):
    turns = [
        {"from": "human", "value": "<image>\n<ref>cup</ref>"},
        {"from": "gpt", "value": "<box>[[0,0,500,500]]</box>"},
    ]
    row = {"image": "a.png", "width": 20, "height": 10, "conversations": turns}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=r'row 1: field "conversations"'):
        read_samples(tmp_path / "a.jsonl")


def test_a_request_leaves_no_way_of_drawing_to_the_checkpoint():
    """What vLLM 0.24 takes from generation_config.json where a request has none; answers' length is not among these."""
    drawn = {"temperature", "top_p", "top_k", "repetition_penalty", "min_p"}
    assert drawn <= load_settings().sampling("s/1").keys()


@pytest.mark.parametrize(
    "row",
    [
        '{"image": "a.png", "width": 9, "height": 9, "sent": "cup", "bbox": [0, 0, 4, 4], "bbox": [1, 1, 9, 9]}',
        '{"image": "a.png", "width": 9, "height": 9, "sent": "cup", "bbox": [0, 0, 4, 4], "id": {"id": 2, "id": 3}}',
    ],
)
def test_a_field_that_stands_twice_in_an_object_is_refused(row, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(InputError, match=r'row 1: field "(bbox|id)": expected this field once per object'):
        read_samples(path)


def conversation(ref: str, sent: str) -> str:
    turns = [
        {"from": "human", "value": f"<image>\nPlease find <ref>{ref}</ref>"},
        {"from": "gpt", "value": "<box>[0,0,500,500]</box>"},
    ]
    return json.dumps({"image": "a.png", "width": 9, "height": 9, "conversations": turns, "sent": sent}) + "\n"


def test_a_prompt_that_names_another_thing_than_the_expression_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(conversation('"the Red  cup."', "the red cup"))
    assert read_samples(path)[0].sent == "the red cup"
    path.write_text(conversation("the blue cup", "the red cup"))
    with pytest.raises(InputError, match=r'row 1: field "sent": expected the expression in the prompt, .the blue cup.'):
        read_samples(path)


@pytest.mark.parametrize("sent", ["\u200b", " \ufeff\u2060", "\x00", "\u00ad\n", "\u3000"])
def test_an_expression_that_nobody_can_see_is_refused(sent, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"image": "a.png", "width": 9, "height": 9, "sent": sent, "bbox": [0, 0, 4, 4]}) + "\n")
    with pytest.raises(InputError, match='field "sent"'):
        read_samples(path)
