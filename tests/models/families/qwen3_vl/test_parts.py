"""Image features inserted by position give the same results as in transformers, which uses masks."""

import pytest
import torch

from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.models.families.qwen3_vl.parts import add_image_places, image_places, pack_images, place_images
from qwen3vl_rl.models.packed_attention import pack_text, packing

pytestmark = pytest.mark.slow

GRIDS = torch.tensor([(1, 8, 10), (1, 4, 6)])


def test_images_inserted_by_position_give_the_same_loss_and_gradients():
    config = build_config(build_tokenizer(), {})
    text, image = torch.arange(20, 26), torch.full((1,), config.image_token_id)
    samples = [torch.cat([image.expand(20), text]), torch.cat([text[:3], image.expand(6), text])]
    ids, ends = torch.cat(samples)[None], torch.tensor([0, 26, 41])
    positions = [torch.arange(len(sample)).expand(3, 1, -1) for sample in samples]
    pixels = torch.randn(80 + 24, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(0))

    plain, hidden = build_model(config, seed=0), []
    for sample, place, patches, grid in zip(samples, positions, pixels.split([80, 24]), GRIDS, strict=True):
        inputs = {"input_ids": sample[None], "position_ids": place, "pixel_values": patches}
        kinds = (sample[None] == config.image_token_id).long()
        output = plain.model(**inputs, image_grid_thw=grid[None], mm_token_type_ids=kinds)
        hidden.append(output.last_hidden_state)
    expected = plain.lm_head(torch.cat(hidden, dim=1)).square().mean()

    placed = build_model(config, seed=0)
    for pack in (pack_images, pack_text, place_images):
        pack(placed)
    inputs = {"input_ids": ids, "position_ids": torch.cat(positions, dim=2), "pixel_values": pixels}
    inputs = add_image_places(inputs | {"image_grid_thw": GRIDS}, config) | packing(ends)
    found = placed.lm_head(placed.model(**inputs).last_hidden_state).square().mean()

    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), placed.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_texts_and_videos_keep_their_inputs():
    text = {"input_ids": torch.zeros(1, 3)}
    video = text | {"image_grid_thw": GRIDS, "pixel_values_videos": torch.zeros(1)}
    assert add_image_places(text, None) is text
    assert add_image_places(video, None) is video


def test_a_prompt_with_too_few_image_tokens_is_refused():
    config = build_config(build_tokenizer(), {})
    with pytest.raises(ValueError, match="image tokens: expected 26, one per feature of the images, got 3"):
        image_places(torch.full((1, 3), config.image_token_id), GRIDS, config)
