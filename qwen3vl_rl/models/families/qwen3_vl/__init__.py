"""Qwen3-VL, dense (2B, 4B, 8B and 32B; Instruct and Thinking share their configurations): files and sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qwen3vl_rl.models.checkpoint_files import read_image_processor
from qwen3vl_rl.models.families.interface import Family, Limits
from qwen3vl_rl.models.resizing import fitted_size
from qwen3vl_rl.models.shapes import Shape

PATCH_VALUES = 3 * 2 * 16 * 16  # channels, frames, height, width
MERGED_PATCH_PX = 32  # 2 x 2 patches of 16
EDGES = ("shortest_edge", "longest_edge")  # the processors' names for the fewest and most pixels, which are areas
QWENS_PIXELS = (65_536, 16_777_216)  # fewest and most pixels in the published Qwen3-VL processors
POSITIONS = 2304  # rows of the vision tower's position table, a 48 x 48 grid


@dataclass(frozen=True, slots=True)
class Qwen3VLVisionShape:
    """Sizes of Qwen3-VL's vision tower. Fields but `mergers` are named as in the Hugging Face config."""

    depth: int
    hidden_size: int
    intermediate_size: int
    out_hidden_size: int  # of the language model
    mergers: int = 4  # one at the end, and one per deepstack layer
    num_position_embeddings: int = POSITIONS
    spatial_merge_size: int = 2

    @property
    def block_weights(self) -> int:
        return self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)

    @property
    def merged_size(self) -> int:
        """Values of the patches that become one token."""
        return self.spatial_merge_size**2 * self.hidden_size

    @property
    def merger_weights(self) -> int:
        return self.merged_size * (self.merged_size + self.out_hidden_size)

    @property
    def parameters(self) -> int:
        width = self.hidden_size
        block = self.block_weights + 5 * width + self.intermediate_size + 4 * width  # biases, then two norms
        mergers = self.mergers * (self.merger_weights + self.merged_size + self.out_hidden_size)
        merger_norms = 2 * width + 2 * self.merged_size * (self.mergers - 1)
        return (PATCH_VALUES + 1 + self.num_position_embeddings) * width + self.depth * block + mergers + merger_norms

    def adapter_parameters(self, rank: int) -> int:
        return rank * self.mergers * (3 * self.merged_size + self.out_hidden_size)

    def flops(self, image_tokens: float) -> float:
        patches = image_tokens * self.spatial_merge_size**2
        attention = 4 * self.hidden_size * patches**2
        return self.depth * (2 * self.block_weights * patches + attention) + self.merger_flops(image_tokens)

    def merger_flops(self, image_tokens: float) -> float:
        return 2 * self.mergers * self.merger_weights * image_tokens


class Qwen3VL(Family):
    name = "Qwen3-VL"
    model_type = "qwen3_vl"
    architecture = "Qwen3VLForConditionalGeneration"
    sizes: Mapping[str, Shape] = MappingProxyType(
        {
            "2b": Shape(2048, 6144, 28, 16, 8, 128, 151936, True, Qwen3VLVisionShape(24, 1024, 4096, 2048)),
            "4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, True, Qwen3VLVisionShape(24, 1024, 4096, 2560)),
            "8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, False, Qwen3VLVisionShape(27, 1152, 4304, 4096)),
            "32b": Shape(5120, 25600, 64, 64, 8, 128, 151936, False, Qwen3VLVisionShape(27, 1152, 4304, 5120)),
        }
    )
    layer_class = "Qwen3VLTextDecoderLayer"
    vision_class = "Qwen3VLVisionModel"
    limit_names = ("min_pixels", "max_pixels")
    placeholder_keys = ("image_token_id", "video_token_id")
    special_tokens = MappingProxyType(
        {
            "image_token_id": "<|image_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }
    )
    engines = ("vllm", "sglang")
    sequence_parallel = True
    pairs_of_limits = True  # its processor ignores a single one
    opens_thinking = True  # that of Qwen3-VL-Thinking
    resizes_first = True
    processor_in_verl = True

    def shape(self, config: Mapping) -> Shape:
        vision = config["vision_config"]
        tower = Qwen3VLVisionShape(
            vision["depth"],
            vision["hidden_size"],
            vision["intermediate_size"],
            config["text_config"]["hidden_size"],
            mergers=1 + len(vision["deepstack_visual_indexes"]),
            num_position_embeddings=vision["num_position_embeddings"],
            spatial_merge_size=vision["spatial_merge_size"],
        )
        return Shape.of(config, tower)

    def settle(self, config: Any) -> None:
        """The defaults are those of the checkpoints."""

    def own_limits(self, folder: Path | None) -> Limits:
        size = read_image_processor(folder).get("size") or {}
        least, most = (size.get(name, known) for name, known in zip(EDGES, QWENS_PIXELS, strict=True))
        return least, most

    def picture_tokens(self, width_px: int, height_px: int, limits: Limits | None = None) -> int:
        width, height = fitted_size(width_px, height_px, MERGED_PATCH_PX, limits or (0, math.inf), zero_sides=True)
        return width * height // MERGED_PATCH_PX**2

    def resized_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        return fitted_size(width_px, height_px, MERGED_PATCH_PX, QWENS_PIXELS, zero_sides=True)

    def turn(self, text: str) -> str:
        picture = "<|vision_start|><|image_pad|><|vision_end|>"
        return f"<|im_start|>user\n{picture}{text}<|im_end|>\n<|im_start|>assistant\n<think>\n"

    def pixel_arguments(self, least: int, most: int) -> dict[str, dict[str, int]]:
        return {"size": dict(zip(EDGES, (least, most), strict=True))}


QWEN3_VL = Qwen3VL()
