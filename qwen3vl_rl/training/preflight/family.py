"""Settings that a checkpoint's family has to understand."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.checkpoint_files import CONFIG
from qwen3vl_rl.models.families import read_family


def check_family(config: DictConfig, model: str, engine: str, limits: str) -> None:
    """The FSDP units and the limits of pictures are those of the checkpoint's family, if the checkpoint is a folder.

    model, engine, limits: keys of the checkpoint's path, the engine's settings and the arguments of the image
    processor. Raises InputError.
    """
    folder = Path(OmegaConf.select(config, model)).expanduser()
    if not (folder / CONFIG).is_file():
        return
    family = read_family(folder)
    advice = f"as in the sizes of {family.name}, {', '.join(family.sizes)}"
    key = f"{engine}.wrap_policy.transformer_layer_cls_to_wrap"
    units = OmegaConf.select(config, key) or []
    known = {family.layer_class, family.vision_class}
    if units and not known.intersection(units) and not OmegaConf.select(config, f"{engine}.no_shard"):
        raise InputError(f"{key}={list(units)}: expected [{family.layer_class}] for {folder}, {advice}")
    given = OmegaConf.select(config, limits) or {}
    if unknown := [name for name in given if name.startswith(("min_", "max_")) and name not in family.limit_names]:
        raise InputError(f"{limits}.{unknown[0]}: expected {' and '.join(family.limit_names)} or null, {advice}")


def check_family_engine(config: DictConfig) -> None:
    """The rollout engine serves the family as it is trained."""
    folder, engine = Path(config.actor_rollout_ref.model.path).expanduser(), config.actor_rollout_ref.rollout.name
    if (folder / CONFIG).is_file() and engine not in (family := read_family(folder)).engines:
        raise InputError(f"engine={engine}: expected {' or '.join(family.engines)} for {family.name} ({folder})")
