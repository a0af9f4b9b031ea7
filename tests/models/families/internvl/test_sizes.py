"""Counts from a configuration, compared with the real modules and the real processor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from benchmarks.common import internvl_model
from examples.starter.internvl import TILE_PX, build_config, build_processor, tile_tokens
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families.internvl import INTERNVL, Tiling

PROCESSOR = build_processor()


@pytest.mark.parametrize("size", INTERNVL.sizes)
def test_parameters_are_those_of_the_module(size):
    with torch.device("meta"):
        model, _ = internvl_model(size)
    shape = INTERNVL.shape(model.config.to_dict())
    assert shape == INTERNVL.sizes[size]
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    vision = (*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters())
    assert shape.vision.parameters == sum(p.numel() for p in vision)


def test_adapters_are_counted():
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(build_config(PROCESSOR.tokenizer))
    shape = INTERNVL.shape(model.config.to_dict())
    found = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", exclude_modules=".*vision_tower.*"))
    assert shape.adapter_parameters(8) == sum(p.numel() for n, p in found.named_parameters() if "lora_" in n)


def test_the_published_model_sees_300_million_parameters():
    tower = INTERNVL.sizes["internvl3_5_8b"].vision
    assert tower.parameters - tower.projector_weights == pytest.approx(304e6, rel=0.01)
    tile = tower.flops(256)
    assert tile == pytest.approx(2 * 1024 * (tower.num_hidden_layers * tower.block_weights), rel=0.25)
    assert tower.flops(2 * 256) == 2 * tile


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 12), st.integers(1, 12))
def test_pictures_have_the_tiles_of_the_processor(width, height, one, other):
    limits = {"min_patches": min(one, other), "max_patches": max(one, other)}
    tiling = Tiling(*limits.values(), side_px=TILE_PX)
    assert tiling.tiles(width, height) == PROCESSOR.image_processor.get_number_of_image_patches(height, width, limits)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_pictures_are_resized_to_the_tiles_of_the_processor(width, height):
    columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, 12)
    assert INTERNVL.resized_px(width, height) == (448 * columns, 448 * rows)


def test_a_coco_picture_of_the_published_models():
    assert INTERNVL.picture_tokens(640, 480) == 13 * 256 + 2  # 4 x 3 tiles and the whole picture
    assert INTERNVL.resized_px(640, 480) == (1792, 1344)


def test_a_picture_and_a_turn_have_the_tokens_of_the_processor(internvl):
    content = [{"type": "image"}, {"type": "text", "text": "Where?"}]
    text = PROCESSOR.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert INTERNVL.turn("Where?") == text
    limits = INTERNVL.picture_limits(internvl, {})
    assert limits == (1, 2, TILE_PX, tile_tokens(TILE_PX))
    for width, height in ((160, 128), (640, 200), (50, 300)):
        seen = PROCESSOR(text=[text], images=[torch.zeros(3, height, width, dtype=torch.uint8)])["input_ids"][0]
        alone = PROCESSOR.tokenizer(text)["input_ids"]
        assert len(seen) == len(alone) - 1 + INTERNVL.picture_tokens(width, height, limits)


def test_the_limits_of_a_checkpoint_are_read(internvl, tmp_path):
    assert INTERNVL.picture_limits(internvl, {"max_patches": 6})[:2] == (1, 6)
    assert INTERNVL.own_limits(tmp_path) == Tiling()


def test_limits_in_pixels_are_refused():
    with pytest.raises(InputError, match=r"max_pixels=50176: expected neither for InternVL3\.5, .*max_patches"):
        INTERNVL.pixel_arguments(784, 50176)


def test_a_square_tile_may_be_written_as_one_number():
    config = build_config(PROCESSOR.tokenizer).to_dict()
    shape = INTERNVL.shape(config)
    config["vision_config"] |= {"image_size": TILE_PX, "patch_size": 14}
    assert INTERNVL.shape(config) == shape
