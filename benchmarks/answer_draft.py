"""Drafts of answers for speculative decoding in vLLM, because much of a grounding answer is known beforehand.

After `</think>` an answer has a fence, a key, a box and a label. The box is often the last one of the reasoning, and
the label is the referring expression. Reasoning repeats words and boxes, so that prompt lookup drafts parts of it. vLLM
checks a draft in one step, and keeps its tokens up to the first that the model would not have chosen: greedy answers
stay the same up to rounding.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from qwen3vl_rl.grounding import PROMPTS, answer_text

DRAFT_TOKENS = 16  # of one step; more add next to nothing on RefShapes answers
LOOKUP_TOKENS = (3, 2)  # lengths of the ends that prompt lookup searches for, the longer one first
THINK_END, FENCE = "</think>", "```"
TURN_END, TURN_START, IMAGE_END = "<|im_end|>", "<|im_start|>", "<|vision_end|>"
_BOX = re.compile(r"\[\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\]")
_NO_BOX = (0, 0, 0, 0)
_ASKED = [
    re.compile(re.escape(prompt).replace(re.escape("{sent}"), "(.+?)") + r"\.?", re.DOTALL)
    for prompt in sorted(PROMPTS.values(), key=len, reverse=True)  # `… amodally` before the shorter prompt
]


def expression_of(prompt: str) -> str | None:
    """The referring expression in the text of a user turn; None if it is none of our prompts."""
    found = next((match for pattern in _ASKED if (match := pattern.fullmatch(prompt.strip()))), None)
    return found[1] if found else None


def rest_of_answer(sent: str, answer: str) -> str | None:
    """What is likely to follow `answer`, the text that a model has written so far; None where nothing is known.

    `sent`: the referring expression. The box is that of the answer if it has one, or else the last of the reasoning.
    Without either, the text before the box follows.
    """
    reasoning, closed, said = answer.rpartition(THINK_END)
    if not closed and not said.lstrip().startswith(FENCE):
        return None  # still thinking
    boxes = _BOX.findall(said) or _BOX.findall(reasoning)
    box = tuple(map(int, boxes[-1])) if boxes else _NO_BOX
    begin = said[: len(said) - len(said.lstrip())] if said.strip() or not closed else "\n\n"
    text = begin + answer_text(box, sent)
    if not boxes:
        text = text[: text.index("[0") + 1]
    return text[len(said) :] if text.startswith(said) else None


def speculative_config() -> dict[str, str | int]:
    """For vLLM's `--speculative-config`."""
    return {
        "method": "custom_class",
        "model": f"{AnswerDraft.__module__}.{AnswerDraft.__qualname__}",
        "num_speculative_tokens": DRAFT_TOKENS,
    }


class Tokenizer(Protocol):
    def decode(self, ids: Sequence[int]) -> str: ...
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def convert_tokens_to_ids(self, token: str) -> int: ...


def draft(tokenizer: Tokenizer, tokens: np.ndarray, limit: int) -> list[int]:
    """At most `limit` tokens that are likely to follow `tokens`, the tokens of a prompt and of the answer so far."""
    image_end, turn_start = map(tokenizer.convert_tokens_to_ids, (IMAGE_END, TURN_START))
    images = np.flatnonzero(tokens == image_end)
    text = tokens[images[-1] + 1 :] if len(images) else tokens  # image tokens are all alike, and no text
    turns = np.flatnonzero(text == turn_start)
    if not len(turns):
        return []
    known = _known_answer(tokenizer, text[: turns[-1]], text[turns[-1] :])
    return (known or lookup(text, limit))[:limit]


def _known_answer(tokenizer: Tokenizer, asked: np.ndarray, answer: np.ndarray) -> list[int]:
    think_end, turn_end = map(tokenizer.convert_tokens_to_ids, (THINK_END, TURN_END))
    ends = np.flatnonzero(answer == think_end)
    _, _, said = tokenizer.decode(answer).partition("\n")  # without the line of the role
    if not len(ends) and not said.startswith(FENCE):
        return []  # as `rest_of_answer` would find, at a higher cost
    sent = expression_of(tokenizer.decode(asked).partition(TURN_END)[0])
    rest = rest_of_answer(sent, said) if sent else None
    if rest is None:
        return []
    end = [turn_end] if not rest or rest.endswith(FENCE) else []
    # The answer is encoded as a whole, so that it is split into tokens where the model splits it.
    written = answer[ends[-1] + 1 :].tolist() if len(ends) else []
    whole = tokenizer.encode(tokenizer.decode(written) + rest, add_special_tokens=False)
    if whole[: len(written)] == written:
        return whole[len(written) :] + end
    return tokenizer.encode(rest, add_special_tokens=False) + end


def lookup(tokens: np.ndarray, limit: int) -> list[int]:
    """Prompt lookup: the tokens after the latest earlier place that reads like the last tokens."""
    for length in LOOKUP_TOKENS:
        if len(tokens) > length:
            places = np.lib.stride_tricks.sliding_window_view(tokens[:-1], length)
            found = np.flatnonzero((places == tokens[-length:]).all(axis=1))
            if len(found):
                begin = found[-1] + length
                return tokens[begin : begin + limit].tolist()
    return []


class AnswerDraft:
    """A proposer of vLLM, which imports it by the name in its `speculative_config`."""

    def __init__(self, vllm_config):
        from transformers import AutoTokenizer

        self.limit = vllm_config.speculative_config.num_speculative_tokens
        self.max_model_len = vllm_config.model_config.max_model_len
        self.tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)

    def load_model(self, model: object) -> None:
        """Nothing: a draft needs no weights."""

    def propose(
        self, sampled: list[list[int]], lengths: np.ndarray, tokens: np.ndarray, slot_mappings: object = None
    ) -> list[list[int]]:
        """A draft for each request. `tokens`: int32[requests, positions], of which `lengths` are filled. `sampled`: the
        tokens of this step, none where a prompt is still being read."""
        return [
            draft(self.tokenizer, tokens[row, :length], min(self.limit, self.max_model_len - 1 - length))
            if new and length < self.max_model_len - 1
            else []
            for row, (new, length) in enumerate(zip(sampled, map(int, lengths), strict=False))
        ]
