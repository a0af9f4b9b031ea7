"""Checks of a composed recipe before a run starts, for both stages."""

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from qwen3vl_rl.errors import InputError

ON_POLICY = "on_policy"  # our loss_type of `algorithm.rollout_correction` (see verl_ext/policy_loss.py)
LORA = ("lora_rank", "lora_alpha", "target_modules", "exclude_modules")  # config keys below `model`, in both stages


def verl_config() -> str:
    """The folder of verl's Hydra configs, found without importing verl: the import takes seconds and would fix verl's
    platform too early."""
    return str(Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config", verl_config, replace=True)


def check_choices(groups: Path, overrides: Sequence[str]) -> None:
    """Raise InputError for an override `group=choice` if `group` is one of our config groups without that choice."""
    for group, _, choice in (override.partition("=") for override in overrides):
        choices = sorted(path.stem for path in (groups / group).glob("[!_]*.yaml")) if group.isidentifier() else []
        if choices and choice not in choices:
            raise InputError(f'{group}: expected one of {", ".join(choices)}, got "{choice}"')


def run_composed(main: Callable[[], None], groups: Path) -> None:
    """Run `main`, a function of `hydra.main`, with the overrides of this command.

    groups: the folder with our config groups. Raises InputError if the recipe does not compose. Hydra would print
    several lines.
    """
    check_choices(groups, sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise errors
    try:
        main()
    except HydraException as error:
        raise composition_error(error, groups) from None


def composition_error(error: HydraException, groups: Path) -> InputError:
    """What is wrong with overrides that do not compose, in one line, which names the keys closest to an unknown one."""
    missing, found = error.__cause__, re.match(r"Could not override '(.+)'", str(error))
    if isinstance(error, OverrideParseException):
        return InputError(f"{error.override}: expected KEY=VALUE ({error.message.splitlines()[0]})")
    if not found or not isinstance(missing, ConfigAttributeError | ConfigKeyError):
        return InputError(f"recipe: {' '.join(str(error).split())}")
    key, composed = found[1], OmegaConf.to_container(missing.parent_node._get_root())
    known = [*(path.name for path in groups.iterdir() if path.is_dir()), *_keys(composed)]
    nearest = get_close_matches(key, known)
    such_as = f", such as {', '.join(nearest)}" if nearest else ""
    return InputError(f"{key}: expected a key of the recipe{such_as}; add one with +{key}")


def _keys(config: object, path: str = "") -> Iterator[str]:
    """All keys below a mapping, with dots."""
    for name, value in config.items() if isinstance(config, dict) else ():
        yield (key := f"{path}{name}")
        yield from _keys(value, f"{key}.")


def check_paths(config: DictConfig, model: str, *files: str) -> None:
    """Raise InputError for a key that is not set, or whose path does not exist. A model may also be `owner/name` on the
    Hugging Face hub."""
    for key in (model, *files):
        value = OmegaConf.select(config, key)
        if not value:
            raise InputError(f"{key}: expected a path, got nothing")
        for path in [value] if isinstance(value, str) else value:
            if not Path(path).expanduser().exists() and not (key == model and is_hub_name(path)):
                raise InputError(f"{key}: no such file or folder: {path}")
    _check_not_quantized(model, Path(OmegaConf.select(config, model)).expanduser() / "config.json")


def _check_not_quantized(key: str, path: Path) -> None:
    try:
        quantized = json.loads(path.read_text()).get("quantization_config")
    except (OSError, ValueError):  # on the hub, or reported by others
        return
    if quantized:
        raise InputError(f"{key}: {path}: quantization_config: expected none, because quantized weights do not train")


def make_absolute(config: DictConfig, *keys: str) -> None:
    """Make the paths at these keys absolute. Other values, such as a model on the hub, stay as they are."""
    for key in keys:
        value = OmegaConf.select(config, key)
        values = [value] if isinstance(value, str) else value or []
        found = [str(path.resolve()) if (path := Path(one).expanduser()).exists() else one for one in values]
        if value:
            OmegaConf.update(config, key, found[0] if isinstance(value, str) else found)


def is_hub_name(model: str) -> bool:
    """Whether `model` looks like `owner/name` on the Hugging Face hub rather than a path below an existing folder."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model)) and not Path(model).parent.exists()
