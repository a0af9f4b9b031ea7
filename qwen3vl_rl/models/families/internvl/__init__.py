"""InternVL3.5 in transformers' format (the checkpoints whose names end in -HF; 1B, 2B, 4B and 8B): files and sizes.

The image processor cuts a picture into square tiles, as many in each direction as fit its aspect ratio best, and adds
the whole picture as one more tile. Each tile takes the same number of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.checkpoint_files import read_config, read_image_processor
from qwen3vl_rl.models.families.interface import Family, Limits
from qwen3vl_rl.models.shapes import Shape

MARKS = 2  # <img> and </img>
PICTURE = "<IMG_CONTEXT>"


class Tiling(NamedTuple):
    """How pictures become tiles, with the values of the published models."""

    least: int = 1
    most: int = 12  # without the tile of the whole picture
    side_px: int = 448
    tokens: int = 256  # of a tile

    def tiles(self, width_px: int, height_px: int) -> int:
        """Tiles of a picture, that of the whole picture included."""
        count = prod(self.grid(width_px, height_px))
        return count + 1 if count > 1 else 1

    def grid(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Columns and rows of the tiles of a picture, without the tile of the whole picture.

        The grid is the one whose aspect ratio is closest to the picture's. Of equally close ones the largest is taken
        whose area is less than twice that of the picture, and the smallest if there is none.
        """
        grids = [
            (columns, rows)
            for columns in range(1, self.most + 1)
            for rows in range(1, self.most + 1)
            if self.least <= columns * rows <= self.most
        ]
        ratio = width_px / height_px
        found, closest = (1, 1), float("inf")
        for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
            distance = abs(ratio - columns / rows)
            is_small = columns * rows * self.side_px**2 < 2 * width_px * height_px
            if distance < closest or (distance == closest and is_small):
                found, closest = (columns, rows), distance
        return found


@dataclass(frozen=True, slots=True)
class InternViTShape:
    """Sizes of the vision tower and the projector. Fields but the last two are named as in the Hugging Face config."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    out_hidden_size: int  # of the language model
    patch_size: int = 14
    image_size: int = 448
    merged: int = 4  # patches that become one token

    @property
    def block_weights(self) -> int:
        return self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def projector_weights(self) -> int:
        return self.merged * self.hidden_size * self.out_hidden_size + self.out_hidden_size**2

    @property
    def parameters(self) -> int:
        width = self.hidden_size
        # A block has biases of attention and feed-forward, two norms and two scales of its outputs.
        block = self.block_weights + 5 * width + self.intermediate_size + 6 * width
        embeddings = (3 * self.patch_size**2 + 1) * width + (self.patches + 1) * width + width
        projector = self.projector_weights + 2 * self.merged * width + 2 * self.out_hidden_size
        return embeddings + self.num_hidden_layers * block + projector

    def adapter_parameters(self, rank: int) -> int:
        return rank * (self.merged * self.hidden_size + 3 * self.out_hidden_size)

    def flops(self, image_tokens: float) -> float:
        patches = self.patches + 1
        block = 2 * self.block_weights * patches + 4 * self.hidden_size * patches**2
        tiles = image_tokens * self.merged / self.patches
        return tiles * self.num_hidden_layers * block + self.merger_flops(image_tokens)

    def merger_flops(self, image_tokens: float) -> float:
        return 2 * self.projector_weights * image_tokens


def _vit_300m(out_hidden_size: int) -> InternViTShape:
    return InternViTShape(24, 1024, 4096, out_hidden_size)


class InternVL(Family):
    name = "InternVL3.5"
    model_type = "internvl"
    architecture = "InternVLForConditionalGeneration"
    # The config.json files of OpenGVLab/InternVL3_5-{1B,2B,4B,8B}-HF: the language models are Qwen3 0.6B, 1.7B, 4B and
    # 8B with an output head of their own, and InternViT-300M sees.
    sizes: Mapping[str, Shape] = MappingProxyType(
        {
            "internvl3_5_1b": Shape(1024, 3072, 28, 16, 8, 128, 151936, False, _vit_300m(1024)),
            "internvl3_5_2b": Shape(2048, 6144, 28, 16, 8, 128, 151936, False, _vit_300m(2048)),
            "internvl3_5_4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, False, _vit_300m(2560)),
            "internvl3_5_8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, False, _vit_300m(4096)),
        }
    )
    layer_class = "Qwen3DecoderLayer"
    vision_class = "InternVLVisionModel"
    limit_names = ("min_patches", "max_patches")
    placeholder_keys = ("image_token_id",)
    special_tokens = MappingProxyType({"image_token_id": PICTURE})
    engines = ("vllm",)
    sequence_parallel = False  # verl 0.9.1 slices the inputs of no InternVL
    pairs_of_limits = False
    opens_thinking = False
    resizes_first = False
    processor_in_verl = False

    def shape(self, config: Mapping) -> Shape:
        vision = config["vision_config"]
        tower = InternViTShape(
            vision["num_hidden_layers"],
            vision["hidden_size"],
            vision["intermediate_size"],
            config["text_config"]["hidden_size"],
            patch_size=_side(vision["patch_size"]),
            image_size=_side(vision["image_size"]),
            merged=round(1 / config.get("downsample_ratio", 0.5) ** 2),
        )
        return Shape.of(config, tower)

    def settle(self, config: Any) -> None:
        """Without the key, transformers ties embeddings. The language model's configuration says whether they are."""
        config.tie_word_embeddings = config.text_config.tie_word_embeddings

    def own_limits(self, folder: Path | None) -> Limits:
        processor, known = read_image_processor(folder), Tiling()
        if not processor:
            return known
        return Tiling(
            processor.get("min_patches", known.least),
            processor.get("max_patches", known.most),
            processor.get("size", {}).get("height", known.side_px),
            read_config(folder).get("image_seq_length", known.tokens),
        )

    def picture_tokens(self, width_px: int, height_px: int, limits: Limits | None = None) -> int:
        tiling = Tiling(*limits or ())
        return tiling.tiles(width_px, height_px) * tiling.tokens + MARKS

    def resized_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        columns, rows = (tiling := Tiling()).grid(width_px, height_px)
        return columns * tiling.side_px, rows * tiling.side_px

    def turn(self, text: str) -> str:
        return f"<|im_start|>user\n{PICTURE}\n{text}<|im_end|>\n<|im_start|>assistant\n"

    def pixel_arguments(self, least: int, most: int) -> dict[str, Any]:
        raise InputError(
            f"min_pixels={least}, max_pixels={most}: expected neither for {self.name}, which cuts pictures into tiles "
            "of one size; set max_patches of the image processor in processor_config.json or preprocessor_config.json"
        )


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]


INTERNVL = InternVL()
