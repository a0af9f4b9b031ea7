import pytest
import torch
from omegaconf import OmegaConf
from transformers import InternVLConfig, InternVLVisionModel

from examples.starter.build import build_config, build_tokenizer
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families.internvl import INTERNVL
from qwen3vl_rl.training.preflight import settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.image_patch_size=0"], r"data\.image_patch_size=0: expected an integer of at least 1"),
        (["trainer.nnodes=0"], r"trainer\.nnodes=0: expected an integer of at least 1"),
        (["trainer.n_gpus_per_node=two"], r"trainer\.n_gpus_per_node=two: expected an integer"),
        (["data.train_batch_size=1.5"], r"data\.train_batch_size=1\.5: expected an integer"),
        (["actor_rollout_ref.rollout.gpu_memory_utilization=1.5"], "=1.5: expected a share of the GPU's memory"),
        (["actor_rollout_ref.rollout.gpu_memory_utilization=0"], "=0: expected a share"),
        (["actor_rollout_ref.rollout.tensor_model_parallel_size=3"], "=3: expected a divisor of the 8 GPUs"),
        (
            ["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=3"],
            "ulysses_sequence_parallel_size=3: expected a divisor of the 8 GPUs",
        ),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=0"], "=0: expected an integer"),
        (["data.train_batch_size=16"], r"ppo_mini_batch_size=256: expected at most data\.train_batch_size=16"),
        (
            ["trainer.n_gpus_per_node=3"],
            r"ppo_mini_batch_size=256, rollout\.n=16: expected the 4096 answers of an update to be divisible by 3 GPUs",
        ),
    ],
)
def test_invalid_numbers_are_rejected(recipe, overrides, message):
    node = [
        "trainer.n_gpus_per_node=8",
        "data.train_batch_size=256",
        "actor_rollout_ref.actor.ppo_mini_batch_size=256",
        "actor_rollout_ref.rollout.n=16",
    ]
    settings.check_numbers(recipe(*node))
    with pytest.raises(InputError, match=message):
        settings.check_numbers(recipe(*{word.partition("=")[0]: word for word in [*node, *overrides]}.values()))


def test_the_tower_is_no_unit_where_embeddings_are_units(recipe, tmp_path):
    units = "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Qwen3VLVisionModel]"
    several = [f"actor_rollout_ref.model.path={tmp_path}", "actor_rollout_ref.actor.fsdp_config.no_shard=false"]
    config = build_config(build_tokenizer(), {"tie_word_embeddings": False})
    config.save_pretrained(tmp_path)
    settings.check_fsdp_wrapping(recipe(*several))
    with pytest.raises(InputError, match=r"expected \[Qwen3VLTextDecoderLayer\] for .*, as in size=8b"):
        settings.check_fsdp_wrapping(recipe(*several, units))
    build_config(build_tokenizer(), {}).save_pretrained(tmp_path)
    settings.check_fsdp_wrapping(recipe(*several, units))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(InputError, match=r"config\.json: model_type: expected qwen3_vl or internvl, found qwen2_5_vl"):
        settings.check_fsdp_wrapping(recipe(*several, units))


def test_the_vision_tower_of_internvl_may_be_a_unit(recipe, internvl):
    """No embedding in it is a unit of its own."""
    engine, units = "actor_rollout_ref.actor.fsdp_config", f"[{INTERNVL.layer_class},{INTERNVL.vision_class}]"
    overrides = [f"{engine}.no_shard=false", f"{engine}.wrap_policy.transformer_layer_cls_to_wrap={units}"]
    settings.check_fsdp_wrapping(recipe(f"actor_rollout_ref.model.path={internvl}", *overrides))
    with torch.device("meta"):
        tower = InternVLVisionModel(InternVLConfig.from_pretrained(internvl).vision_config)
    assert not any(isinstance(module, torch.nn.Embedding) for module in tower.modules())


def test_rollouts_on_gpus_of_their_own_divide_those(recipe):
    rollout = "actor_rollout_ref.rollout"
    apart = ["trainer.v1.trainer_mode=separate_async", f"{rollout}.nnodes=1", f"{rollout}.tensor_model_parallel_size=2"]
    settings.check_numbers(recipe(*apart, f"{rollout}.n_gpus_per_node=2"))
    with pytest.raises(InputError, match="expected a divisor of the 3 GPUs"):
        settings.check_numbers(recipe(*apart, f"{rollout}.n_gpus_per_node=3"))


def test_answers_are_not_cut_at_the_engine_s_context(config):
    config.data.update(max_prompt_length=128, max_response_length=192)
    config.actor_rollout_ref.rollout.max_model_len = 320
    settings.check_lengths(config)
    config.data.max_response_length = 512
    with pytest.raises(InputError, match=r"rollout\.max_model_len=320: expected at least 640, for data\.max_prompt"):
        settings.check_lengths(config)
    config.actor_rollout_ref.rollout.max_model_len = None  # the model's own
    settings.check_lengths(config)
    OmegaConf.update(config, "actor_rollout_ref.actor.ppo_max_token_len_per_gpu", 600, force_add=True)
    with pytest.raises(InputError, match=r"actor\.ppo_max_token_len_per_gpu=600: expected at least 640"):
        settings.check_lengths(config)


