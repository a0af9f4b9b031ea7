"""The prompts, and the answer that the model is trained to write. SFT, RL and evaluation all use them."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding.boxes import IntBox

# Prompts of the released recipe, except for `qwen3_both` (ours) and `grounding_me` (from the data set of that name).
# `TURNS` defines the user turns around them.
OPEN_THINK = "<think>\n"  # as the templates of Thinking models open it

PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "qwen3": "Locate {sent}, output its bbox coordinates using JSON format",
        "qwen3_amodal": "Locate {sent} amodally, output its bbox coordinates using JSON format",
        "qwen3_both": (
            "Locate {sent} amodally and the part of it in sight, output both bbox coordinates using JSON format"
        ),
        "grounding": (
            "Please provide the bounding box coordinate of the region this sentence describes: <ref>{sent}</ref>"
        ),
        "amodal": (
            "Please provide the amodal bounding box coordinate of the region this sentence describes: <ref>{sent}</ref>"
        ),
        "qwen3_official": (
            'Locate every object that matches the description "{sent}" in the image. '
            "Report bbox coordinates in JSON format."
        ),
        "grounding_me": (
            "All spatial relationships are defined from the viewer's perspective, where 'front' means closer to the "
            "viewer and 'back' means farther from the viewer. Please provide the bounding box coordinate of the "
            "object the following statement describes:\n{sent}\n"
            "Ensure that all details mentioned about the object are accurate. Provide at most one bounding box. If a "
            "matching object is found, provide its bounding box as a JSON in the format "
            '{"bbox_2d": [x1, y1, x2, y2]}. If no matching object is found, output {"bbox_2d": null}.'
        ),
    }
)

AMODAL_PROMPTS = frozenset({"amodal", "qwen3_amodal", "qwen3_both"})  # ask for the whole object, including hidden parts


class Turn(NamedTuple):
    """The text around a prompt in the user turn. `<image>` marks the position of the image."""

    before: str
    after: Mapping[str, str] = MappingProxyType({})  # by prompt name; empty for other prompts
    instead: Mapping[str, str] = MappingProxyType({})  # prompts to replace, with their replacements


# Formats of the user turn in training files. The release's two stages differ; its evaluation of Qwen3-VL uses `plain`.
# `both_boxes` asks for the visible part of amodal samples as a second box, `grounding` asks as the release does for
# InternVL.
PLAIN, BOTH_BOXES = "plain", "both_boxes"
TURNS: Mapping[str, Turn] = MappingProxyType(
    {
        PLAIN: Turn("<image>"),  # our default in every stage
        BOTH_BOXES: Turn("<image>", instead=MappingProxyType({"qwen3_amodal": "qwen3_both"})),
        "grounding": Turn("<image>", instead=MappingProxyType({"qwen3": "grounding", "qwen3_amodal": "amodal"})),
        "released_sft": Turn("<image>\n", MappingProxyType({"qwen3": ".", "qwen3_amodal": "."})),
        "released_rl": Turn("<image>\n"),
    }
)


def render_turn(turn: str, name: str, sent: str) -> str:
    """The text of the user turn in the format `TURNS[turn]`, with the prompt `name`."""
    before, after, instead = TURNS[turn]
    return before + render_prompt(instead.get(name, name), sent) + after.get(name, "")


def render_prompt(name: str, sent: str) -> str:
    """The prompt `name` for the referring expression `sent`. Raises InputError for an unknown name."""
    if name not in PROMPTS:
        raise InputError(f'prompt: expected one of {", ".join(PROMPTS)}, got "{name}"')
    return PROMPTS[name].replace("{sent}", sent)


def answer_text(xyxy_1000: IntBox | None, label: str, visible_1000: IntBox | None = None) -> str:
    """The answer: a fenced JSON list with one object, in the layout that Qwen3-VL writes.

    The list is empty without a box, and has two objects with the box of the visible part.
    """
    boxes = {label: xyxy_1000, f"visible part of {label}": visible_1000}
    objects = ({"bbox_2d": list(box), "label": name} for name, box in boxes.items() if box is not None)
    items = ",\n".join(f"\t{json.dumps(item, ensure_ascii=False)}" for item in objects)
    return f"```json\n[\n{items}\n]\n```" if items else "```json\n[]\n```"


def target_text(reasoning: str, xyxy_1000: IntBox | None, label: str, visible_1000: IntBox | None = None) -> str:
    """The target after the Thinking template's `<think>` line. Empty `reasoning` gives a direct answer."""
    return f"{reasoning}\n</think>\n\n{answer_text(xyxy_1000, label, visible_1000)}"


def answer_opening(generation_prompt: str) -> str:
    """What an answer with reasoning starts with: nothing if the generation prompt has opened `<think>`, else that."""
    return "" if generation_prompt.endswith(OPEN_THINK) else OPEN_THINK
