import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import (
    PARSERS,
    PROMPTS,
    TURNS,
    answer_text,
    parse_box_1000,
    render_prompt,
    render_turn,
    target_text,
)

RELEASED_TEXTS = {
    "qwen3": "Locate the red cup, output its bbox coordinates using JSON format",
    "qwen3_amodal": "Locate the red cup amodally, output its bbox coordinates using JSON format",
    "grounding": (
        "Please provide the bounding box coordinate of the region this sentence describes: <ref>the red cup</ref>"
    ),
    "amodal": (
        "Please provide the amodal bounding box coordinate of the region this sentence describes: "
        "<ref>the red cup</ref>"
    ),
    "qwen3_official": (
        'Locate every object that matches the description "the red cup" in the image. '
        "Report bbox coordinates in JSON format."
    ),
}


def test_prompts_are_the_released_texts():
    assert {name: render_prompt(name, "the red cup") for name in PROMPTS.keys() - {"qwen3_both", "grounding_me"}} == (
        RELEASED_TEXTS
    )


def test_user_turn_formats():
    text = "Locate the red cup, output its bbox coordinates using JSON format"
    assert {turn: render_turn(turn, "qwen3", "the red cup") for turn in TURNS} == {
        "plain": f"<image>{text}",
        "released_sft": f"<image>\n{text}.",
        "released_rl": f"<image>\n{text}",
        "both_boxes": f"<image>{text}",
        "grounding": "<image>" + RELEASED_TEXTS["grounding"],
    }


def test_both_boxes_prompt_and_answer():
    assert render_turn("both_boxes", "qwen3_amodal", "the cup").startswith(
        "<image>Locate the cup amodally and the part"
    )
    answer = answer_text((1, 2, 30, 40), "the cup", (1, 2, 20, 40))
    boxes = json.loads(answer.removeprefix("```json").removesuffix("```"))
    assert boxes == [
        {"bbox_2d": [1, 2, 30, 40], "label": "the cup"},
        {"bbox_2d": [1, 2, 20, 40], "label": "visible part of the cup"},
    ]
    assert parse_box_1000(answer) == (1, 2, 30, 40)


@given(st.sampled_from(sorted(PROMPTS)), st.text())
def test_any_expression_is_kept_unchanged(name, sent):
    before, after = PROMPTS[name].split("{sent}")
    assert render_prompt(name, sent) == before + sent + after


def test_unknown_prompt_lists_the_known_ones():
    with pytest.raises(InputError, match=r"expected one of qwen3, .*grounding_me, got \"qwen4\""):
        render_prompt("qwen4", "a dog")


def test_target_is_reasoning_then_the_fenced_answer():
    assert target_text("It is the left one.", (1, 2, 30, 40), 'the "left" dog') == (
        "It is the left one.\n</think>\n\n"
        '```json\n[\n\t{"bbox_2d": [1, 2, 30, 40], "label": "the \\"left\\" dog"}\n]\n```'
    )


def test_direct_answer_closes_the_reasoning_at_once():
    assert target_text("", (1, 2, 30, 40), "dog") == "\n</think>\n\n" + answer_text((1, 2, 30, 40), "dog")


def test_an_answer_without_a_box_is_an_empty_list():
    assert target_text("There is none.", None, "dog") == "There is none.\n</think>\n\n```json\n[]\n```"


@given(st.text(), st.tuples(*[st.integers(0, 1000)] * 4))
def test_answer_is_a_json_list_of_one_labelled_box(label, box):
    fence, *body, end = answer_text(box, label).split("\n")
    assert (fence, end) == ("```json", "```")
    assert json.loads("\n".join(body)) == [{"bbox_2d": list(box), "label": label}]


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_every_parser_reads_the_target_back(parser, data):
    x1, y1 = data.draw(st.integers(0, 999)), data.draw(st.integers(0, 999))
    box = (x1, y1, data.draw(st.integers(x1 + 1, 1000)), data.draw(st.integers(y1 + 1, 1000)))
    sent = data.draw(st.text("abc second2 red'\"", max_size=30))
    reasoning = data.draw(st.text("abc 12,().'\n", max_size=80))
    assert parse_box_1000(target_text(reasoning, box, sent), parser) == box
