from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from benchmarks.answer_draft import DRAFT_TOKENS, draft, expression_of, lookup, rest_of_answer
from qwen3vl_rl.grounding import PROMPTS, answer_text, render_prompt, render_turn, target_text

SENT = 'the "red" cup, left of {two}'
BOX = (12, 345, 678, 900)
REASONING = f"The cup at {list(BOX)} is left of both plates."


@pytest.mark.parametrize("name", PROMPTS)
def test_the_expression_is_found_in_every_prompt(name):
    assert expression_of(render_prompt(name, SENT)) == SENT
    assert expression_of(render_turn("released_sft", name, SENT).removeprefix("<image>\n")) == SENT


def test_another_text_has_no_expression():
    assert expression_of("What is in this picture?") is None


@given(st.integers(0, len(target_text(REASONING, BOX, SENT))))
def test_the_rest_of_an_answer_is_known_once_the_reasoning_has_ended(written):
    """The box is that of the reasoning, so that nothing is left to chance."""
    whole = target_text(REASONING, BOX, SENT)
    known = rest_of_answer(SENT, whole[:written])
    end = whole.index("</think>") + len("</think>")
    assert known == (whole[written:] if written >= end else None)


def test_a_box_is_not_invented():
    assert rest_of_answer(SENT, "I see it.\n</think>") == '\n\n```json\n[\n\t{"bbox_2d": ['


def test_after_another_box_the_label_is_still_known():
    begin, _, end = answer_text((1, 2, 3, 4), SENT).partition("[1, 2, 3, 4]")
    assert rest_of_answer(SENT, f"{REASONING}\n</think>\n\n{begin}[1, 2, 3, 4]") == end
    assert rest_of_answer(SENT, f"{REASONING}\n</think>\n\n{begin}[1, 2") is None


def test_an_answer_of_another_layout_is_left_alone():
    assert rest_of_answer(SENT, f"{REASONING}\n</think>\n\nThe box is") is None


def test_a_direct_answer_is_continued():
    assert rest_of_answer(SENT, "```json\n[\n\t") == '{"bbox_2d": ['


@pytest.fixture(scope="module")
def tokenizer(starter):
    return AutoTokenizer.from_pretrained(starter)


@dataclass(frozen=True)
class Chat:
    prompt: list[int]
    answer: list[int]


@pytest.fixture(scope="module")
def chat(tokenizer) -> Chat:
    turn = f"<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{render_prompt('qwen3', SENT)}<|im_end|>\n"
    prompt = f"{turn}<|im_start|>assistant\n<think>\n"
    answer = f"{target_text(REASONING, BOX, SENT)}<|im_end|>"
    return Chat(*(tokenizer.encode(text, add_special_tokens=False) for text in (prompt, answer)))


def test_a_draft_is_what_the_tokenizer_makes_of_the_answer(tokenizer, chat):
    """After `</think>`, drafts alone write the answer to its end."""
    written = chat.answer.index(tokenizer.convert_tokens_to_ids("</think>")) + 1
    while written < len(chat.answer):
        proposed = draft(tokenizer, np.array(chat.prompt + chat.answer[:written]), DRAFT_TOKENS)
        assert proposed and proposed == chat.answer[written : written + DRAFT_TOKENS]
        written += len(proposed)


def test_a_text_without_turns_gets_no_draft(tokenizer):
    assert draft(tokenizer, np.array(tokenizer.encode("the red cup and the red", add_special_tokens=False)), 4) == []


def test_lookup_continues_the_latest_repeated_end():
    assert lookup(np.array([1, 2, 3, 4, 1, 2, 5, 6, 1, 2]), 3) == [5, 6, 1]
    assert lookup(np.array([1, 2, 3, 9, 8, 2, 3, 7, 1, 2, 3]), 2) == [9, 8]  # three tokens before two
    assert lookup(np.array([1, 2, 3]), 3) == []
