"""Settings fit each other, verl and our training engine."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.checkpoint_files import CONFIG
from qwen3vl_rl.models.families import family_of, read_shape
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.reward import PARTS
from qwen3vl_rl.training.preflight.rows import OUR_REWARD
from qwen3vl_rl.training.recipe import ON_POLICY
from qwen3vl_rl.training.workload import SEQUENCE_RANKS, TRAINING_ENGINE, sequence_ranks

COUNTS = (
    *(f"trainer.{name}" for name in ("nnodes", "n_gpus_per_node", "total_epochs")),
    *(f"data.{name}" for name in ("train_batch_size", "image_patch_size")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "ppo_max_token_len_per_gpu")),
    *(f"actor_rollout_ref.rollout.{name}" for name in ("n", "max_num_seqs", "tensor_model_parallel_size")),
    f"actor_rollout_ref.{SEQUENCE_RANKS}",
    "algorithm.filter_groups.max_inflight_gen_batches",
)
OUR_SAMPLER = "ReportingReplayBuffer"
WHOLE_REWARD = "reward"  # the name of the whole reward in verl's filter_groups.metric


def check_numbers(config: DictConfig) -> None:
    """Counts are positive integers, the rollout engine's memory share is valid, and GPUs divide what they share."""
    for key in COUNTS:
        value = OmegaConf.select(config, key, default=1)
        if type(value) is not int or value < 1:
            raise InputError(f"{key}={value}: expected an integer of at least 1")
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    key, share = "actor_rollout_ref.rollout.gpu_memory_utilization", rollout.gpu_memory_utilization
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(f"{key}={share}: expected a share of the GPU's memory, above 0 and at most 1")
    gpus = rollout_gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if OmegaConf.select(config, "trainer.v1.trainer_mode") == "separate_async":
        rollout_gpus = rollout.n_gpus_per_node * rollout.nnodes
    for name, value, shared in (
        ("rollout.tensor_model_parallel_size", rollout.get("tensor_model_parallel_size", 1), rollout_gpus),
        (SEQUENCE_RANKS, sequence_ranks(actor), gpus),
    ):
        if shared % value:
            raise InputError(f"actor_rollout_ref.{name}={value}: expected a divisor of the {shared} GPUs")
    if (batch := config.data.train_batch_size) < actor.ppo_mini_batch_size:
        raise InputError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}: expected at most "
            f"data.train_batch_size={batch}"
        )
    answers, ranks = actor.ppo_mini_batch_size * rollout.n, gpus // sequence_ranks(actor)
    if answers % ranks:
        raise InputError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}, rollout.n={rollout.n}: expected "
            f"the {answers} answers of an update to be divisible by {ranks} GPUs"
        )


def check_lengths(config: DictConfig) -> None:
    """The engine's context and each micro-batch have room for the longest prompt with the longest answer.

    verl silently cuts answers at the former, and fails at the latter in the middle of a run.
    """
    needed = config.data.max_prompt_length + config.data.max_response_length
    ranks = OmegaConf.select(config, f"actor_rollout_ref.{SEQUENCE_RANKS}", default=1)
    for name, share in (
        ("rollout.max_model_len", 1),
        ("actor.ppo_max_token_len_per_gpu", ranks),
        ("ref.log_prob_max_token_len_per_gpu", ranks),
    ):
        value = OmegaConf.select(config, f"actor_rollout_ref.{name}")
        if value and value * share < needed:
            raise InputError(
                f"actor_rollout_ref.{name}={value}: expected at least {-(-needed // share)}, "
                "for data.max_prompt_length and data.max_response_length together"
            )


def check_engine_flags(config: DictConfig) -> None:
    """The flags of our training engine fit verl's settings."""
    check_strategy(config, "actor_rollout_ref.actor.strategy")
    if OmegaConf.select(config, f"{TRAINING_ENGINE}.skip_dp_sync"):
        raise InputError(f"{TRAINING_ENGINE}.skip_dp_sync=true: expected false, because it is for stage 1")
    check_one_gpu(config, f"{TRAINING_ENGINE}.no_shard")
    check_liger(config, "actor_rollout_ref.model", TRAINING_ENGINE)
    check_response_logits(config, "actor_rollout_ref.model", TRAINING_ENGINE)
    check_shared_prompts(config)
    check_adapters(config, "actor_rollout_ref.model", TRAINING_ENGINE)
    if config.actor_rollout_ref.model.lora_rank and not config.actor_rollout_ref.model.lora.get("merge"):
        raise InputError("actor_rollout_ref.model.lora.merge=false: expected true with adapters, as in tuning=lora")


