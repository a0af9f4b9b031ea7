"""Traces name the target's visible box, and list what the expression asks to compare."""

from qwen3vl_rl.data.refshapes import HEIGHT, WIDTH
from qwen3vl_rl.data.refshapes.traces import visible_reasoning
from qwen3vl_rl.grounding import parse_box_1000, px_to_1000, target_text


def test_the_trace_ends_in_the_target_and_parses_to_the_answer(drawn):
    for referral in drawn[:300]:
        box = px_to_1000(referral.xyxy_px, WIDTH, HEIGHT)
        assert parse_box_1000(target_text(referral.reasoning, box, referral.query.sent)) == box
        visible = list(px_to_1000(referral.target.visible_px, WIDTH, HEIGHT))
        assert f": {visible}." in referral.reasoning


def test_traces_of_attributes_list_what_has_all_of_them(drawn):
    for referral in drawn:
        if referral.query.kind == "attribute":
            category = referral.query.sent.removeprefix("the ")
            reasoning = visible_reasoning(referral.scene, referral.query)
            assert reasoning.startswith(f"{category.capitalize()}s from left to right, first: [")
            assert reasoning.count("[") == 2
