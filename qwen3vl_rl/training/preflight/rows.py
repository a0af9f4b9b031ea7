"""The rows of the training and validation files: columns, images, what the reward reads, and how many there are."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.rl_rows import COLUMNS, check_size_and_truth
from qwen3vl_rl.errors import InputError, row_error

MAKER = "qwen3vl_rl.data.tools.rl_parquet"
BATCH_ROWS = 4096
OUR_REWARD = "pkg://qwen3vl_rl.reward"


def check_rows(config: DictConfig, key: str, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    """Every file is parquet with these columns and every image is there. Returns the number of rows."""
    return sum(check_file(path, columns, maker) for path in file_paths(config, key))


def check_file(path: Path, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected parquet of {maker} ({error})") from None
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise InputError(f"{path}: expected parquet of {maker}, found no column {missing[0]}")
    number = 0
    for number, images in enumerate(_images(file), start=1):
        for image in images or []:
            if isinstance(image, str) and not os.path.exists(image):
                raise row_error(path, number, "images", "an image that exists", image)
    return number


def check_reward_columns(config: DictConfig, key: str) -> None:
    """Every row has what our reward reads: the image's size and a box. Rows for another reward are its own affair."""
    if config.reward.custom_reward_function.path == OUR_REWARD:
        for path in file_paths(config, key):
            check_size_and_truth(path)


def file_paths(config: DictConfig, key: str) -> list[Path]:
    """The file or files that `key` names."""
    files = OmegaConf.select(config, key)
    return [Path(file).expanduser() for file in ([files] if isinstance(files, str) else files)]


def check_steps(config: DictConfig, rows: int) -> int:
    """The training set gives at least one batch, and the epochs as many steps as are asked for. Returns their number
    (the epochs': at most, as prompts that are too long are left out)."""
    batch, epochs, steps = (
        config.data.train_batch_size,
        config.trainer.total_epochs,
        config.trainer.total_training_steps,
    )
    for name, value in (("data.train_batch_size", batch), ("trainer.total_epochs", epochs)):  # stage 1 asks no more
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


def _images(file: pq.ParquetFile) -> Iterator[list | None]:
    for batch in file.iter_batches(BATCH_ROWS, columns=["images"]):
        yield from batch.column(0).to_pylist()
