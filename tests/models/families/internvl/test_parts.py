"""Image features inserted by position give the same results as in transformers, which uses masks."""

import pytest
import torch
from transformers import masking_utils

from examples.starter.internvl import TILE_PX, build_config, build_model, build_processor, tile_tokens
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.models.families.internvl.parts import add_image_places, blocks, mergers, pack_images, place_images
from qwen3vl_rl.models.packed_attention import pack_text, packing

pytestmark = pytest.mark.slow

TOKENS = tile_tokens(TILE_PX)


@pytest.fixture
def config():
    return build_config(build_processor().tokenizer)


def test_images_inserted_by_position_give_the_same_loss_and_gradients(config):
    text, tile = torch.arange(20, 26), torch.full((TOKENS,), config.image_token_id)
    samples = [torch.cat([tile, text]), torch.cat([text[:3], tile, tile, tile, text])]
    ends = torch.tensor([0, *(len(sample) for sample in samples)]).cumsum(0)
    pixels = torch.randn(4, 3, TILE_PX, TILE_PX, generator=torch.Generator().manual_seed(0))

    plain, hidden = build_model(config, seed=0), []
    for sample, tiles in zip(samples, pixels.split([1, 3]), strict=True):
        hidden.append(plain.model(input_ids=sample[None], pixel_values=tiles).last_hidden_state)
    expected = plain.lm_head(torch.cat(hidden, dim=1)).square().mean()

    placed = build_model(config, seed=0)
    for pack in (pack_images, pack_text, place_images):
        pack(placed)
    positions = torch.cat([torch.arange(len(sample)) for sample in samples])[None]
    inputs = {"input_ids": torch.cat(samples)[None], "position_ids": positions, "pixel_values": pixels}
    inputs = add_image_places(inputs, config) | packing(ends)
    found = placed.lm_head(placed.model(**inputs).last_hidden_state).square().mean()

    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), placed.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_texts_keep_their_inputs(config):
    text = {"input_ids": torch.zeros(1, 3)}
    assert add_image_places(text, config) is text


def test_a_text_without_an_image_has_the_same_result_and_gradients_of_all_parts(config):
    plain, placed = build_model(config, seed=0), build_model(config, seed=0)
    for pack in (pack_images, pack_text, place_images):
        pack(placed)
    ids = torch.arange(20, 40)[None]
    inputs = {"input_ids": ids, "position_ids": torch.arange(20)[None]} | packing(torch.tensor([0, 20]))
    found, expected = placed(**inputs, use_cache=False).logits, plain(input_ids=ids).logits
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    assert all(p.grad is not None for p in placed.model.parameters())


def test_a_prompt_with_too_few_image_tokens_is_refused(config):
    inputs = {"input_ids": torch.full((1, 3), config.image_token_id), "pixel_values": torch.zeros(1, 3, 112, 112)}
    with pytest.raises(ValueError, match="image tokens: expected 16, one per feature of the images, got 3"):
        add_image_places(inputs, config)


def test_blocks_are_those_of_both_towers(config):
    model = build_model(config, seed=0)
    assert {type(block).__name__ for block in blocks(model)} == {"InternVLVisionLayer", "Qwen3DecoderLayer"}
    assert len(blocks(model)) == config.vision_config.num_hidden_layers + config.text_config.num_hidden_layers
    assert mergers(model) == [model.model.multi_modal_projector]


def test_no_sample_boundaries_are_looked_for_on_the_device(config, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("transformers searched the positions")

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", fail)
    model = build_model(config, seed=0)
    for pack in (pack_images, pack_text, place_images):
        pack(model)
    ids = torch.cat([torch.full((TOKENS,), config.image_token_id), torch.arange(20, 26)])[None]
    inputs = {"input_ids": ids, "position_ids": torch.arange(ids.shape[1])[None]}
    inputs["pixel_values"] = torch.zeros(1, 3, TILE_PX, TILE_PX)
    model.model(**add_image_places(inputs, config) | packing(torch.tensor([0, ids.shape[1]])))


def test_a_configuration_without_the_key_gets_the_head_of_its_language_model(config):
    config.tie_word_embeddings = True  # what transformers makes of a file without it
    INTERNVL.settle(config)
    assert config.tie_word_embeddings is False
