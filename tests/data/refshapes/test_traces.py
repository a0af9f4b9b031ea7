"""Traces name the target's visible box, and list the objects that the expression compares."""

import random
from pathlib import Path

from qwen3vl_rl.data.refshapes import HEIGHT, WIDTH
from qwen3vl_rl.data.refshapes.files import training_row
from qwen3vl_rl.data.refshapes.traces import BRIEF, RATIONALISED, name_place, noun_phrase, visible_reasoning
from qwen3vl_rl.data.samples import parse_sample
from qwen3vl_rl.grounding import parse_box_1000, px_to_1000, target_text
from sft.traces import failed_check


def test_the_trace_ends_in_the_target_and_parses_to_the_answer(drawn):
    for referral in drawn[:300]:
        box = px_to_1000(referral.xyxy_px, WIDTH, HEIGHT)
        assert parse_box_1000(target_text(referral.reasoning, box, referral.query.sent)) == box
        visible = list(px_to_1000(referral.target.visible_px, WIDTH, HEIGHT))
        assert f": {visible}." in referral.reasoning


def test_attribute_traces_list_the_only_match(drawn):
    for referral in drawn:
        if referral.query.kind == "attribute":
            category = referral.query.sent.removeprefix("the ")
            reasoning = visible_reasoning(referral.scene, referral.query)
            assert reasoning.startswith(f"{category.capitalize()}s from left to right, first: [")
            assert reasoning.count("[") == 2


def test_brief_and_rationalised_traces_name_the_referent_and_no_box(drawn):
    rng = random.Random(0)
    for style, wordings in (("brief", BRIEF), ("rationalised", RATIONALISED)):
        texts = [referral.reasoning_in(style, rng) for referral in drawn[:300]]
        for referral, text in zip(drawn, texts, strict=False):
            assert noun_phrase(referral.query.sent) in text and parse_box_1000(text) is None
            row = training_row(referral, "0", "image.png")
            assert failed_check(text, parse_sample(Path("file"), 1, row)) is None  # stage 1 accepts the trace
        assert len({text.split(" the ")[0] for text in texts}) >= len(wordings)


def test_a_rationalised_trace_says_where_in_the_picture(drawn):
    assert name_place((10, 10)) == "in the upper left" and name_place((80, 64)) == "in the middle"
    assert name_place((WIDTH - 1, HEIGHT - 1)) == "in the lower right"
    for referral in drawn[:100]:
        text = referral.reasoning_in("rationalised", random.Random(1))
        assert name_place(referral.target.centre_px) in text


def test_group_expressions_become_one_noun_phrase():
    sent = "of the circles above the star, the second from the left"
    assert noun_phrase(sent) == "the second from the left of the circles above the star"
    assert noun_phrase("the red star") == "the red star"
