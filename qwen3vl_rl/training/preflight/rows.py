"""The rows of training and validation files: columns, images, what the reward reads, and their number."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.expressions import added_tokens
from qwen3vl_rl.data.rl_rows import COLUMNS, check_size_and_truth
from qwen3vl_rl.data.turns import check_turns
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import NO_REFERENT

MAKER = "qwen3vl_rl.data.tools.rl_parquet"
BATCH_ROWS = 4096
OUR_REWARD = "pkg://qwen3vl_rl.reward"


def check_rows(config: DictConfig, key: str, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    """Every file is parquet with these columns, and every image exists. Returns the number of rows."""
    return sum(check_file(path, columns, maker) for path in file_paths(config, key))


def check_file(path: Path, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    """`check_rows` for one file."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected parquet written by {maker} ({error})") from None
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise InputError(f"{path}: expected parquet written by {maker}, found no column {missing[0]}")
    check_images(path, file)
    return file.metadata.num_rows


def check_images(path: Path, file: pq.ParquetFile) -> None:
    """Every image that a path names exists. Each path is checked once; images within the rows are not checked."""
    first, there = 1, set()
    for batch in file.iter_batches(BATCH_ROWS, columns=["images"]):
        rows = batch.column(0)
        named = named_images(rows) - there
        if missing := {image for image in named if not os.path.exists(image)}:
            raise missing_image(path, first, rows.to_pylist(), missing)
        there |= named
        first += len(batch)


def named_images(rows: pa.Array) -> set[str]:
    if pa.types.is_list(rows.type) and pa.types.is_string(rows.type.value_type):  # as we write them: read by column
        return set(pc.unique(pc.list_flatten(rows)).drop_null().to_pylist())
    return {image for images in rows.to_pylist() for image in images or [] if isinstance(image, str)}


def missing_image(path: Path, first: int, rows: list[list[str] | None], missing: set[str]) -> InputError:
    """The error for the first row that names a missing image; `first`: the number of the first of these rows."""
    named = ((number, image) for number, images in enumerate(rows, first) for image in images or [])
    number, image = next(found for found in named if isinstance(found[1], str) and found[1] in missing)
    return row_error(path, number, "images", "an image that exists", image)


def check_reward_columns(config: DictConfig, key: str) -> None:
    """Every row has what our reward reads: the image's size and a box. Rows for another reward are not checked."""
    if config.reward.custom_reward_function.path != OUR_REWARD:
        return
    parser = config.reward.custom_reward_function.reward_kwargs.parser  # under its present name
    for path in file_paths(config, key):
        check_size_and_truth(path)
        if parser != "strict" and (row := first_of_several_answers(path)):
            expected = f"strict for row {row} of {path}: its answer is an empty list or two boxes, which others misread"
            raise InputError(f'reward.parser: expected {expected}; got "{parser}"')


def first_of_several_answers(path: Path) -> int | None:
    """The first row (1-based) for which nothing fits or that asks for two boxes; None if there is none."""
    first = 1
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["data_source", "extra_info"]):
        info, found = batch.column("extra_info"), pc.equal(batch.column("data_source"), NO_REFERENT).fill_null(False)
        if info.type.get_field_index("modal_xyxy_1000") >= 0:
            found = pc.or_(found, pc.struct_field(info, "modal_xyxy_1000").is_valid())
        if (place := pc.index(found, True).as_py()) >= 0:
            return first + place
        first += len(batch)
    return None


def check_texts(config: DictConfig, key: str, column: str, model: str) -> None:
    """No turn of any row contains a special token of Qwen3-VL or of the model at the config key `model`."""
    own = added_tokens(Path(OmegaConf.select(config, model)).expanduser())
    for path in file_paths(config, key):
        check_turns(path, column, own)


def file_paths(config: DictConfig, key: str) -> list[Path]:
    """The file or files at the config key `key`."""
    files = OmegaConf.select(config, key)
    return [Path(file).expanduser() for file in ([files] if isinstance(files, str) else files)]


def check_steps(config: DictConfig, rows: int) -> int:
    """The training set gives at least one batch, and the epochs give the requested steps.

    Returns the number of steps. If none are requested, it is an upper bound, because verl skips prompts that are too
    long.
    """
    batch, epochs, steps = (
        config.data.train_batch_size,
        config.trainer.total_epochs,
        config.trainer.total_training_steps,
    )
    for name, value in (("data.train_batch_size", batch), ("trainer.total_epochs", epochs)):  # also for stage 1
        if value < 1:
            raise InputError(f"{name}={value}: expected at least 1")
    if rows < batch:
        raise InputError(f"data.train_batch_size={batch}: expected at most the {rows} rows of data.train_files")
    most = rows // batch * epochs
    if steps and steps > most:
        needed = -(-steps // (rows // batch))
        raise InputError(
            f"trainer.total_training_steps={steps}: {epochs} epochs of {rows} rows end after {most} steps; "
            f"trainer.total_epochs={needed} gives enough"
        )
    return steps or most
