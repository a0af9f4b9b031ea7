"""Images put among the text by position, so that a forward pass never waits for the device.

transformers and verl find the places of images by a mask on the device: they read how many there are, scatter along a
mask as large as the embeddings, and index by masks in each deepstack layer, forward and backward. Each of these makes
the host wait until the device has done all that it was given. Packed samples tell the positions on the host. Sequence
parallelism and videos keep the way of masks.
"""

from functools import partial

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


def place_images(model: Qwen3VLForConditionalGeneration) -> None:
    """Make a loaded model that verl has patched take what `image_places` gives beside packed text and images; without
    it the model does what it did."""
    core = model.model
    core.forward = partial(_forward, core, core.forward)
    language = core.language_model
    language._deepstack_process = partial(_add_features, language._deepstack_process)


def image_places(input_ids: torch.Tensor, grid_thw: torch.Tensor, config: Qwen3VLConfig) -> dict[str, object]:
    """Of packed text, (1, tokens), on the host: `image_positions`, where the features of the images go, and
    `image_sizes`, `grid_thw` as numbers, since FSDP moves whatever is a tensor to the device."""
    positions = (input_ids[0] == config.image_token_id).nonzero().squeeze(1)
    features = int(grid_thw.prod(dim=1).sum()) // config.vision_config.spatial_merge_size**2
    if len(positions) != features:
        raise ValueError(f"image tokens: expected {features}, one per feature of the images, got {len(positions)}")
    return {"image_positions": positions, "image_sizes": tuple(map(tuple, grid_thw.tolist()))}


def _forward(core, plain, input_ids, image_positions=None, image_sizes=(), **inputs):
    if image_positions is None:
        return plain(input_ids, **inputs)
    pixels, positions = inputs.pop("pixel_values"), inputs.pop("position_ids")
    grid = torch.tensor(image_sizes)  # on the host, where it is read
    embeds = core.get_input_embeddings()(input_ids)
    images = core.visual(pixels.type(core.visual.dtype), grid_thw=grid)
    ours = {
        "inputs_embeds": embeds.index_copy(1, image_positions, images.pooler_output.to(embeds.dtype)[None]),
        "visual_pos_masks": image_positions,  # handed on to `_add_features`
        "deepstack_visual_embeds": images.deepstack_features,
        "position_ids": positions[-3:],  # in a fourth, transformers would look for where samples begin
    }
    return core.language_model(**inputs | ours)  # peft adds names that hold None


def _add_features(plain, hidden_states: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """transformers' `_deepstack_process`, which is `plain`, for positions in place of a mask. hidden_states: (1,
    tokens, hidden); features: (image tokens, hidden)."""
    if places.dtype == torch.bool:
        return plain(hidden_states, places, features)
    return hidden_states.index_add(1, places, features.to(hidden_states.dtype)[None])
