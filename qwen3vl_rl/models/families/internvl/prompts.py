"""Pictures and prompts of InternVL on their way from the processor to the rollout engine and to the trainer."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from PIL.Image import Image


def pixel_bytes(pixel_values: torch.Tensor, image_processor) -> torch.Tensor:
    """Tiles as uint8 (tiles, channels, height, width)."""
    return torch.as_tensor(pixel_values).to(torch.uint8)


def restore_pixels(pixels: torch.Tensor, image_processor) -> torch.Tensor:
    """Compute the output of `image_processor`, float32 (tiles, channels, height, width), from `pixel_bytes`.

    The order of operations is the processor's, so that the bits are the same if the device divides as a CPU does.
    """
    scale = 1 / image_processor.rescale_factor
    means, stds = image_processor.image_mean, image_processor.image_std
    mean, std = (torch.tensor(values).mul(scale)[:, None, None].to(pixels.device) for values in (means, stds))
    return pixels.float().sub(mean).div(std)


def image_inputs(processor: Any, images: Sequence[Image], options: Mapping) -> dict[str, torch.Tensor]:
    """verl would render the prompt's text again, without the special tokens that stand for the images."""
    tiles = {"crop_to_patches": True, "return_tensors": "pt", **options}
    return {"pixel_values": processor.image_processor(images=images, **tiles)["pixel_values"]}


def engine_prompt(prompt_ids: list[int], processor: Any) -> list[int]:
    """The prompt with one placeholder for an image, without marks around it: vLLM adds both.

    It does so without an error for a prompt that has them already.
    """
    marks = {processor.start_image_token_id, processor.end_image_token_id}
    kept = [token for token in prompt_ids if token not in marks]
    # Placeholders of two images are never neighbours, because the template puts a line break behind each image.
    repeated = [False, *(first == second == processor.image_token_id for first, second in pairwise(kept))]
    return [token for token, again in zip(kept, repeated, strict=True) if not again]
