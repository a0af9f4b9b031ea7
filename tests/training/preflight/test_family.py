"""Settings of another family than the checkpoint's are refused before a start."""

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.preflight.family import check_family, check_family_engine

KEYS = "model.path", "engine", "pixels"


def settings(model, units=("Qwen3DecoderLayer",), **changes):
    engine = {"wrap_policy": {"transformer_layer_cls_to_wrap": list(units)}, "no_shard": False}
    return OmegaConf.create({"model": {"path": str(model)}, "engine": engine, "pixels": None} | changes)


def test_the_families_own_settings_pass(internvl, starter):
    check_family(settings(internvl), *KEYS)
    check_family(settings(internvl, pixels={"max_patches": 6}), *KEYS)
    check_family(settings(starter, ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"]), *KEYS)
    check_family(settings("OpenGVLab/InternVL3_5-8B-HF", ["Anything"]), *KEYS)


def test_units_of_another_family_are_refused(internvl):
    message = r"engine\.wrap_policy\.transformer_layer_cls_to_wrap=.*: expected \[Qwen3DecoderLayer\] .*internvl3_5_8b"
    with pytest.raises(InputError, match=message):
        check_family(settings(internvl, ["Qwen3VLTextDecoderLayer"]), *KEYS)


def test_limits_of_another_family_are_refused(internvl, starter):
    with pytest.raises(InputError, match=r"pixels\.min_pixels: expected min_patches and max_patches or null"):
        check_family(settings(internvl, pixels={"min_pixels": 784, "max_pixels": 50176}), *KEYS)
    with pytest.raises(InputError, match=r"pixels\.max_patches: expected min_pixels and max_pixels or null"):
        check_family(settings(starter, ["Qwen3VLTextDecoderLayer"], pixels={"max_patches": 6}), *KEYS)


def test_gpus_that_share_a_sequence_are_refused(internvl):
    recipe = settings(internvl)
    recipe.engine.ulysses_sequence_parallel_size = 2
    with pytest.raises(InputError, match=r"engine\.ulysses_sequence_parallel_size=2: expected 1 for InternVL3\.5"):
        check_family(recipe, *KEYS)


def test_an_engine_that_does_not_serve_the_family_is_refused(internvl, starter):
    def recipe(model, engine):
        return OmegaConf.create({"actor_rollout_ref": {"model": {"path": str(model)}, "rollout": {"name": engine}}})

    check_family_engine(recipe(internvl, "vllm"))
    check_family_engine(recipe(starter, "sglang"))
    with pytest.raises(InputError, match=r"engine=sglang: expected vllm for InternVL3\.5"):
        check_family_engine(recipe(internvl, "sglang"))
