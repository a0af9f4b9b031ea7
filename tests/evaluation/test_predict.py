"""What the client sends, where no server is needed to see it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from qwen3vl_rl.evaluation.predict import FORCED_ANSWER, answer_now
from qwen3vl_rl.grounding import parse_box_1000

PIECES = st.lists(st.sampled_from(["one star", "\n", " ", "</think>", "```json", "[", "\t", "é"]), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(starter):
    return AutoTokenizer.from_pretrained(starter)


@given(PIECES.map("".join))
def test_a_cut_off_generation_is_continued_as_it_stands(tokenizer, text):
    turns = [{"role": "user", "content": "Locate it"}, {"role": "assistant", "content": answer_now(text)}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    assert prompt.endswith(f"<|im_start|>assistant\n<think>\n{answer_now(text)}")


@pytest.mark.parametrize("text", ["", "one star", "one star\n", "one star</think>", "one star\n</think>\n\n"])
def test_the_answer_begins_behind_the_reasoning(text):
    begun = answer_now(text)
    assert begun == text.partition("</think>")[0].strip() + FORCED_ANSWER
    assert parse_box_1000(begun + '1, 2, 300, 400], "label": "it"}]') == (1, 2, 300, 400)


def test_an_answer_that_had_begun_goes_on():
    begun = answer_now('one star\n</think>\n\n```json\n[\n\t{"bbox_2d": [1, 2, 3')
    assert begun.endswith('</think>\n\n```json\n[\n\t{"bbox_2d": [1, 2, 3')
