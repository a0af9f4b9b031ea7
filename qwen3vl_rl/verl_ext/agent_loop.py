"""Prompts of rollouts: made once for all answers, and their images sent to the trainer as bytes.

verl 0.9.1 decodes the image of a prompt and writes out its tokens for every answer, runs the image processor three
times for each, and hands the trainer what comes out, 32-bit floats in which each patch stands twice, since Qwen's
patches span two frames: 7.4 MB for 640 x 480 px, 1.9 GB for the 256 answers to 16 prompts, fetched anew for every pass.
Here all that is done once, and an image travels as the bytes of one frame, an eighth of that; `restore_patches` makes
the same floats of them on the trainer's device.

The answers to a prompt are given the same message objects by verl, which is how they are known to belong together.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import Any

import torch
from PIL.Image import Image
from transformers import BatchFeature
from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

KEPT = 256  # of each kind in each worker: all prompts of the recipe's step, even if they come to one worker


@register("image_once")
class ImageOnceAgentLoop(SingleTurnAgentLoop):
    """verl's single turn; chosen with `rollout.agent.default_agent_loop`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.processor.image_processor, PreparedImages):  # one processor for all answers of a worker
            self.processor.image_processor = PreparedImages(self.processor.image_processor)

    async def process_multi_modal_info(self, messages: list[dict]) -> dict:
        decode = partial(super().process_multi_modal_info, messages)
        return dict(await self._once("decoded", messages, decode))

    async def ct_build_initial_tokens(self, messages: list[dict], tools=None, **media) -> list[int]:
        tokenize = partial(super().ct_build_initial_tokens, messages, tools, **media)
        if tools or media.get("videos") or media.get("audios"):  # of which verl wants more than tokens
            return await tokenize()
        return list(await self._once("tokens", messages, tokenize))

    async def _once(self, what: str, messages: list[dict], make: Callable[[], Coroutine]) -> Any:
        """What `make` gives the first answer to a prompt that asks; the others wait for it."""
        made = self.processor.image_processor.prompts[what]
        task = made.get(messages, lambda: asyncio.ensure_future(make()))
        return await asyncio.shield(task)  # an answer that is given up does not stop the others


class Recent:
    """The `KEPT` values that were last asked for, by the identity of what they were made of, which lives as long."""

    def __init__(self):
        self._found: OrderedDict[tuple, tuple[Sequence, Future]] = OrderedDict()
        self._lock = Lock()  # verl prepares prompts in threads

    def get(self, sources: Sequence, make: Callable[[], Any], *words: str) -> Any:
        key = (*words, *map(id, sources))
        with self._lock:
            if is_new := key not in self._found:
                self._found[key] = tuple(sources), Future()
            self._found.move_to_end(key)
            if len(self._found) > KEPT:
                self._found.popitem(last=False)
            found = self._found[key][1]
        if is_new:  # made outside the lock: others wait for their own alone
            try:
                found.set_result(make())
            except BaseException as error:
                found.set_exception(error)
        return found.result()


class PreparedImages:
    """A Qwen image processor that remembers: `pixel_values` uint8 (patches, channels * patch²), not normalised."""

    def __init__(self, processor):
        self.prompts = {"decoded": Recent(), "tokens": Recent()}
        self._processor = processor
        self._prepared = Recent()

    def __getattr__(self, name: str):
        return getattr(self._processor, name)

    def __call__(self, images: Sequence[Image], **options) -> BatchFeature:
        words = repr(sorted(options.items()))
        return BatchFeature(dict(self._prepared.get(images, lambda: self._prepare(images, options), words)))

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
