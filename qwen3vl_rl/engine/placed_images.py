"""Images put among the text by position, so that a forward pass never waits for the device.

transformers and verl find the places of images by a mask on the device: they read how many there are, scatter along a
mask as large as the embeddings, and index by masks in each deepstack layer, forward and backward. Each of these makes
the host wait until the device has done all that it was given. Packed samples tell the positions on the host.
"""

from functools import partial

import torch
from transformers import Qwen3VLForConditionalGeneration


def place_images(model: Qwen3VLForConditionalGeneration) -> None:
    """Make a loaded model that verl has patched take `image_positions` beside packed text and images; without them it
    does what it did."""
    core = model.model
    core.forward = partial(_forward, core, core.forward)
    language = core.language_model
    language._deepstack_process = partial(_add_features, language._deepstack_process)


def image_positions(input_ids: torch.Tensor, image_token_id: int, grid_thw: torch.Tensor, merge: int) -> torch.Tensor:
    """Where in packed text, (1, tokens), the features of these images go. All on the host."""
    positions = (input_ids[0] == image_token_id).nonzero().squeeze(1)
    features = int(grid_thw.prod(dim=1).sum()) // merge**2
    if len(positions) != features:
        raise ValueError(f"image tokens: expected {features}, one per feature of the images, got {len(positions)}")
    return positions


def _forward(core, plain, input_ids, image_positions=None, **inputs):
    if image_positions is None:
        return plain(input_ids, **inputs)
    pixels, grid, positions = (inputs.pop(name) for name in ("pixel_values", "image_grid_thw", "position_ids"))
    embeds = core.get_input_embeddings()(input_ids)
    images = core.visual(pixels.type(core.visual.dtype), grid_thw=grid)
    features = images.pooler_output.to(embeds.dtype)
    return core.language_model(
        inputs_embeds=embeds.index_copy(1, image_positions, features[None]),
        visual_pos_masks=image_positions,  # handed on to `_add_features`
        deepstack_visual_embeds=images.deepstack_features,
        position_ids=positions[-3:],  # in a fourth, transformers would look for where samples begin, which lengths tell
        **inputs,
    )


def _add_features(plain, hidden_states: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """transformers' `_deepstack_process`, which is `plain`, for positions in place of a mask. hidden_states: (1,
    tokens, hidden); features: (image tokens, hidden)."""
    if places.dtype == torch.bool:
        return plain(hidden_states, places, features)
    return hidden_states.index_add(1, places, features.to(hidden_states.dtype)[None])
