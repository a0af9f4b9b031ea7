"""Expressions: what one may hold, and where it stands in a prompt and in the answer's label."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from qwen3vl_rl.errors import row_error
from qwen3vl_rl.grounding import PROMPTS

IMAGE_MARK = "<image>"
_MEDIA = re.compile(r"<(?:image|video|audio)>")  # verl puts an image wherever a prompt has such a mark
_LABEL, _LABEL_END = re.compile(r'"label"\s*+:\s*+"'), re.compile(r'"\s*+[,}]')
# Of several prompts that fit, the longest counts: what fits `qwen3_amodal` also fits `qwen3`.
_PARTS = {name: PROMPTS[name].split("{sent}") for name in sorted(PROMPTS, key=lambda name: -len(PROMPTS[name]))}


def check_sent(path: Path, number: int, name: str, value: Any) -> str:
    """`value` where it can be an expression, else an InputError that names the field `name`."""
    if type(value) is not str or not value or value.isspace():
        raise row_error(path, number, name, "the expression", value)
    if "<" in value and _MEDIA.search(value):
        raise row_error(path, number, name, "an expression without <image>, <video> or <audio>", value)
    return value


def read_prompt(path: Path, number: int, name: str, content: Any) -> tuple[str, str]:
    """Name of the prompt and expression of a user turn. Raises InputError that names the field `name`.

    Known are the prompts as we write them, and as the released files do: with a newline behind `<image>`, with a full
    stop or a space at the end. The whole expression counts, whatever quotation marks it holds.
    """
    text = content.removeprefix(IMAGE_MARK).strip() if isinstance(content, str) else ""
    for prompt, (head, tail) in _PARTS.items():
        for ending in (tail, f"{tail}."):
            if text.startswith(head) and text.endswith(ending) and len(text) > len(head) + len(ending):
                return prompt, check_sent(path, number, name, text[len(head) : len(text) - len(ending)])
    raise row_error(path, number, name, "one of the known prompts with an expression", content)


def read_user_turn(path: Path, number: int, name: str, content: Any) -> tuple[str, str]:
    """`read_prompt` of a turn that begins with `<image>`, as verl needs it to."""
    if not isinstance(content, str) or not content.startswith(IMAGE_MARK):
        raise row_error(path, number, name, "<image> and one of the known prompts", content)
    return read_prompt(path, number, name, content)


def check_label(path: Path, number: int, name: str, answer: str, sent: str) -> None:
    """Raise InputError unless the answer's `label` is the expression, JSON-escaped or, as the release has it, not."""
    begin = _LABEL.search(answer)
    rest = answer[begin.end() :] if begin else ""
    labels = [rest[: end.start()] for end in _LABEL_END.finditer(rest)]
    if not any(sent.split() == reading.split() for label in labels for reading in _readings(label)):
        expected = f"a label that is the expression of the prompt, {sent!r}"
        raise row_error(path, number, name, expected, labels[0] if labels else answer)


def _readings(label: str) -> Iterator[str]:
    yield label
    yield label.replace('\\"', '"')
    with suppress(json.JSONDecodeError):
        yield json.loads(f'"{label}"', strict=False)
