"""Tiles travel as bytes, and vLLM gets one placeholder for an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from examples.starter.internvl import build_processor
from qwen3vl_rl.models.families.internvl import prompts
from qwen3vl_rl.models.prepared_images import PreparedImages

PROCESSOR = build_processor()


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(160, 128), (640, 300), (33, 217)], ids=str)
def test_the_trainer_gets_the_floats_of_the_image_processor(size):
    """Bit for bit, whether or not the picture is cut."""
    images, plain = [noise(*size)], PROCESSOR.image_processor
    expected = PROCESSOR(text=["<IMG_CONTEXT>"], images=images, return_tensors="pt")["pixel_values"]
    prepared = build_processor.__wrapped__()
    prepared.image_processor = PreparedImages(prepared.image_processor, prompts)
    sent = prompts.image_inputs(prepared, images, {})["pixel_values"]
    assert sent.dtype == torch.uint8 and torch.equal(prompts.restore_pixels(sent, plain), expected)


def test_options_of_the_processor_are_used():
    tiles = [
        len(prompts.image_inputs(PROCESSOR, [noise(600, 100)], options)["pixel_values"])
        for options in ({}, {"max_patches": 6}, {"max_patches": 1})
    ]
    assert tiles == [3, 7, 1]


def test_the_engine_gets_one_placeholder_for_an_image():
    def ids(text: str) -> list[int]:
        return PROCESSOR.tokenizer(text, add_special_tokens=False)["input_ids"]

    text = "user\n<IMG_CONTEXT>\nand\n<IMG_CONTEXT>\nthe star"
    seen = PROCESSOR(text=[text], images=[noise(160, 128), noise(640, 300)])["input_ids"][0]
    assert len(seen) > len(ids(text)) + 50
    assert prompts.engine_prompt(list(seen), PROCESSOR) == ids(text)
    assert prompts.engine_prompt(ids(text), PROCESSOR) == ids(text)
