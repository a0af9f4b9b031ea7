"""Sizes of Qwen3-VL models: parameters, floating-point operations and cache bytes, counted from a configuration."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_rl.errors import InputError

BF16_BYTES = 2
PATCH_VALUES = 3 * 2 * 16 * 16  # channels, frames, height, width
MERGED_PATCH_PX = 32  # 2 x 2 patches of 16
EDGES = ("shortest_edge", "longest_edge")  # the processors' names for the fewest and most pixels, which are areas
QWENS_PIXELS = (65_536, 16_777_216)  # fewest and most pixels in the published Qwen3-VL processors
POSITIONS = 2304  # rows of the vision tower's position table, a 48 x 48 grid


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3-VL model. Fields are named as in the Hugging Face config, the vision tower's with `vision_`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    vision_depth: int
    vision_hidden_size: int
    vision_intermediate_size: int
    vision_mergers: int = 4  # one at the end, and one per deepstack layer
    vision_positions: int = POSITIONS
    merge: int = 2

    @property
    def block_weights(self) -> int:
        """Parameters of one language layer without its norms."""
        heads, key_values = (n * self.head_dim for n in (self.num_attention_heads, self.num_key_value_heads))
        return self.hidden_size * (2 * heads + 2 * key_values + 3 * self.intermediate_size)

    @property
    def vision_block_weights(self) -> int:
        return self.vision_hidden_size * (4 * self.vision_hidden_size + 2 * self.vision_intermediate_size)

    @property
    def merger_weights(self) -> int:
        merged = self.merge**2 * self.vision_hidden_size
        return merged * (merged + self.hidden_size)

    @property
    def language_parameters(self) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        norms = 2 * self.hidden_size + 2 * self.head_dim
        return embeddings + self.num_hidden_layers * (self.block_weights + norms) + self.hidden_size

    @property
    def vision_parameters(self) -> int:
        """Parameters of encoder and mergers, with biases and norms."""
        width, inner = self.vision_hidden_size, self.vision_intermediate_size
        block = self.vision_block_weights + 5 * width + inner + 4 * width  # biases, then two norms
        merged = self.merge**2 * width
        mergers = self.vision_mergers * (self.merger_weights + merged + self.hidden_size)
        merger_norms = 2 * width + 2 * merged * (self.vision_mergers - 1)
        return (PATCH_VALUES + 1 + self.vision_positions) * width + self.vision_depth * block + mergers + merger_norms

    @property
    def parameters(self) -> int:
        return self.language_parameters + self.vision_parameters

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of LoRA adapters on all linear layers of the mergers and of the language model except its head."""
        heads, key_values = (n * self.head_dim for n in (self.num_attention_heads, self.num_key_value_heads))
        merged = self.merge**2 * self.vision_hidden_size
        queries_and_output, both = 2 * (self.hidden_size + heads), 2 * (self.hidden_size + key_values)
        feed_forward = 3 * (self.hidden_size + self.intermediate_size)
        layers = self.num_hidden_layers * (queries_and_output + both + feed_forward)
        return rank * (layers + self.vision_mergers * (3 * merged + self.hidden_size))

    def cache_bytes(self, tokens: float) -> float:
        """Bytes of the keys and values of `tokens` tokens in bfloat16."""
        return tokens * 2 * BF16_BYTES * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    def language_flops(self, tokens: float, logits: float) -> float:
        """Operations of a forward pass over a sequence, with causal attention and the logits of `logits` tokens."""
        attention = 2 * self.num_attention_heads * self.head_dim * tokens**2
        layers = self.num_hidden_layers * (2 * self.block_weights * tokens + attention)
        return layers + 2 * self.hidden_size * self.vocab_size * logits

    def vision_flops(self, image_tokens: float) -> float:
        """Operations of one forward pass over an image, mergers included."""
        patches = image_tokens * self.merge**2
        attention = 4 * self.vision_hidden_size * patches**2
        blocks = self.vision_depth * (2 * self.vision_block_weights * patches + attention)
        return blocks + self.merger_flops(image_tokens)

    def merger_flops(self, image_tokens: float) -> float:
        """The part of `vision_flops` in the mergers, which stage 1 trains."""
        return 2 * self.vision_mergers * self.merger_weights * image_tokens


def image_tokens(width_px: int, height_px: int) -> int:
    """Tokens of an image within the processor's limits: sides are rounded to whole merged patches."""
    return round(width_px / MERGED_PATCH_PX) * round(height_px / MERGED_PATCH_PX)


def fitted_size(width_px: int, height_px: int, side_px: int, pixels: tuple[int, int]) -> tuple[int, int]:
    """Width and height in px to which Qwen's processors resize an image.

    Both are multiples of `side_px`, their product is within `pixels` (fewest, most), and they are as close to the
    original size as this allows.
    """
    least, most = pixels
    width, height = (max(side_px, round(length / side_px) * side_px) for length in (width_px, height_px))
    if width * height > most:
        shrink = math.sqrt(width_px * height_px / most)  # divide in the processor's order, which decides the last bit
        width, height = (
            max(side_px, math.floor(length / shrink / side_px) * side_px) for length in (width_px, height_px)
        )
    elif width * height < least:
        grow = math.sqrt(least / (width_px * height_px))
        width, height = (math.ceil(length * grow / side_px) * side_px for length in (width_px, height_px))
    return width, height


def read_shape(config: Mapping) -> Shape:
    """The shape of a model with this Hugging Face configuration."""
    text, vision = config["text_config"], config["vision_config"]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return Shape(
        **{name: text[name] for name in (*names, "head_dim", "vocab_size")},
        tie_word_embeddings=text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)),
        vision_depth=vision["depth"],
        vision_hidden_size=vision["hidden_size"],
        vision_intermediate_size=vision["intermediate_size"],
        vision_mergers=1 + len(vision["deepstack_visual_indexes"]),
        vision_positions=vision["num_position_embeddings"],
        merge=vision["spatial_merge_size"],
    )


# The published configurations of Qwen3-VL (Instruct and Thinking share them).
PUBLISHED: Mapping[str, Shape] = {
    "2b": Shape(2048, 6144, 28, 16, 8, 128, 151936, True, 24, 1024, 4096),
    "4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, True, 24, 1024, 4096),
    "8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, False, 27, 1152, 4304),
    "32b": Shape(5120, 25600, 64, 64, 8, 128, 151936, False, 27, 1152, 4304),
}


def read_folder(folder: Path) -> Shape:
    """The shape of the checkpoint in `folder`. Raises InputError if its config.json is not that of a Qwen3-VL model."""
    path = folder / "config.json"
    try:
        return read_shape(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected the configuration of a Qwen3-VL model ({error!r})") from None


def find_shape(size: str, model: str | None) -> Shape:
    """The shape of the checkpoint in the folder `model`, or the published one of `size` if there is no such folder.

    Raises KeyError for a size that is not in `PUBLISHED`.
    """
    if model and (folder := Path(model).expanduser()).joinpath("config.json").is_file():
        return read_folder(folder)
    return PUBLISHED[size]