def check_adapters(config: DictConfig, model: str, engine: str) -> None:
    """No merger is frozen with adapters, which are on all mergers. Both stages; `model`, `engine`: config keys."""
    key = f"{engine}.freeze_deepstack_mergers"
    if OmegaConf.select(config, key) and OmegaConf.select(config, f"{model}.lora_rank"):
        raise InputError(f"{key}=true: expected false with adapters, which it does not freeze")


def check_fsdp_wrapping(config: DictConfig) -> None:
    """Qwen3-VL's vision tower is no FSDP unit in a model with untied embeddings.

    verl makes a unit of each untied embedding, also of the one in this tower. FSDP fails if that comes after a unit
    that contains it. InternVL's tower has none.
    """
    recipe, folder = config.actor_rollout_ref, Path(config.actor_rollout_ref.model.path).expanduser()
    key = "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap"
    units = OmegaConf.select(config, key) or []
    if recipe.actor.fsdp_config.no_shard or not (folder / CONFIG).is_file():
        return
    if QWEN3_VL.vision_class in units and not read_shape(folder).tie_word_embeddings:
        raise InputError(f"{key}={list(units)}: expected [{QWEN3_VL.layer_class}] for {folder}, as in size=8b")


def check_strategy(config: DictConfig, key: str) -> None:
    """The strategy is that of our engine; verl's own would ignore its switches. Both stages; `key`: config key."""
    if (strategy := OmegaConf.select(config, key)) != "fsdp2":
        raise InputError(f"{key}={strategy}: expected fsdp2, for which our training engine is registered")


def check_one_gpu(config: DictConfig, key: str) -> None:
    """A flag for one GPU is used on one GPU. Both stages; `key`: config key of the flag."""
    trainer = config.trainer
    if OmegaConf.select(config, key) and trainer.n_gpus_per_node * trainer.nnodes > 1:
        raise InputError(
            f"trainer.n_gpus_per_node={trainer.n_gpus_per_node}, nnodes={trainer.nnodes}: expected one GPU with "
            f"{key}=true, as in hardware=gpu1; use hardware=node8 for several GPUs of a node"
        )


def check_liger(config: DictConfig, model: str, engine: str) -> None:
    """torch 2.11 cannot compile the norms of liger-kernel 0.8.5. Both stages; `model`, `engine`: config keys."""
    if OmegaConf.select(config, f"{model}.use_liger") and OmegaConf.select(config, f"{engine}.compile_blocks"):
        raise InputError(f"{model}.use_liger=true: expected {engine}.compile_blocks=false")


def check_response_logits(config: DictConfig, model: str, engine: str) -> None:
    """`response_logits_only` has packed batches and no fused kernels. Both stages; `model`, `engine`: config keys."""
    fused, packed = (
        OmegaConf.select(config, f"{model}.{name}") for name in ("use_fused_kernels", "use_remove_padding")
    )
    if OmegaConf.select(config, f"{engine}.response_logits_only") and (fused or not packed):
        raise InputError(
            f"{engine}.response_logits_only=true: expected {model}.use_remove_padding=true and use_fused_kernels=false"
        )


def check_shared_prompts(config: DictConfig) -> None:
    """`share_prompts` has packed micro-batches that are filled by tokens, and no sequence parallelism."""
    key = f"{TRAINING_ENGINE}.share_prompts"
    if not OmegaConf.select(config, key):
        return
    for name, needed in (
        ("actor_rollout_ref.model.use_remove_padding", True),
        ("actor_rollout_ref.actor.use_dynamic_bsz", True),
        ("actor_rollout_ref.ref.log_prob_use_dynamic_bsz", True),
        (f"{TRAINING_ENGINE}.response_logits_only", True),
        (f"actor_rollout_ref.{SEQUENCE_RANKS}", 1),
    ):
        if (value := OmegaConf.select(config, name, default=needed)) != needed:
            raise InputError(f"{name}={value}: expected {needed} with {key}=true".lower())


