"""The parts of a loaded Qwen3-VL model, and its images: attended to together, and placed by position.

transformers 5.9 calls attention once per image and vision layer, and computes the vision tower's position indices image
by image. Here one call per layer attends over the whole batch (`packed_attention.py`), and the indices are computed
once per image size.

transformers and verl locate image tokens with a mask on the device. They read the number of image tokens, scatter along
a mask as large as the embeddings, and index by masks in each deepstack layer, forward and backward. Each of these makes
the host wait until the device has finished all queued work. With packed samples, the host knows the positions. Sequence
parallelism and videos still use masks.
"""

from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.vision_utils import get_vision_bilinear_indices_and_weights, get_vision_position_ids

from qwen3vl_rl.models.families.interface import Part
from qwen3vl_rl.models.packed_attention import NAME, attend_with


def part_of(parameter: str) -> Part:
    """The part that a parameter belongs to, by its full name."""
    if ".visual." not in parameter:
        return "language model"
    return "mergers" if "merger" in parameter else "vision encoder"


def mergers(model: Qwen3VLForConditionalGeneration) -> list[torch.nn.Module]:
    """The merger that makes the image tokens, then those whose features are added to the first language layers."""
    visual = model.model.visual
    return [visual.merger, *visual.deepstack_merger_list]


def blocks(model: Qwen3VLForConditionalGeneration) -> list[torch.nn.Module]:
    return [*model.model.visual.blocks, *model.model.language_model.layers]


def pack_images(model: Qwen3VLForConditionalGeneration, name: str = NAME) -> None:
    """Make the vision tower of a loaded model attend over whole batches with the attention function `name`."""
    attend_with(name, model.model.visual)
    model.model.visual.register_forward_pre_hook(_add_indices, with_kwargs=True)


@lru_cache(maxsize=1024)
def _image_indices(
    grid_thw: tuple[int, int, int], grid_per_side: int, merge_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bilinear indices and weights (4, patches) and position ids (patches, 2) of an image of t x h x w patches."""
    grid = torch.tensor([grid_thw])
    parts = get_vision_bilinear_indices_and_weights(grid, grid_per_side, merge_size)
    parts = *parts, get_vision_position_ids(grid, merge_size)
    return tuple(part.to(device, non_blocking=True) for part in parts)


def _add_indices(visual: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the vision tower: passes the indices that it would otherwise compute image by image."""
    if "cu_seqlens" in kwargs:
        return None
    device, images = args[0].device, [tuple(image) for image in kwargs["grid_thw"].tolist()]
    merge = visual.spatial_merge_size
    parts = (_image_indices(image, visual.num_grid_per_side, merge, device) for image in images)
    indices, weights, positions = zip(*parts, strict=True)
    frames = [h * w for t, h, w in images for _ in range(t)]
    ends = torch.tensor([0, *accumulate(frames)], dtype=torch.int32)
    indices = {
        "bilinear_indices": torch.cat(indices, dim=1),
        "bilinear_weights": torch.cat(weights, dim=1),
        "position_ids": torch.cat(positions),
        "cu_seqlens": ends.to(device, non_blocking=True),
        "longest": max(frames),
    }
    return args, {**kwargs, **indices}


def place_images(model: Qwen3VLForConditionalGeneration) -> None:
    """Let a loaded model that verl has patched accept the result of `image_places` with packed text and images.

    Without that result, the model behaves as before.
    """
    core = model.model
    core.forward = partial(_forward, core, core.forward)
    language = core.language_model
    language._deepstack_process = partial(_add_features, language._deepstack_process)


def add_image_places(inputs: dict[str, Any], config: Qwen3VLConfig) -> dict[str, Any]:
    """The inputs with the result of `image_places` instead of `image_grid_thw`. Inputs with videos stay as they are."""
    if "image_grid_thw" not in inputs or "pixel_values_videos" in inputs:
        return inputs
    rest = {name: value for name, value in inputs.items() if name != "image_grid_thw"}
    return rest | image_places(inputs["input_ids"], inputs["image_grid_thw"], config)


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
