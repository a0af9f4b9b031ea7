"""The switches of our engine have one schema in both recipes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from verl.utils.config import omega_conf_to_dataclass

from qwen3vl_rl.training import recipe  # noqa: F401  # the resolver of verl's config folder
from qwen3vl_rl.verl_ext.engine_config import GroundingEngineConfig

ROOT = Path(__file__).parents[2]
RL, SFT = (ROOT / "qwen3vl_rl" / "config", "grounding_grpo"), (ROOT / "sft" / "config", "sft")


def compose_recipe(stage: tuple[Path, str], *overrides: str):
    with initialize_config_dir(str(stage[0]), version_base=None):
        return compose(stage[1], list(overrides))


def test_actor_and_reference_of_stage_2_use_our_schema():
    roles = compose_recipe(RL, "hardware=gpu1", "speed=fast").actor_rollout_ref
    actor, ref = (omega_conf_to_dataclass(roles[role].fsdp_config) for role in ("actor", "ref"))
    assert type(actor) is type(ref) is GroundingEngineConfig
    assert (actor.no_shard, actor.compile_blocks, actor.share_prompts) == (True, True, True)
    assert (ref.no_shard, ref.compile_blocks, ref.share_prompts) == (True, True, True)


def test_stage_1_uses_our_schema():
    engine = omega_conf_to_dataclass(compose_recipe(SFT, "hardware=gpu1").engine)
    assert type(engine) is GroundingEngineConfig
    assert (engine.freeze_vision, engine.no_shard, engine.skip_dp_sync) == (True, True, True)


@pytest.mark.parametrize(
    ("stage", "key"), [(RL, "actor_rollout_ref.actor.fsdp_config.compile_block"), (SFT, "engine.freeze")]
)
def test_a_misspelt_switch_is_refused_while_composing(stage, key):
    with pytest.raises(ConfigCompositionException):
        compose_recipe(stage, f"{key}=true")


@pytest.mark.parametrize(("switch", "value"), [("freeze_vision", "yes"), ("share_prompts", 1), ("no_shard", 1)])
def test_values_of_another_type_are_refused(switch, value):
    with pytest.raises(ValueError, match=f"{switch}: expected"):
        GroundingEngineConfig(**{switch: value})


@pytest.mark.parametrize("switch", ["no_shard", "skip_dp_sync"])
def test_switches_for_one_gpu_are_refused_on_two(switch):
    config = GroundingEngineConfig(**{switch: True})
    config.check(1, use_remove_padding=True)
    with pytest.raises(ValueError, match=f"{switch}: expected one GPU, got 2"):
        config.check(2, use_remove_padding=True)


def test_plain_parameters_are_refused_in_fp16_where_nothing_scales_the_loss():
    with pytest.raises(ValueError, match="no_shard: expected bf16 or fp32"):
        GroundingEngineConfig(no_shard=True, mixed_precision={"param_dtype": "fp16"}).check(1, use_remove_padding=True)


@pytest.mark.parametrize("other", [{"response_logits_only": False}, {"ulysses_sequence_parallel_size": 2}], ids=str)
def test_prompts_are_not_shared_over_several_ranks_or_with_all_logits(other):
    config = GroundingEngineConfig(**{"share_prompts": True, "response_logits_only": True} | other)
    with pytest.raises(ValueError, match="share_prompts: expected response_logits_only=true and ulysses_sequence"):
        config.check(2, use_remove_padding=True)


def test_logits_of_responses_only_need_packed_batches():
    with pytest.raises(ValueError, match=r"response_logits_only: expected model.use_remove_padding=true"):
        GroundingEngineConfig(response_logits_only=True).check(1, use_remove_padding=False)


@pytest.mark.parametrize(
    ("forward_only", "offload", "device", "held"),
    [
        (True, True, "cuda", True),
        (True, False, "cuda", False),
        (False, True, "cuda", False),
        (True, True, "cpu", False),
    ],
)
def test_only_an_offloaded_reference_on_a_gpu_stays_on_the_host(forward_only, offload, device, held):
    config = GroundingEngineConfig(forward_only=forward_only, param_offload=offload, no_shard=True)
    assert config.offloads_reference(device) == held
