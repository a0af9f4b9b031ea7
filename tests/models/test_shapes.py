"""Counts from a configuration, compared with the real modules."""

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.common import published_config
from examples.starter.build import build_tokenizer
from qwen3vl_rl.models.shapes import PUBLISHED, find_shape, image_tokens, read_shape


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_those_of_the_module(size):
    config = published_config(size, build_tokenizer())
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    shape = read_shape(config.to_dict())
    assert shape == PUBLISHED[size]
    assert shape.vision_parameters == sum(p.numel() for p in model.model.visual.parameters())
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_the_shape_of_a_local_checkpoint_is_read(starter):
    assert find_shape("8b", str(starter)).num_hidden_layers == 4


def test_operations_follow_the_usual_estimate():
    shape, tokens = PUBLISHED["8b"], 1000
    per_token = shape.language_flops(tokens, logits=0) / tokens
    assert per_token == pytest.approx(
        2 * shape.num_hidden_layers * shape.block_weights, rel=0.05
    )  # attention adds little
    assert shape.language_flops(1, logits=1) == pytest.approx(
        2 * (shape.language_parameters - shape.vocab_size * shape.hidden_size), rel=1e-3
    )


def test_image_tokens():
    assert image_tokens(640, 480) == 300
