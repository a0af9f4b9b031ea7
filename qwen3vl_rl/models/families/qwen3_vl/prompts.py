"""Pictures and prompts of Qwen3-VL on their way from the processor to the rollout engine and to the trainer.

The image processor returns float32 values and repeats each patch, because a patch spans two frames: 7.4 MB for an image
of 640 x 480 px. The trainer is sent the bytes of one frame, an eighth of that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image


def pixel_bytes(pixel_values: torch.Tensor, image_processor) -> torch.Tensor:
    """One frame of each patch, uint8 (patches, channels * patch²)."""
    channels, frames = len(image_processor.image_mean), image_processor.temporal_patch_size
    return pixel_values.unflatten(1, (channels, frames, image_processor.patch_size**2))[:, :, 0].flatten(1)


def restore_pixels(pixels: torch.Tensor, image_processor) -> torch.Tensor:
    """Compute the output of `image_processor`, float32 (patches, channels * frames * patch²), from `pixel_bytes`.

    The order of operations is the processor's, so that the bits are the same if the device divides as a CPU does.
    """
    means, stds = image_processor.image_mean, image_processor.image_std
    scale = 1 / image_processor.rescale_factor
    mean, std = (torch.tensor(values).mul(scale)[:, None].to(pixels.device) for values in (means, stds))
    normal = pixels.unflatten(1, (len(means), -1)).float().sub(mean).div(std)
    return normal[:, :, None].expand(-1, -1, image_processor.temporal_patch_size, -1).flatten(1)


def image_inputs(processor: Any, images: Sequence[Image], options: Mapping) -> None:
    """verl computes them."""


def engine_prompt(prompt_ids: list[int], processor: Any) -> list[int]:
    """The prompt unchanged: verl replaces the tokens of an image by one placeholder."""
    return prompt_ids