def test_a_trainer_that_our_sampler_does_not_support_is_rejected(recipe):
    own = "trainer.v1.sampler.custom_sampler=null"
    override = "trainer.v1.trainer_mode=separate_async"
    with pytest.raises(InputError, match=rf"{override}: expected {own} with it"):
        settings.check_sampler(recipe(override))
    settings.check_sampler(recipe(override, own))
    settings.check_sampler(recipe("trainer.v1.trainer_mode=colocate_async"))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainer.v1.trainer_mode=colocate_async", "trainer_mode=colocate_async: expected sync with"),
        ("trainer.v1.sampler.custom_sampler=null", "custom_sampler: expected ReportingReplayBuffer, the default, with"),
        ("actor_rollout_ref.rollout.n=1", r"rollout\.n=1: expected at least 2 with"),
        ("algorithm.filter_groups.metric=accuracy", 'filter_groups.metric: expected one of reward, .*acc.* "accuracy"'),
        ("algorithm.filter_groups.max_num_gen_batches=1", "max_num_gen_batches=1: expected at least 2, or 0"),
    ],
)
def test_a_filter_that_cannot_filter_is_refused(recipe, override, complaint):
    settings.check_filter(recipe(override))
    settings.check_filter(recipe("algorithm=dapo"))
    with pytest.raises(InputError, match=complaint):
        settings.check_filter(recipe("algorithm=dapo", override))


@pytest.mark.parametrize(
    ("flags", "changes", "complaint"),
    [
        ({"skip_dp_sync": True}, {}, "skip_dp_sync=true: expected false, because it is for stage 1"),
        ({"no_shard": True}, {}, r"n_gpus_per_node=2, nnodes=1: expected one GPU with .*\.no_shard=true"),
        ({"compile_blocks": True}, {"use_liger": True}, r"model\.use_liger=true: expected .*compile_blocks=false"),
        ({"response_logits_only": True}, {"use_fused_kernels": True}, "response_logits_only=true: expected"),
        ({"response_logits_only": True}, {"use_remove_padding": False}, "response_logits_only=true: expected"),
    ],
)
def test_flags_of_the_engine_fit_verls_settings(config, flags, changes, complaint):
    config.actor_rollout_ref.model = {
        "use_fused_kernels": False,
        "use_remove_padding": True,
        "use_liger": False,
    } | changes
    config.actor_rollout_ref.actor.strategy = "fsdp2"
    switches = {"no_shard": False, "compile_blocks": False, "response_logits_only": False}
    OmegaConf.update(config, "actor_rollout_ref.actor.fsdp_config", switches | flags, force_add=True)
    with pytest.raises(InputError, match=complaint):
        settings.check_engine_flags(config)


@pytest.mark.parametrize(
    ("word", "needed"),
    [
        ("actor.use_dynamic_bsz=false", "true"),
        ("ref.log_prob_use_dynamic_bsz=false", "true"),
        ("actor.fsdp_config.ulysses_sequence_parallel_size=2", "1"),
        ("actor.fsdp_config.response_logits_only=false", "true"),
    ],
)
def test_what_shared_prompts_cannot_be_combined_with_is_refused(recipe, word, needed):
    key = r"actor_rollout_ref\.actor\.fsdp_config\.share_prompts"
    with pytest.raises(InputError, match=rf"{word}: expected {needed} with {key}=true"):
        settings.check_engine_flags(recipe(f"actor_rollout_ref.{word}"))
    settings.check_engine_flags(recipe(f"actor_rollout_ref.{word}", f"{key}=false".replace("\\", "")))


def test_verls_own_engine_is_refused(recipe):
    with pytest.raises(InputError, match=r"actor_rollout_ref\.actor\.strategy=fsdp: expected fsdp2"):
        settings.check_engine_flags(recipe("actor_rollout_ref.actor.strategy=fsdp"))


def test_verls_former_trainer_is_refused(recipe):
    settings.check_trainer(recipe())
    with pytest.raises(InputError, match=r"trainer\.use_v1=false: expected true"):
        settings.check_trainer(recipe("trainer.use_v1=false"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.adv_estimator=gae"], "expected an estimator without a critic"),
        (["+data.mm_processor_kwargs.max_pixels=20480"], "got max_pixels alone"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_settings_that_our_agent_loop_does_not_support_are_rejected(recipe, overrides, message):
    settings.check_agent_loop(recipe())
    with pytest.raises(InputError, match=message):
        settings.check_agent_loop(recipe(*overrides))


def test_the_loss_for_one_update_per_batch_is_refused_for_several(recipe):
    correction = "algorithm.rollout_correction"
    settings.check_on_policy(recipe("speed=fast", "algorithm=cispo"))
    for overrides, message in (
        ([f"{correction}.loss_type=on_policy"], "bypass_mode=False: expected True"),
        ([f"{correction}.bypass_mode=true"], "loss_type=ppo_clip: expected on_policy"),
        (["speed=fast", "actor_rollout_ref.actor.ppo_mini_batch_size=4"], "ppo_mini_batch_size=4: expected 16"),
        (["speed=fast", "actor_rollout_ref.actor.ppo_epochs=2"], "ppo_epochs=2: expected 1"),
    ):
        with pytest.raises(InputError, match=f"{message}, because speed=fast is for one update per batch"):
            settings.check_on_policy(recipe(*overrides))
    with pytest.raises(InputError, match="loss_mode=bypass_mode: expected one that can be on policy"):
        settings.check_on_policy(recipe("speed=fast", "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode"))
