"""Our own switches of verl's training engine, as a recipe of either stage has them."""

from dataclasses import dataclass, fields

from omegaconf import DictConfig


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The values of `override_config` below a recipe's `model`; what is left out has the default of here."""

    alone: bool = False
    compile_blocks: bool = False
    freeze_vision: bool = False
    loss_tokens_only: bool = False
    samples_per_image: int = 1
    unsharded: bool = False


def read_engine_flags(model: DictConfig) -> EngineFlags:
    """The flags of `actor_rollout_ref.model` in stage 2, of `model` in stage 1."""
    given = model.get("override_config") or {}
    return EngineFlags(**{field.name: given[field.name] for field in fields(EngineFlags) if field.name in given})


def flag_key(name: str) -> str:
    """The config key of a flag in stage 2."""
    return f"actor_rollout_ref.model.override_config.{name}"
