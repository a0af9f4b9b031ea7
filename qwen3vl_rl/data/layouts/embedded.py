"""Parquet files that contain their images, which are written to the image folder."""

import argparse
from pathlib import Path
from typing import Any

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.layouts.record import field
from qwen3vl_rl.data.pictures import PictureError, picture_size
from qwen3vl_rl.errors import row_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="parquet files from the Hugging Face hub")
    parser.add_argument("--images", type=Path, required=True, help="the image folder; images go to a subfolder of it")


def image_size(path: Path, number: int, image: Any) -> tuple[int, int]:
    """(width, height) in px of a row's image. Raises InputError naming file, row and field."""
    data = field(path, number, image, "bytes")
    try:
        return picture_size(data)
    except (PictureError, TypeError):
        raise row_error(path, number, "image", "the bytes of a readable image", type(data).__name__) from None


def write_image(
    path: Path, number: int, image: Any, target: Path, stated: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Write the unchanged bytes of a row's image to `target`; returns (width, height) in px.

    The suffix of `target` need not match the format, because programs detect it from the bytes. Raises InputError
    naming file, row and field, also if `target` exists with other bytes, or if the size differs from `stated`.
    """
    size, data = image_size(path, number, image), image["bytes"]
    if stated not in (None, size):
        expected = "the picture's size {}x{} after its EXIF orientation is applied".format(*size)
        raise row_error(path, number, "width", expected, "{}x{}".format(*stated))
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft:
            draft.write_bytes(data)
    elif target.read_bytes() != data:
        expected = f"the same picture as in {target} (names must be unique)"
        raise row_error(path, number, "image", expected, "another picture")
    return size
