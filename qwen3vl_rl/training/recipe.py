"""Checks of a composed recipe that both stages share, before anything is started."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError

ON_POLICY = "on_policy"  # a loss_type of `algorithm.rollout_correction`, ours (see verl_ext/policy_loss.py)
LORA = ("lora_rank", "lora_alpha", "target_modules", "exclude_modules")  # below `model` in both stages


def verl_config() -> str:
    """The folder of verl's own Hydra configs. Importing verl would take seconds and fix its platform too early."""
    return str(Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config", verl_config, replace=True)


def check_choices(groups: Path, overrides: Sequence[str]) -> None:
    """Raise InputError for an override `group=choice` of one of our config groups that has no such choice."""
    for group, _, choice in (override.partition("=") for override in overrides):
        choices = sorted(path.stem for path in (groups / group).glob("[!_]*.yaml")) if group.isidentifier() else []
        if choices and choice not in choices:
            raise InputError(f'{group}: expected one of {", ".join(choices)}, got "{choice}"')


def check_paths(config: DictConfig, model: str, *files: str) -> None:
    """Raise InputError for a key that is not set or names nothing that exists. A model may be `owner/name` of a hub."""
    for key in (model, *files):
        value = OmegaConf.select(config, key)
        if not value:
            raise InputError(f"{key}: expected a path, got nothing")
        for path in [value] if isinstance(value, str) else value:
            if not Path(path).expanduser().exists() and not (key == model and is_hub_name(path)):
                raise InputError(f"{key}: no such file or folder: {path}")


def is_hub_name(model: str) -> bool:
    """Whether `model` reads as `owner/name` on the Hugging Face hub, and not as a path below an existing folder."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model)) and not Path(model).parent.exists()
