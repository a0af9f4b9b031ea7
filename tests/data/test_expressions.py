"""Expressions in prompts and labels, in our form and in that of the released files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_rl.data.expressions import check_label, is_visible, read_prompt, read_user_turn
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import PROMPTS, answer_text, render_prompt

FILE = Path("f.jsonl")
EXPRESSIONS = ['the "stop" sign', '"stop"', 'sign "a", red', 'man in "a\\b"', 'sign, "x"}', "das Schild, rot."]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(is_visible)


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("begin", ["<image>", "<image>\n"])
@pytest.mark.parametrize("end", ["", ".", " "])
@pytest.mark.parametrize("sent", EXPRESSIONS)
def test_the_whole_expression_is_read_from_every_variant_of_a_prompt(name, begin, end, sent):
    assert read_user_turn(FILE, 1, "prompt", begin + render_prompt(name, sent) + end) == (name, sent)


@given(st.sampled_from(sorted(PROMPTS)), TEXTS.filter(lambda sent: "<" not in sent and "amodal" not in sent))
def test_any_expression_survives_the_round_trip(name, sent):
    assert read_prompt(FILE, 1, "prompt", render_prompt(name, sent)) == (name, sent)


@given(TEXTS)
def test_labels_match_escaped_and_unescaped(sent):
    answer = answer_text((1, 2, 3, 4), sent)
    check_label(FILE, 1, "conversations", answer, sent)
    check_label(FILE, 1, "conversations", f'{{"bbox_2d": [1, 2, 3, 4], "label": "{sent}"}}', sent)


@pytest.mark.parametrize("label", ["the ", "the", "sign", 'the "stop', 'the "stop" sign on the left'])
def test_wrong_labels_are_rejected(label):
    with pytest.raises(InputError, match=r'f\.jsonl: row 7: field "conversations": expected a label'):
        check_label(FILE, 7, "conversations", f'{{"bbox_2d": [1, 2, 3, 4], "label": "{label}"}}', 'the "stop" sign')


@pytest.mark.parametrize(
    "content", ["<image>Find the dog", "Locate the dog, output its bbox coordinates using JSON format", None, "<image>"]
)
def test_unknown_user_turns_are_rejected(content):
    with pytest.raises(InputError, match=r'f\.jsonl: row 1: field "prompt"'):
        read_user_turn(FILE, 1, "prompt", content)
