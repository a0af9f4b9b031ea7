"""Pixels take an eighth of the bytes on their way to the trainer, which restores the floats of the image processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from examples.starter.build import build_processor
from qwen3vl_rl.models.families.qwen3_vl import prompts
from qwen3vl_rl.models.families.qwen3_vl.prompts import restore_pixels
from qwen3vl_rl.models.prepared_images import PreparedImages


@pytest.fixture
def image_processor():
    return build_processor().image_processor


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(160, 128), (640, 480), (333, 217)], ids=str)
def test_the_trainer_gets_the_floats_of_the_image_processor(image_processor, size):
    """Bit for bit, also if the processor resizes."""
    plain = image_processor(images=[noise(*size)], return_tensors="pt")
    sent = PreparedImages(image_processor, prompts)(images=[noise(*size)], return_tensors="pt")
    assert torch.equal(restore_pixels(sent["pixel_values"], image_processor), plain["pixel_values"])
    assert torch.equal(sent["image_grid_thw"], plain["image_grid_thw"])
    assert sent["pixel_values"].nbytes * 8 == plain["pixel_values"].nbytes


def test_other_means_and_deviations(image_processor):
    image_processor.image_mean, image_processor.image_std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    plain = image_processor(images=[noise(160, 128)], return_tensors="pt")
    sent = PreparedImages(image_processor, prompts)(images=[noise(160, 128)], return_tensors="pt")
    assert torch.equal(restore_pixels(sent["pixel_values"], image_processor), plain["pixel_values"])
