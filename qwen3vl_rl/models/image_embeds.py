"""Image features inserted into the text by position, so that the host never waits for the device in a forward pass.

transformers and verl locate image tokens with a mask on the device. They read the number of image tokens, scatter along
a mask as large as the embeddings, and index by masks in each deepstack layer, forward and backward. Each of these makes
the host wait until the device has finished all queued work. With packed samples, the host knows the positions. Sequence
parallelism and videos still use masks.
"""

from functools import partial

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


def place_images(model: Qwen3VLForConditionalGeneration) -> None:
    """Let a loaded model that verl has patched accept the result of `image_places` with packed text and images.

    Without that result, the model behaves as before.
    """
    core = model.model
    core.forward = partial(_forward, core, core.forward)
    language = core.language_model
    language._deepstack_process = partial(_add_features, language._deepstack_process)


def image_places(input_ids: torch.Tensor, grid_thw: torch.Tensor, config: Qwen3VLConfig) -> dict[str, object]:
    """Where the image features go in packed text, `input_ids` (1, tokens). All tensors are on the host.

    Returns `image_positions`, the positions of the image tokens, and `image_sizes`, `grid_thw` as Python integers,
    because FSDP moves every tensor to the device. Raises ValueError if there is not one token per image feature.
    """
    positions = (input_ids[0] == config.image_token_id).nonzero().squeeze(1)
    features = int(grid_thw.prod(dim=1).sum()) // config.vision_config.spatial_merge_size**2
    if len(positions) != features:
        raise ValueError(f"image tokens: expected {features}, one per feature of the images, got {len(positions)}")
    return {"image_positions": positions, "image_sizes": tuple(map(tuple, grid_thw.tolist()))}


def _forward(core, plain, input_ids, image_positions=None, image_sizes=(), **inputs):
    if image_positions is None:
        return plain(input_ids, **inputs)
    pixels, positions = inputs.pop("pixel_values"), inputs.pop("position_ids")
    grid = torch.tensor(image_sizes)  # on the host, because the vision tower reads its values
    embeds = core.get_input_embeddings()(input_ids)
    images = core.visual(pixels.type(core.visual.dtype), grid_thw=grid)
    ours = {
        "inputs_embeds": embeds.index_copy(1, image_positions, images.pooler_output.to(embeds.dtype)[None]),
        "visual_pos_masks": image_positions,  # passed on to `_add_features`
        "deepstack_visual_embeds": images.deepstack_features,
        "position_ids": positions[-3:],  # in a fourth, transformers would search for sample boundaries
    }
    return core.language_model(**inputs | ours)  # peft adds arguments that are None


def _add_features(plain, hidden_states: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """transformers' `_deepstack_process`, passed as `plain`, for positions instead of a mask.

    hidden_states: (1, tokens, hidden). places: positions, or a mask for `plain`. features: (image tokens, hidden).
    """
    if places.dtype == torch.bool:
        return plain(hidden_states, places, features)
    return hidden_states.index_add(1, places, features.to(hidden_states.dtype)[None])
