"""Counts the rows that verl skips because their prompts are too long, without opening an image."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import DictConfig
from tokenizers import Tokenizer

from qwen3vl_rl.data.parquet import open_parquet
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.models.families import family_of
from qwen3vl_rl.models.families.interface import Family, Limits
from qwen3vl_rl.models.resizing import fitted_size
from qwen3vl_rl.training.preflight.rows import BATCH_ROWS, file_paths
from qwen3vl_rl.training.workload import picture_limits

VERLS_TOKENS = (4, 16_384)  # fewest and most tokens of an image after verl's resize, before the processor's
PATCH_PX = 16  # for verl's resize, if data.image_patch_size is not set
MOST_TOKENS_OF_TURN = 32  # at most, without the text


class Resizing(NamedTuple):
    """How an image is resized: by verl to multiples of `verls_side_px`, if it does so for the family, then by the
    family's processor within `limits`."""

    family: Family
    verls_side_px: int
    limits: Limits

    def tokens(self, width: int, height: int) -> int:
        """Tokens of an image of this size in px; 0 if the size is unknown."""
        if min(width, height) <= 0:
            return 0
        if self.family.resizes_first:
            pixels = tuple(count * self.verls_side_px**2 for count in VERLS_TOKENS)
            width, height = fitted_size(width, height, self.verls_side_px, pixels)
        return self.family.picture_tokens(width, height, self.limits)


class LongPrompts(NamedTuple):
    """The number of prompts of a file that are too long, and the first one: its row, image size in px and tokens."""

    count: int
    row: int
    size: tuple[int, int]
    tokens: int


def check_prompt_lengths(config: DictConfig, key: str, rows: int) -> int:
    """Print how many of the `rows` verl skips, and return how many are left.

    Raises InputError if none is left, or if a prompt is too long and verl is configured not to skip it. Rows without
    the size of their image are assumed to fit.
    """
    limit, left = config.data.max_prompt_length, rows
    model = config.actor_rollout_ref.model.path
    family = family_of(model)
    count_tokens = _text_counter(Path(model).expanduser(), family)
    side_px = 2 * (config.data.get("image_patch_size") or PATCH_PX)
    resizing = Resizing(family, side_px, picture_limits(config, family))
    for path in file_paths(config, key):
        found = find_long_prompts(path, limit, resizing, count_tokens)
        if not found.count:
            continue
        width, height = found.size
        if not config.data.get("filter_overlong_prompts"):
            expected = f"a prompt of at most data.max_prompt_length={limit:,} tokens"
            raise row_error(path, found.row, "prompt", expected, f"{found.tokens:,} with the {width}x{height} image")
        left -= found.count
        what = f"whose prompts are longer than data.max_prompt_length={limit:,} tokens"
        where = f"row {found.row}, {found.tokens:,} tokens with its {width}x{height} image"
        print(f"{path}: verl skips {found.count:,} rows {what}; the first is {where}", flush=True)
    if rows and not left:
        raise InputError(f"data.max_prompt_length={limit}: expected a larger limit, every prompt of {key} is longer")
    return left


def find_long_prompts(
    path: Path, limit: int, resizing: Resizing, count_tokens: Callable[[list[str]], list[int]]
) -> LongPrompts:
    """The prompts of a file with more than `limit` tokens. Texts with few enough bytes are not tokenized."""
    first, count, shown = 1, 0, (0, (0, 0), 0)
    tokens_of = cache(resizing.tokens)
    with open_parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["prompt", "extra_info"]):
            sizes, texts = _sizes(batch.column("extra_info")), _texts(batch.column("prompt"))
            tokens = _image_tokens(sizes, tokens_of)
            long_bytes = pc.binary_length(texts).fill_null(0).to_numpy(zero_copy_only=False)
            doubtful = np.flatnonzero((tokens > 0) & (tokens + long_bytes + MOST_TOKENS_OF_TURN > limit))
            tokens[doubtful] += np.array(count_tokens(texts.take(pa.array(doubtful)).to_pylist()), np.int64)
            found = doubtful[tokens[doubtful] > limit]
            if len(found) and not count:
                index = int(found[0])
                shown = first + index, tuple(sizes[index].tolist()), int(tokens[index])
            count += len(found)
            first += len(batch)
    return LongPrompts(count, *shown)


def _text_counter(model: Path, family: Family) -> Callable[[list[str]], list[int]]:
    """A function that counts the tokens of user turns without their images; 0 if the model has no tokenizer here."""
    path = model / "tokenizer.json"
    if not path.is_file():
        return lambda texts: [0] * len(texts)
    tokenizer = Tokenizer.from_file(str(path))
    return lambda texts: [
        len(found) - 1  # the placeholder
        for found in tokenizer.encode_batch(
            [family.turn((text or "").replace("<image>", "", 1)) for text in texts], add_special_tokens=False
        )
    ]


def _image_tokens(sizes: np.ndarray, tokens_of: Callable[[int, int], int]) -> np.ndarray:
    """Image tokens of each (width, height)."""
    distinct, places = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_inverse=True)
    tokens = [tokens_of(size >> 32, size & 0xFFFFFFFF) for size in distinct.tolist()]
    return np.array(tokens, np.int64)[places]


def _sizes(info: pa.Array) -> np.ndarray:
    """Width and height in px, (rows, 2); 0 if a row does not state them."""
    columns = np.zeros((len(info), 2), np.int64)
    for column, name in enumerate(("width", "height")):
        if pa.types.is_struct(info.type) and info.type.get_field_index(name) >= 0:
            values = pc.struct_field(info, name)
            if pa.types.is_integer(values.type):
                columns[:, column] = values.fill_null(0).to_numpy(zero_copy_only=False)
    return columns


def _texts(prompts: pa.Array) -> pa.Array:
    """The text of each row's first turn, the only one in our rows; null if it is not text."""
    kind = prompts.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return pa.nulls(len(prompts), pa.string())
    if kind.value_type.get_field_index("content") < 0 or not pc.min(pc.list_value_length(prompts)).as_py():
        return pa.nulls(len(prompts), pa.string())
    content = pc.struct_field(pc.list_element(prompts, 0), "content")
    is_text = pa.types.is_string(content.type) or pa.types.is_large_string(content.type)
    return content if is_text else pa.nulls(len(prompts), pa.string())
