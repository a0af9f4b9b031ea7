"""Prompt images, prepared once for all answers and sent to the trainer as bytes.

Qwen's image processor returns float32 values and repeats each patch, because a patch spans two frames: 7.4 MB for an
image of 640 x 480 px. A prepared image holds the bytes of one frame, an eighth of that. `restore_patches` computes the
same floats from them on the trainer's device.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

import torch
from PIL.Image import Image
from transformers import BatchFeature

KEPT = 256  # entries per cache and worker: all prompts of the recipe's step, even if one worker gets them all


class Recent:
    """The `KEPT` values used last, keyed by the identity of the objects they are made from, which it keeps alive."""

    def __init__(self):
        self._found: OrderedDict[tuple, tuple[Sequence, Future]] = OrderedDict()
        self._lock = Lock()  # verl prepares prompts in threads

    def get(self, sources: Sequence, make: Callable[[], Any], *settings: str) -> Any:
        key = (*settings, *map(id, sources))
        with self._lock:
            if is_new := key not in self._found:
                self._found[key] = tuple(sources), Future()
            self._found.move_to_end(key)
            if len(self._found) > KEPT:
                self._found.popitem(last=False)
            found = self._found[key][1]
        if is_new:  # outside the lock, so that other keys do not wait
            try:
                found.set_result(make())
            except BaseException as error:
                found.set_exception(error)
        return found.result()


class PreparedImages:
    """A Qwen image processor with a cache. `pixel_values` are uint8 (patches, channels * patch²), not normalised."""

    def __init__(self, processor):
        self.prompts = {"decoded": Recent(), "tokens": Recent(), "requests": Recent()}
        self._processor = processor
        self._prepared = Recent()

    def __getattr__(self, name: str):
        if name.startswith("_"):  # not set yet while this object is copied or unpickled
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Image], **options) -> BatchFeature:
        settings = repr(sorted(options.items()))
        return BatchFeature(dict(self._prepared.get(images, lambda: self._prepare(images, options), settings)))

    def _prepare(self, images: Sequence[Image], options: dict) -> dict[str, torch.Tensor]:
        found = self._processor(images=images, **options | {"do_rescale": False, "do_normalize": False})
        frames = _frames(found["pixel_values"], self._processor)
        return {**found, "pixel_values": frames[:, :, 0].flatten(1)}


def restore_patches(patches: torch.Tensor, image_processor) -> torch.Tensor:
    """Compute the output of `image_processor`, float32 (patches, channels * frames * patch²), from prepared patches.

    The order of operations is the processor's, so that the bits are the same if the device divides as a CPU does.
    """
    means, stds = image_processor.image_mean, image_processor.image_std
    scale = 1 / image_processor.rescale_factor
    mean, std = (torch.tensor(values, device=patches.device).mul(scale)[:, None] for values in (means, stds))
    normal = patches.unflatten(1, (len(means), -1)).float().sub(mean).div(std)
    return normal[:, :, None].expand(-1, -1, image_processor.temporal_patch_size, -1).flatten(1)


def _frames(pixel_values: torch.Tensor, image_processor) -> torch.Tensor:
    """Unflatten to (patches, channels, frames, patch²)."""
    return pixel_values.unflatten(
        1, (len(image_processor.image_mean), image_processor.temporal_patch_size, image_processor.patch_size**2)
    )
