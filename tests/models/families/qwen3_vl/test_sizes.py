"""Counts from a configuration, compared with the real modules and the real processor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.common import published_config
from examples.starter.build import build_processor, build_tokenizer
from qwen3vl_rl.data.pictures import MAX_RATIO
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL, QWENS_PIXELS

PROCESSOR = build_processor()


@pytest.mark.parametrize("size", QWEN3_VL.sizes)
def test_parameters_are_those_of_the_module(size):
    config = published_config(size, build_tokenizer())
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    shape = QWEN3_VL.shape(config.to_dict())
    assert shape == QWEN3_VL.sizes[size]
    assert shape.vision.parameters == sum(p.numel() for p in model.model.visual.parameters())
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_operations_follow_the_usual_estimate():
    shape, tokens = QWEN3_VL.sizes["8b"], 1000
    per_token = shape.language_flops(tokens, logits=0) / tokens
    assert per_token == pytest.approx(
        2 * shape.num_hidden_layers * shape.block_weights, rel=0.05
    )  # attention adds little
    assert shape.language_flops(1, logits=1) == pytest.approx(
        2 * (shape.language_parameters - shape.vocab_size * shape.hidden_size), rel=1e-3
    )


def test_a_picture_within_the_limits():
    assert QWEN3_VL.picture_tokens(640, 480) == QWEN3_VL.picture_tokens(640, 480, QWENS_PIXELS) == 300
    assert QWEN3_VL.resized_px(640, 480) == (640, 480) and QWEN3_VL.resized_px(100, 80) == (288, 256)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([(784, 50_176), QWENS_PIXELS]))
def test_pictures_have_the_tokens_of_the_processor(width, height, limits):
    if max(width, height) <= MAX_RATIO * min(width, height):
        options = dict(zip(QWEN3_VL.limit_names, limits, strict=True))
        patches = PROCESSOR.image_processor.get_number_of_image_patches(height, width, options)
        assert QWEN3_VL.picture_tokens(width, height, limits) == patches // PROCESSOR.image_processor.merge_size**2


def test_the_limits_of_a_checkpoint_are_read(starter, tmp_path):
    size = PROCESSOR.image_processor.size
    assert QWEN3_VL.own_limits(starter) == (size["shortest_edge"], size["longest_edge"])
    assert QWEN3_VL.picture_limits(starter, {"max_pixels": 2048}) == (size["shortest_edge"], 2048)
    assert QWEN3_VL.own_limits(tmp_path) == QWENS_PIXELS
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 50176}}')
    assert QWEN3_VL.own_limits(tmp_path) == (QWENS_PIXELS[0], 50_176)


def test_a_turn_is_that_of_the_template():
    content = [{"type": "image"}, {"type": "text", "text": "Where?"}]
    turn = [{"role": "user", "content": content}]
    assert QWEN3_VL.turn("Where?") == PROCESSOR.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)


def test_processors_take_the_arguments_for_pixels():
    options = QWEN3_VL.pixel_arguments(1024, 2048)
    grid = PROCESSOR.image_processor(torch.zeros(3, 128, 160), return_tensors="pt", **options)["image_grid_thw"]
    assert int(grid.prod()) // 4 == QWEN3_VL.picture_tokens(160, 128, (1024, 2048)) < QWEN3_VL.picture_tokens(160, 128)
