"""The JSON files of a Hugging Face checkpoint."""

import json
from pathlib import Path

from qwen3vl_rl.errors import InputError

CONFIG = "config.json"


def read_config(folder: Path) -> dict:
    """The configuration of the checkpoint in `folder`. Raises InputError if there is none."""
    path = folder / CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: expected the configuration of a model ({error!r})") from None


def read_image_processor(folder: Path | None) -> dict:
    """The settings of the image processor of the checkpoint in `folder`; empty if there are none, or no folder."""
    if folder is None:
        return {}
    return _read(folder / "processor_config.json").get("image_processor") or _read(folder / "preprocessor_config.json")


def _read(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
