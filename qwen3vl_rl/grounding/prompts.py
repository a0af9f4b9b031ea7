"""The prompts, and the answer that the model is trained to write. SFT, RL and evaluation all take them from here."""

import json
from collections.abc import Mapping
from types import MappingProxyType

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding.boxes import IntBox

# Texts of the released recipe. Its SFT data ends them in a full stop that its RL and evaluation leave out;
# here every stage uses the same text, without it.
PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "qwen3": "Locate {sent}, output its bbox coordinates using JSON format",
        "qwen3_amodal": "Locate {sent} amodally, output its bbox coordinates using JSON format",
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
    }
)


def render_prompt(name: str, sent: str) -> str:
    """The prompt `name` for the referring expression `sent`. Raises InputError for an unknown name."""
    if name not in PROMPTS:
        raise InputError(f'prompt: expected one of {", ".join(PROMPTS)}, got "{name}"')
    return PROMPTS[name].replace("{sent}", sent)


def answer_text(xyxy_1000: IntBox, label: str) -> str:
    """The answer: a fenced JSON list of one object, laid out as Qwen3-VL itself writes it."""
    item = json.dumps({"bbox_2d": list(xyxy_1000), "label": label}, ensure_ascii=False)
    return f"```json\n[\n\t{item}\n]\n```"


def target_text(reasoning: str, xyxy_1000: IntBox, label: str) -> str:
    """What the model should write after the Thinking template's `<think>` line; empty reasoning: a direct answer."""
    return f"{reasoning}\n</think>\n\n{answer_text(xyxy_1000, label)}"
