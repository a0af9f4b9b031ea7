"""Packed attention computes the same loss and gradients as transformers' plain path.

In float32 on the CPU. On a GPU, if there is one, also in bfloat16, which uses the variable-length kernels.
"""

import itertools

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from examples.starter.build import build_config, build_model, build_tokenizer
from qwen3vl_rl.models.families.qwen3_vl.parts import image_places, pack_images, place_images
from qwen3vl_rl.models.packed_attention import pack_text, packing

pytestmark = pytest.mark.slow

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
GRIDS = {"one size": [(8, 10)] * 3, "many sizes": [(8, 10), (2, 2), (12, 4), (8, 10), (14, 14)], "one image": [(4, 6)]}
GROUPED_HEADS = {"text_config.num_attention_heads": 4, "text_config.num_key_value_heads": 2}


@pytest.fixture(scope="module")
def config():
    changes = {"text_config.hidden_size": 128, "vision_config.out_hidden_size": 128, **GROUPED_HEADS}
    return build_config(build_tokenizer(), changes)


def build(config, device: str) -> Qwen3VLForConditionalGeneration:
    model = build_model(config, seed=0)
    model.set_attn_implementation("sdpa")
    return model.to(device, torch.float32 if device == "cpu" else torch.bfloat16)


def images(grids: list[tuple[int, int]], device: str) -> dict[str, torch.Tensor]:
    patches = sum(h * w for h, w in grids)
    pixels = torch.randn(patches, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(0))
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return {
        "pixel_values": pixels.to(device, dtype),
        "image_grid_thw": torch.tensor([(1, h, w) for h, w in grids], device=device),
    }


def samples(config, grids: list[tuple[int, int]]) -> list[torch.Tensor]:
    """One sample per image: text, the image's tokens, text."""
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(10, 300, (length,), generator=draw) for length in range(5, 5 + 2 * len(grids))]
    pads = [torch.full((h * w // 4,), config.image_token_id) for h, w in grids]
    return [torch.cat([texts[2 * i], pad, texts[2 * i + 1]]) for i, pad in enumerate(pads)]


def packed_inputs(config, rows: list[torch.Tensor], grids: list[tuple[int, int]], device: str) -> dict:
    """Packed `rows`, with the arguments that the host computes."""
    ids, grid = torch.cat(rows)[None], torch.tensor([(1, h, w) for h, w in grids])
    ends = torch.tensor([0, *itertools.accumulate(map(len, rows))])
    inputs = {"input_ids": ids} | image_places(ids, grid, config)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in (inputs | packing(ends)).items()}
    return inputs | {"attention_mask": None, "inputs_embeds": None, "use_cache": False}  # None, as peft passes it


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(plain, packed, device: str) -> None:
    """`plain`, `packed`: (model, loss). On a GPU they may differ by rounding to 8 bits of mantissa."""
    assert packed[1].item() == pytest.approx(plain[1].item(), rel=1e-6 if device == "cpu" else 1e-2)
    expected, found = gradients(plain[0]), gradients(packed[0])
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        if device == "cpu":
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
        elif gradient.norm() > 1e-3:
            assert torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_packed_images_equal_single_images(config, grids, device):
    results = []
    for pack in (False, True):
        model = build(config, device)
        if pack:
            pack_images(model)
        out = model.model.get_image_features(**images(grids, device))
        loss = sum(x.float().square().mean() for x in [*out.pooler_output, *out.deepstack_features])
        loss.backward()
        results.append((model, loss))
    assert_same(*results, device)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_packed_samples_equal_single_samples(config, grids, device):
    rows = samples(config, grids)
    plain, packed = build(config, device), build(config, device)
    pack_images(packed)
    pack_text(packed)
    place_images(packed)
    pixels, every = images(grids, device), len(rows)
    patches = [h * w for h, w in grids]
    positions, losses = [], []
    for row, grid, values in zip(rows, pixels["image_grid_thw"], pixels["pixel_values"].split(patches), strict=True):
        ids = row.to(device)[None]
        three = plain.model.get_rope_index(ids, (ids == config.image_token_id).int(), grid[None])[0]
        positions.append(torch.cat([torch.arange(len(row), device=device)[None, None], three]))
        output = plain(input_ids=ids, position_ids=three, pixel_values=values, image_grid_thw=grid[None])
        losses.append(output.logits.float().square().mean() / every)
    sum(losses).backward()

    inputs = packed_inputs(config, rows, grids, device)
    hidden = packed.model(position_ids=torch.cat(positions, dim=-1), **pixels, **inputs).last_hidden_state
    logits = packed.lm_head(hidden)[0]
    loss = sum(part.float().square().mean() / every for part in logits.split(list(map(len, rows))))
    loss.backward()
    assert_same((plain, sum(losses)), (packed, loss), device)


def test_padding_at_the_end_counts_as_a_sample():
    found = packing(torch.tensor([0, 5, 9]), pad_size=3)
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 5, 9, 12]
    assert found["max_length_q"] == found["max_length_k"] == 5


def test_a_pass_forward_and_backward_reads_nothing_from_the_device(config):
    """On a GPU each read is a wait for all that it has to do. The meta device has nothing to read, and says so."""
    grids = GRIDS["many sizes"]
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config).bfloat16()
    pack_images(model)
    pack_text(model)
    place_images(model)
    inputs = packed_inputs(config, samples(config, grids), grids, "meta")
    inputs["position_ids"] = torch.empty(4, 1, inputs["input_ids"].shape[1], dtype=torch.long, device="meta")
    pixels = {"pixel_values": images(grids, "meta")["pixel_values"], "image_sources": tuple(range(len(grids)))}
    hidden = model.model(**pixels, **inputs).last_hidden_state
    model.lm_head(hidden).float().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):  # as transformers does it
        pixels = {"pixel_values": pixels["pixel_values"], "image_grid_thw": torch.tensor(inputs["image_sizes"])}
        model.model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], **pixels)


def test_images_without_their_tokens_are_refused(config):
    ids = torch.full((1, 19), config.image_token_id)
    with pytest.raises(ValueError, match="expected 20, one per feature of the images, got 19"):
        image_places(ids, torch.tensor([[1, 8, 10]]), config)
