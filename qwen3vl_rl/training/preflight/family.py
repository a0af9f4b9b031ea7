"""Settings that a checkpoint's family has to understand."""

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families import known_family


def check_family(config: DictConfig, model: str, engine: str, limits: str) -> None:
    """FSDP units, limits of pictures and GPUs per sequence are those of the checkpoint's family, if it is known.

    model, engine, limits: keys of the checkpoint, the engine's settings and the arguments of the image processor.
    Raises InputError.
    """
    checkpoint = OmegaConf.select(config, model)
    if (family := known_family(checkpoint)) is None:
        return
    advice = f"as in the sizes of {family.name}, {', '.join(family.sizes)}"
    key = f"{engine}.wrap_policy.transformer_layer_cls_to_wrap"
    units = OmegaConf.select(config, key) or []
    known = {family.layer_class, family.vision_class}
    if units and not known.intersection(units) and not OmegaConf.select(config, f"{engine}.no_shard"):
        raise InputError(f"{key}={list(units)}: expected [{family.layer_class}] for {checkpoint}, {advice}")
    given = OmegaConf.select(config, limits) or {}
    if unknown := [name for name in given if name.startswith(("min_", "max_")) and name not in family.limit_names]:
        raise InputError(f"{limits}.{unknown[0]}: expected {' and '.join(family.limit_names)} or null, {advice}")
    key = f"{engine}.ulysses_sequence_parallel_size"
    if (ranks := OmegaConf.select(config, key) or 1) > 1 and not family.sequence_parallel:
        raise InputError(f"{key}={ranks}: expected 1 for {family.name} ({checkpoint})")


def check_family_engine(config: DictConfig) -> None:
    """The rollout engine serves the family as it is trained."""
    checkpoint, engine = config.actor_rollout_ref.model.path, config.actor_rollout_ref.rollout.name
    if (family := known_family(checkpoint)) and engine not in family.engines:
        raise InputError(f"engine={engine}: expected {' or '.join(family.engines)} for {family.name} ({checkpoint})")