def check_trainer(config: DictConfig) -> None:
    """The trainer is verl's current one, which we extend; verl calls the other deprecated."""
    if not config.trainer.use_v1:
        raise InputError("trainer.use_v1=false: expected true")


def check_agent_loop(config: DictConfig) -> None:
    """Our agent loop has no critic, because only our training engine reads its images. Limits of pictures come in
    pairs."""
    loop, key = config.actor_rollout_ref.rollout.agent.default_agent_loop, "rollout.agent.default_agent_loop"
    if loop == "image_once":
        other = f"otherwise use actor_rollout_ref.{key}=single_turn_agent"
        if config.algorithm.adv_estimator == "gae":
            raise InputError(f"algorithm.adv_estimator=gae: expected an estimator without a critic; {other}")
    names = (family := family_of(config.actor_rollout_ref.model.path)).limit_names
    limits = set(names) & set(config.data.mm_processor_kwargs or {})
    if len(limits) == 1 and family.pairs_of_limits:  # the trainer's processor ignores a single one, vLLM's does not
        raise InputError(f"data.mm_processor_kwargs: expected {' and '.join(names)}, got {limits.pop()} alone")


def check_on_policy(config: DictConfig) -> None:
    """Without a pass for the old policy (`speed=fast`), losses use the current one instead: both must be the same.

    verl's own losses for bypass mode use the rollout's probabilities, which are those after top-k and top-p.
    """
    actor, correction, key = config.actor_rollout_ref.actor, config.algorithm.rollout_correction, "actor_rollout_ref"
    if not correction.bypass_mode and correction.loss_type != ON_POLICY:
        return
    for name, value, needed in (
        ("algorithm.rollout_correction.bypass_mode", correction.bypass_mode, True),
        ("algorithm.rollout_correction.loss_type", correction.loss_type, ON_POLICY),
        (f"{key}.actor.ppo_mini_batch_size", actor.ppo_mini_batch_size, config.data.train_batch_size),
        (f"{key}.actor.ppo_epochs", actor.ppo_epochs, 1),
    ):
        if value != needed:
            raise InputError(
                f"{name}={value}: expected {needed}, because speed=fast is for one update per batch; "
                "otherwise use speed=offload"
            )
    if (loss := actor.policy_loss.loss_mode) == "bypass_mode":
        raise InputError(f"{key}.actor.policy_loss.loss_mode={loss}: expected one that can be on policy")


def check_sampler(config: DictConfig) -> None:
    """verl's separate trainer cannot use our sampler, which lacks what it needs."""
    sampler, mode = config.trainer.v1.sampler.custom_sampler, config.trainer.v1.trainer_mode
    if mode == "separate_async" and sampler and sampler.path:
        raise InputError(f"trainer.v1.trainer_mode={mode}: expected trainer.v1.sampler.custom_sampler=null with it")


def check_filter(config: DictConfig) -> None:
    """The filter has several answers per prompt, a reward part to compare, and room for other prompts."""
    options, key, rollout = config.algorithm.filter_groups, "algorithm.filter_groups", config.actor_rollout_ref.rollout
    if not options.enable:
        return
    sampler = config.trainer.v1.sampler.custom_sampler
    if not sampler or sampler.name != OUR_SAMPLER:
        expected = f"{OUR_SAMPLER}, the default, with {key}.enable=true"
        raise InputError(f"trainer.v1.sampler.custom_sampler: expected {expected}")
    if (mode := config.trainer.v1.trainer_mode) != "sync":
        raise InputError(f"trainer.v1.trainer_mode={mode}: expected sync with {key}.enable=true")
    if rollout.n < 2:
        raise InputError(f"actor_rollout_ref.rollout.n={rollout.n}: expected at least 2 with {key}.enable=true")
    if config.reward.custom_reward_function.path == OUR_REWARD and options.metric not in (WHOLE_REWARD, *PARTS):
        raise InputError(f'{key}.metric: expected one of {", ".join((WHOLE_REWARD, *PARTS))}, got "{options.metric}"')
    if type(most := options.max_num_gen_batches) is not int or most < 0 or most == 1:
        raise InputError(f"{key}.max_num_gen_batches={most}: expected at least 2, or 0 for no limit")
