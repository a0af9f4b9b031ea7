"""An image is prepared once for all answers."""

import numpy as np
import pytest
import torch
from PIL import Image

from examples.starter.build import build_processor
from qwen3vl_rl.models import prepared_images
from qwen3vl_rl.models.families.qwen3_vl import prompts
from qwen3vl_rl.models.prepared_images import PreparedImages, Recent


@pytest.fixture
def image_processor():
    return build_processor().image_processor


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_an_image_is_prepared_once_and_not_mixed_up_with_others(image_processor, monkeypatch):
    calls = []
    prepare = PreparedImages._prepare
    monkeypatch.setattr(PreparedImages, "_prepare", lambda *args: calls.append(1) or prepare(*args))
    prepared, image = PreparedImages(image_processor, prompts), noise(160, 128)
    first, again = (prepared(images=[image], return_tensors="pt") for _ in range(2))
    assert len(calls) == 1 and torch.equal(first["pixel_values"], again["pixel_values"])
    other = prepared(images=[noise(160, 128, seed=1)], return_tensors="pt")
    assert len(calls) == 2 and not torch.equal(first["pixel_values"], other["pixel_values"])
    smaller = prepared(images=[image], return_tensors="pt", max_pixels=80 * 64, min_pixels=1024)
    assert len(calls) == 3 and len(smaller["pixel_values"]) < len(first["pixel_values"])


def test_a_new_object_is_not_mistaken_for_a_deleted_one():
    """A new object may have the address of a deleted one."""
    recent = Recent()
    assert [recent.get([[number]], lambda number=number: number) for number in range(50)] == list(range(50))


def test_the_cache_keeps_its_limit(monkeypatch):
    monkeypatch.setattr(prepared_images, "KEPT", 2)
    recent, sources = Recent(), [[number] for number in range(4)]
    made = [recent.get([source], object) for source in sources]
    kept = [recent.get([source], lambda: None) for source in reversed(sources)]
    assert kept == [made[3], made[2], None, None]
