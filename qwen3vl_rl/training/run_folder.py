"""The folder of a run, and the rules by which a new start resumes the run in it.

The folder (`trainer.default_local_dir`) holds `recipe.yaml`, the composed config without the secrets of overrides;
`provenance.json`, commit, overrides and training rows; `train.log`, all output of verl and its engines;
`metrics-*.jsonl`, verl's metrics, one file per start; `monitor.html`, the page of the run; and the checkpoints,
`global_step_*`. Files whose names begin with `earlier-` belong to an earlier run that was not resumed.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.grounding import parser_name
from qwen3vl_rl.training.recipe import ON_POLICY, make_absolute
from qwen3vl_rl.training.starts import hide_secrets

RECIPE_FILE, LOG, LATEST = "recipe.yaml", "train.log", "latest_checkpointed_iteration.txt"
PROVENANCE_FILE = "provenance.json"  # see provenance.py
FETCHED_FILE = "fetched.json"  # in a checkpoint of stage 2: the number of prompts taken from the data so far

# Current key -> the key under which earlier versions wrote the setting into recipe.yaml.
FORMER_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "actor_rollout_ref.actor.fsdp_config.freeze_vision": "actor_rollout_ref.model.override_config.freeze_vision",
        "engine.freeze_vision": "model.override_config.freeze_vision",
    }
)

LOSS, FORMER_LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode", "gspo_on_policy"

# Keys that earlier versions did not write into recipe.yaml -> the value that they used.
FORMER_VALUES: Mapping[str, object] = MappingProxyType(
    {"engine.freeze_deepstack_mergers": False, "data.loss_span": "answer"}
)


def record_data_hash(config: DictConfig, key: str) -> None:
    """Record the SHA-256 of the files of `key` (`data.NAME`) in the recipe, as `trainer.NAME_sha256`.

    A file may have been replaced under its old name. A run that resumed with it would mix two data sets.
    """
    OmegaConf.update(config, hash_key(key), data_hash(config, key), force_add=True)


def hash_key(key: str) -> str:
    """The key of a recipe that holds the SHA-256 of the files of `key`."""
    return f"trainer.{key.removeprefix('data.')}_sha256"


def data_hash(config: DictConfig, key: str) -> str:
    """The SHA-256 of the files of `key`, all together. Raises OSError if one cannot be read."""
    value = OmegaConf.select(config, key)
    return files_hash([value] if isinstance(value, str) else value)


def files_hash(paths: Iterable[Path | str]) -> str:
    """The SHA-256 of files, all together. Raises OSError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).expanduser().open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_same_run(config: DictConfig, keys: Sequence[str]) -> None:
    """Raise InputError if the folder holds checkpoints of a run with other values of `keys`.

    verl would resume from them and mix two runs. A run without checkpoints does not count.
    """
    folder, earlier = Path(config.trainer.default_local_dir), earlier_recipe(config)
    if earlier is None:
        return
    earlier, config = hide_secrets(earlier), hide_secrets(config)
    for key in keys:
        old, new = recorded(earlier, key), _setting(config, key)
        if old != new:
            raise InputError(
                f"{folder}: holds a run with another {key}; choose a folder with trainer.default_local_dir=… "
                f"({_first_difference(key, old, new)})"
            )


def check_same_workers(config: DictConfig, key: str) -> None:
    """Raise InputError if the run in the folder started with another number of data loader processes (`key`).

    torchdata can only restore its position in the data with the same number.
    """
    earlier = earlier_recipe(config)
    if earlier is None or config.trainer.get("val_only"):
        return
    then, now = OmegaConf.select(earlier, key), OmegaConf.select(config, key)
    if then not in (None, now):
        raise InputError(f"{key}={now}: expected {then}, the value of the run in {config.trainer.default_local_dir}")


def set_earlier_run_aside(config: DictConfig) -> None:
    """Rename metrics, provenance and checkpoint record of a run that this start does not resume.

    They would count as part of the new run otherwise.
    """
    if _resumes(config) or config.trainer.get("val_only") or not is_first_node():
        return
    for name in ("metrics-*.jsonl", PROVENANCE_FILE, LATEST):
        for path in Path(config.trainer.default_local_dir).glob(name):
            path.rename(path.with_name(f"earlier-{path.name}"))


def next_metrics_file(folder: Path) -> Path:
    """The path of a metrics file with an unused number, since verl truncates the file that it is given."""
    taken = [int(path.stem.rpartition("-")[2]) for path in folder.glob("*metrics-*.jsonl")]
    return folder / f"metrics-{max(taken, default=-1) + 1:03d}.jsonl"


def is_first_node() -> bool:
    """Whether this is the first of several nodes on which the user starts torchrun, all with the same folder."""
    return os.environ.get("PET_NODE_RANK", "0") == "0"


def resumes_latest(config: DictConfig) -> bool:
    """Whether this start resumes from the latest checkpoint of its folder, not from one that the user names."""
    return _resumes(config) and config.trainer.resume_mode == "auto"


def _resumes(config: DictConfig) -> bool:
    """Whether this start resumes the run in its folder."""
    return config.trainer.resume_mode != "disable" and (Path(config.trainer.default_local_dir) / LATEST).exists()


def earlier_recipe(config: DictConfig) -> DictConfig | None:
    """The recipe of the run that this start resumes; None if it resumes none."""
    folder = Path(config.trainer.default_local_dir)
    return load_recipe(folder) if _resumes(config) and (folder / RECIPE_FILE).exists() else None


def load_recipe(folder: Path) -> DictConfig:
    """The recipe of the run in `folder`, with former names of parser and loss replaced by the current ones, and the
    path of stage 1's model made absolute, as it is now."""
    recipe = OmegaConf.load(folder / RECIPE_FILE)
    make_absolute(recipe, "model.path")
    if OmegaConf.select(recipe, LOSS) == FORMER_LOSS:
        is_released = OmegaConf.select(recipe, "actor_rollout_ref.actor.loss_agg_mode") == "token-mean"
        OmegaConf.update(recipe, LOSS, "gspo_sequence_mean" if is_released else "gspo")
        OmegaConf.update(recipe, "algorithm.rollout_correction.loss_type", ON_POLICY)
    key = "reward.custom_reward_function.reward_kwargs.parser"
    if OmegaConf.select(recipe, key):
        OmegaConf.update(recipe, key, parser_name(OmegaConf.select(recipe, key)))
    return recipe


def recorded(recipe: DictConfig, key: str) -> object:
    """The value of `key` in a recipe that an earlier version may have written without this key."""
    value = _setting(recipe, key)
    if value is None and key in FORMER_KEYS:
        return OmegaConf.select(recipe, FORMER_KEYS[key])
    return FORMER_VALUES.get(key) if value is None else value


def _setting(config: DictConfig, key: str) -> object:
    """The value of `key`. Options of a filter that is off are left out."""
    value = OmegaConf.select(config, key)
    if key != "algorithm" or value is None or OmegaConf.select(value, "filter_groups.enable"):
        return value
    return OmegaConf.masked_copy(value, [name for name in value if name != "filter_groups"])


def _first_difference(key: str, old: object, new: object) -> str:
    """`key: old there, new here` for the first value below `key` that differs."""
    if isinstance(old, DictConfig) and isinstance(new, DictConfig):
        below = next(name for name in [*old, *new] if old.get(name) != new.get(name))
        return _first_difference(f"{key}.{below}", old.get(below), new.get(below))
    return f"{key}: {old} there, {new} here"
