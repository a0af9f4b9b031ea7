"""SFT rows for verl 0.9.1: the prompt has the tokens that generation sees, and the target those that it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import OmegaConf
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.grounding import OPEN_THINK, answer_opening
from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.models.prepared_images import UNSCALED


@contextmanager
def patch_size(image_processor: Any) -> Iterator[None]:
    """verl reads `patch_size`, which only some processors have, and does not use it for images that are open already.

    Processors save their attributes, so it is removed again.
    """
    missing = not hasattr(image_processor, "patch_size")
    if missing:
        image_processor.patch_size = None
    try:
        yield
    finally:
        if missing:
            del image_processor.patch_size


class ThinkingSFTDataset(MultiTurnSFTDataset):
    """`messages` = [user, assistant], `images` = [path]; the assistant's text continues an open `<think>` block.

    processor: as verl loads it, with the model's configuration as `config`. Pixels are the family's `pixel_bytes`, a
    quarter or an eighth of what the processor returns, because samples come from other processes.

    verl renders each message separately with the chat template. The Thinking template drops the reasoning of an
    assistant message without a user message, so this class makes the assistant's tokens: the generation prompt (no
    loss), then the text and the end-of-turn token (loss). If the generation prompt does not open `<think>`, the text
    starts with it. With `loss_span: turn`, loss always covers the `<think>` line, and a newline after the turn, as in
    the release. Rendering the whole conversation is no alternative: with empty reasoning, "<think>\\n" and
    "\\n</think>" would share a token that generation never sees.
    """

    def __init__(self, parquet_files, tokenizer, config, processor=None, max_samples=-1):
        with patch_size(processor.image_processor):
            super().__init__(parquet_files, tokenizer, config, processor, max_samples)
        self.opening = answer_opening(tokenizer.decode(self.generation_prompt))
        self.whole_turn = config.get("loss_span", "answer") == "turn"
        self.prompts = find_family(processor.config.to_dict()).prompts
        given = self.apply_chat_template_kwargs
        given = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
        limits = given.get("processor_kwargs") or {}
        self.apply_chat_template_kwargs = {**given, "processor_kwargs": {**limits, **UNSCALED}}

    def _build_messages(self, example: dict) -> list[dict]:
        """Open the images as all stages do. verl would resize them, and the processor would then resize them again."""
        images = [open_picture(path) for path in example[self.image_key]]
        return super()._build_messages({**example, self.image_key: images})

    def _process_single_message(self, index, message, full_message, tools=None, enable_thinking=None):
        if message["role"] != "assistant":
            *tokens, found = super()._process_single_message(index, message, full_message, tools, enable_thinking)
            if "pixel_values" in found:
                pixels = self.prompts.pixel_bytes(found["pixel_values"], self.processor.image_processor)
                found = {**found, "pixel_values": pixels}
            return *tokens, found
        text = "".join(part["text"] for part in message["content"])
        target = self._encode(self.opening + text + self.tokenizer.eos_token + ("\n" if self.whole_turn else ""))
        already_open = len(self._encode(OPEN_THINK)) if self.whole_turn and not self.opening else 0
        input_ids = torch.tensor(self.generation_prompt + target)
        loss_mask = torch.zeros_like(input_ids)
        loss_mask[len(self.generation_prompt) - already_open :] = 1
        return input_ids, loss_mask, torch.ones_like(input_ids), {}

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def sanity_check(self, input_ids, messages, tools, enable_thinking) -> None:
        """Skip verl's check, which compares with a rendering of the whole conversation."""
