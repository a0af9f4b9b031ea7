"""Prompt images, prepared once for all answers and sent to the trainer as bytes.

Image processors return float32 values, after rescaling and normalising. A prepared image holds the bytes before that.
The family's `restore_pixels` computes the same floats from them on the trainer's device.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

import torch
from PIL.Image import Image
from transformers import BatchFeature

from qwen3vl_rl.models.families.interface import Prompts

UNSCALED = {"do_rescale": False, "do_normalize": False}  # arguments with which image processors return bytes
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
    """An image processor with a cache. Its `pixel_values` are the `pixel_bytes` of a family."""

    def __init__(self, processor, prompts: Prompts):
        self.prompts = {"decoded": Recent(), "tokens": Recent(), "requests": Recent()}
        self._processor = processor
        self._prompts = prompts
        self._prepared = Recent()

    def __getattr__(self, name: str):
        if name.startswith("_"):  # not set yet while this object is copied or unpickled
            raise AttributeError(name)
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Image], **options) -> BatchFeature:
        settings = repr(sorted(options.items()))
        return BatchFeature(dict(self._prepared.get(images, lambda: self._prepare(images, options), settings)))

    def _prepare(self, images: Sequence[Image], options: dict) -> dict[str, torch.Tensor]:
        found = self._processor(images=images, **options | UNSCALED)
        return {**found, "pixel_values": self._prompts.pixel_bytes(found["pixel_values"], self._processor)}
