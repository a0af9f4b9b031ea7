"""Images of rollouts: prepared once for all answers to a prompt, and sent to the trainer as bytes.

verl 0.9.1 runs the image processor twice for every answer and hands the trainer what comes out, 32-bit floats in which
each patch stands twice, since Qwen's patches span two frames: 7.4 MB for 640 x 480 px, 1.9 GB for the 256 answers to 16
prompts, fetched anew for every pass. Here an image is prepared once, and travels as the bytes of one frame, an eighth
of that; `restore_patches` makes the same floats of them on the trainer's device.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from threading import Lock

import torch
from PIL.Image import Image
from transformers import BatchFeature
from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

KEPT = 128  # images in each worker, which has 32 prompts in hand in the recipe: 256 over 8 workers


@register("image_once")
class ImageOnceAgentLoop(SingleTurnAgentLoop):
    """verl's single turn; chosen with `rollout.agent.default_agent_loop`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.processor.image_processor, PreparedImages):  # one processor for all answers of a worker
            self.processor.image_processor = PreparedImages(self.processor.image_processor)


class PreparedImages:
    """A Qwen image processor that remembers: `pixel_values` uint8 (patches, channels * patch²), not normalised."""

    def __init__(self, processor):
        self._processor = processor
        self._prepared: OrderedDict[tuple, dict[str, torch.Tensor]] = OrderedDict()
        self._lock = Lock()  # verl prepares prompts in threads

    def __getattr__(self, name: str):
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Image], **options) -> BatchFeature:
        contents = ((image.mode, image.size, blake2b(image.tobytes()).digest()) for image in images)
        key = (*contents, repr(sorted(options.items())))
        with self._lock:
            if key not in self._prepared:
                self._prepared[key] = self._prepare(images, options)
            self._prepared.move_to_end(key)
            if len(self._prepared) > KEPT:
                self._prepared.popitem(last=False)
            return BatchFeature(dict(self._prepared[key]))

    def _prepare(self, images: Sequence[Image], options: dict) -> dict[str, torch.Tensor]:
        found = self._processor(images=images, **options | {"do_rescale": False, "do_normalize": False})
        frames = _frames(found["pixel_values"], self._processor)
        return {**found, "pixel_values": frames[:, :, 0].flatten(1)}


def restore_patches(patches: torch.Tensor, image_processor) -> torch.Tensor:
    """float32 (patches, channels * frames * patch²), as `image_processor` makes them, from what `PreparedImages` does.
    Its order of operations: the same bits, where the device divides as a CPU does."""
    means, stds = image_processor.image_mean, image_processor.image_std
    scale = 1 / image_processor.rescale_factor
    mean, std = (torch.tensor(values, device=patches.device).mul(scale)[:, None] for values in (means, stds))
    normal = patches.unflatten(1, (len(means), -1)).float().sub(mean).div(std)
    return normal[:, :, None].expand(-1, -1, image_processor.temporal_patch_size, -1).flatten(1)


def _frames(pixel_values: torch.Tensor, image_processor) -> torch.Tensor:
    """(patches, channels, frames, patch²)."""
    return pixel_values.unflatten(
        1, (len(image_processor.image_mean), image_processor.temporal_patch_size, image_processor.patch_size**2)
    )
