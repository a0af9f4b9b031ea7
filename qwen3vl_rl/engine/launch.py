"""What both training entry points do before they hand a recipe to verl."""

import importlib.util
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.grounding.errors import InputError


def verl_config() -> str:
    """The folder of verl's own Hydra configs. Importing verl would take seconds, and settle its platform too early."""
    return str(Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config", verl_config, replace=True)


def check_files(config: DictConfig, *keys: str) -> None:
    """Raise InputError for the first of `keys` that names a local file which is not there."""
    for key in keys:
        value = OmegaConf.select(config, key)
        for path in [value] if isinstance(value, str) else value or []:
            if path.startswith((".", "/", "~")) and not Path(path).expanduser().exists():
                raise InputError(f"{key}: no such file or folder: {path}")
