"""Referring expressions: which characters are allowed, and how to find them in prompts and in answer labels."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unicodedata import category

import orjson

from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import PROMPTS

INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})  # Unicode categories: controls, formats, separators
IMAGE_MARK = "<image>"
# verl replaces such a mark in a prompt by an image, video or audio input.
MEDIA_MARKS = (IMAGE_MARK, "<video>", "<audio>")
THINK_MARKS = ("<think>", "</think>")
# The added tokens 151643 to 151666 of Qwen/Qwen3-VL-8B-Thinking, as listed in its tokenizer.json; 151667 and 151668
# are THINK_MARKS. A tokenizer encodes each of them as one token, even in the middle of a text.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
ALL_MARKS = (*MEDIA_MARKS, *THINK_MARKS, *SPECIAL_TOKENS)
_REFUSED = re.compile("|".join(map(re.escape, ALL_MARKS)))
_LABEL, _LABEL_END = re.compile(r'"label"\s*+:\s*+"'), re.compile(r'"\s*+[,}]')
# Longest first: a text that matches `qwen3_amodal` also matches `qwen3`.
_PARTS = {name: PROMPTS[name].split("{sent}") for name in sorted(PROMPTS, key=lambda name: -len(PROMPTS[name]))}


def check_sent(path: Path, number: int, name: str, value: Any) -> str:
    """Return `value` if it is a valid expression. Raises InputError naming the field `name`."""
    if type(value) is not str or not is_visible(value):
        raise row_error(path, number, name, "a referring expression with a visible character", value)
    if "<" in value and (found := _REFUSED.search(value)):
        expected = f"an expression without {found[0]}, which is read as a special token"
        raise row_error(path, number, name, expected, value)
    return value


def is_visible(text: str) -> bool:
    """Whether a text has at least one visible character."""
    return text[:1].isalnum() or any(category(character) not in INVISIBLE for character in text)


def check_tokens(path: Path, number: int, name: str, text: str, tokens: Iterable[str]) -> None:
    """Raise InputError naming the field `name` if the text contains one of these tokens."""
    if found := next((token for token in tokens if token in text), None):
        raise row_error(path, number, name, f"text without {found}, which is read as a special token", text)


def added_tokens(folder: Path) -> tuple[str, ...]:
    """`own_tokens` of the checkpoint in `folder`; empty if it has no tokenizer.json."""
    path = folder / "tokenizer.json"
    try:
        added = orjson.loads(path.read_bytes())["added_tokens"] if path.is_file() else []
        texts = {token["content"] for token in added}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        raise InputError(f"{path}: expected a tokenizer with a list of added_tokens") from None
    return own_tokens(texts)


def own_tokens(added: Iterable[str]) -> tuple[str, ...]:
    """The added tokens of a tokenizer that Qwen3-VL's tokenizer does not add and that our prompts do not contain."""
    prompts = "\n".join(PROMPTS.values())
    return tuple(sorted(text for text in added if text.strip() and text not in ALL_MARKS and text not in prompts))


def read_prompt(path: Path, number: int, name: str, content: Any) -> tuple[str, str]:
    """Return (prompt name, expression) of a user turn. Raises InputError naming the field `name`.

    Prompts are recognised in our form and in that of the released files, which have a newline after `<image>` or end
    in a full stop or a space. The expression is kept whole, including any quotation marks.
    """
    text = content.removeprefix(IMAGE_MARK).strip() if isinstance(content, str) else ""
    for prompt, (head, tail) in _PARTS.items():
        for ending in (tail, f"{tail}."):
            if text.startswith(head) and text.endswith(ending) and len(text) > len(head) + len(ending):
                return prompt, check_sent(path, number, name, text[len(head) : len(text) - len(ending)])
    raise row_error(path, number, name, "one of the known prompts with an expression in it", content)


def read_user_turn(path: Path, number: int, name: str, content: Any) -> tuple[str, str]:
    """`read_prompt` for a turn that must start with `<image>`, as verl requires."""
    if not isinstance(content, str) or not content.startswith(IMAGE_MARK):
        raise row_error(path, number, name, "<image> followed by one of the known prompts", content)
    return read_prompt(path, number, name, content)


def check_label(path: Path, number: int, name: str, answer: str, sent: str) -> None:
    """Raise InputError unless the answer's `label` is the expression, JSON-escaped or unescaped as in the release."""
    begin = _LABEL.search(answer)
    rest = answer[begin.end() :] if begin else ""
    labels = [rest[: end.start()] for end in _LABEL_END.finditer(rest)]
    if not any(sent.split() == reading.split() for label in labels for reading in _readings(label)):
        expected = f"a label equal to the expression in the prompt, {sent!r}"
        raise row_error(path, number, name, expected, labels[0] if labels else answer)


def _readings(label: str) -> Iterator[str]:
    yield label
    yield label.replace('\\"', '"')
    with suppress(json.JSONDecodeError):
        yield json.loads(f'"{label}"', strict=False)
