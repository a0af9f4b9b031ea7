"""The parts of a loaded InternVL model, and its image features inserted into the text by position."""

from functools import partial
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.internvl.modeling_internvl import InternVLModelOutputWithPast

from qwen3vl_rl.models.families.interface import Part

FOR_VISION = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")  # arguments of the model


def part_of(parameter: str) -> Part:
    if ".vision_tower." in parameter:
        return "vision encoder"
    return "mergers" if ".multi_modal_projector." in parameter else "language model"


def mergers(model: InternVLForConditionalGeneration) -> list[torch.nn.Module]:
    return [model.model.multi_modal_projector]


def blocks(model: InternVLForConditionalGeneration) -> list[torch.nn.Module]:
    return [*model.model.vision_tower.encoder.layer, *model.model.language_model.layers]


def pack_images(model: InternVLForConditionalGeneration) -> None:
    """transformers does so: the tiles of all images have one size, and are one batch."""


def place_images(model: InternVLForConditionalGeneration) -> None:
    model.model.forward = partial(_forward, model.model, model.model.forward)


def add_image_places(inputs: dict[str, Any], config: InternVLConfig) -> dict[str, Any]:
    """The inputs with `image_positions`, the positions of the image tokens in `input_ids` (1, tokens)."""
    if "pixel_values" not in inputs:
        return inputs
    positions = (inputs["input_ids"][0] == config.image_token_id).nonzero().squeeze(1)
    features = len(inputs["pixel_values"]) * config.image_seq_length
    if len(positions) != features:
        raise ValueError(f"image tokens: expected {features}, one per feature of the images, got {len(positions)}")
    return inputs | {"image_positions": positions}


def _forward(core, plain, input_ids, image_positions=None, **inputs):
    """Texts without images see a blank tile, to no effect: FSDP needs gradients of the same parameters on all ranks."""
    vision = {name: inputs.pop(name) for name in FOR_VISION if name in inputs}
    if image_positions is None and vision.get("pixel_values") is not None:
        return plain(input_ids, **inputs, **vision)
    if image_positions is None:
        vision["pixel_values"] = torch.zeros(1, 3, *core.config.vision_config.image_size, device=input_ids.device)
    features = core.get_image_features(**vision, return_dict=True).pooler_output.flatten(0, 1)
    embeds = core.get_input_embeddings()(input_ids)
    if image_positions is None:
        embeds = embeds + 0 * features.sum().to(embeds.dtype)
    else:
        embeds = embeds.index_copy(1, image_positions, features.to(embeds.dtype)[None])
    # Packed attention needs no mask; transformers would look for sample boundaries on the device.
    ours = {"inputs_embeds": embeds, "attention_mask": {"full_attention": None}}
    found = core.language_model(**inputs | ours)
    return InternVLModelOutputWithPast(**found, image_hidden_states=features)
