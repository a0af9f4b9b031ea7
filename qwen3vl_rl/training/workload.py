"""The settings of a stage-2 recipe that determine memory and time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.checkpoint_files import CONFIG as MODEL_CONFIG
from qwen3vl_rl.models.families import SIZES, read_family, read_shape
from qwen3vl_rl.models.families.interface import Family, Limits
from qwen3vl_rl.models.shapes import BF16_BYTES, Shape
from qwen3vl_rl.training.recipe import check_choices, composition_error

ROLES = "actor_rollout_ref"
CONFIG = Path(__file__).parents[1] / "config"
TRAINING_ENGINE = f"{ROLES}.actor.fsdp_config"  # verl_ext/engine_config.py documents its switches
SEQUENCE_RANKS = "actor.fsdp_config.ulysses_sequence_parallel_size"
FP32_BYTES = 4
HEAD_TOKENS = 8192  # tokens whose logits are in memory at once (models/logprobs.py)
PROMPT_TEXT_TOKENS = 40  # template, question and an expression of a dozen words
ALL = "all-linear"  # LoRA adapters on all linear layers


@dataclass(frozen=True, slots=True)
class Workload:
    """The part of a run that its recipe does not determine. Defaults: the paper's 8B run, images of COCO's usual
    size."""

    image_px: tuple[int, int] = (640, 480)  # width, height
    answer_tokens: int = 101  # mean of EGM-8B's answers
    train_rows: int = 83_989
    val_rows: int = 2_647  # a tenth of the three val splits, as examples/data_preprocess/grounding_val.sh draws it


PAPER_WORKLOAD = Workload()


@dataclass(frozen=True, slots=True)
class Run:
    """The settings of a recipe that determine memory and time, with the shape of the model."""

    shape: Shape
    gpus: int
    gpus_per_node: int
    prompts: int
    answers_per_prompt: int
    image_tokens: int
    share_prompts: bool
    share_images: bool  # equals share_prompts, but earlier benchmark results shared only images
    head_tokens: float  # tokens whose logits are in memory at once
    prompt_text_tokens: int
    answer_tokens: int
    longest_sequence_tokens: int
    update_answers: int
    train_rows: int
    epochs: int
    val_rows: int
    val_answers: int  # per validation question
    val_before_train: bool
    test_freq: int  # steps between validations; -1: never
    save_freq: int  # steps between checkpoints; -1: never
    tokens_per_micro_batch: int
    response_logits_only: bool
    compiled: bool
    checkpointing: bool
    adapter_rank: int  # of LoRA; 0: all weights are trained
    no_shard: bool
    gathered_at_once: bool
    param_offload: bool
    optimizer_offload: bool
    ref_offload: bool
    reference: bool
    old_log_probs: bool
    rollout_engine: str
    rollout_memory_share: float
    rollout_tp: int
    rollout_slots: int
    rollout_sleeps: bool
    filters_groups: bool

    @property
    def steps(self) -> int:
        return self.epochs * (self.train_rows // self.prompts)

    @property
    def checkpoints(self) -> int:
        return times(self.steps, self.save_freq)

    @property
    def validations(self) -> int:
        return times(self.steps, self.test_freq) + self.val_before_train

    @property
    def prompt_tokens(self) -> int:
        return self.image_tokens + self.prompt_text_tokens

    @property
    def sequence_tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    @property
    def answers(self) -> int:
        return self.prompts * self.answers_per_prompt

    @property
    def logit_share(self) -> float:
        """The share of tokens whose logits are computed."""
        return self.answers * self.answer_tokens / self.trained_tokens if self.response_logits_only else 1.0

    @property
    def trained_tokens(self) -> int:
        """Tokens of a step on all GPUs. A shared prompt counts once."""
        prompts = self.prompts if self.share_prompts else self.answers
        return prompts * self.prompt_tokens + self.answers * self.answer_tokens

    @property
    def keys_per_token(self) -> float:
        """Gathered keys per trained token and layer: each answer gathers the keys of its prompt. 0 without sharing."""
        gathered = self.answers * self.sequence_tokens + self.prompts * self.prompt_tokens
        return gathered / self.trained_tokens if self.share_prompts else 0.0

    @property
    def micro_batches(self) -> int:
        """Micro-batches per GPU and step."""
        return math.ceil(self.trained_tokens / self.gpus / self.tokens_per_micro_batch)

    @property
    def weight_bytes(self) -> float:
        """One GPU's share of a 32-bit copy of the model."""
        return FP32_BYTES * self.shape.parameters / self.gpus

    @property
    def trained_bytes(self) -> float:
        """One GPU's share of a 32-bit copy of the trained weights."""
        adapters = self.shape.adapter_parameters(self.adapter_rank)
        return FP32_BYTES * adapters / self.gpus if self.adapter_rank else self.weight_bytes

    @property
    def actor_bytes(self) -> float:
        """One GPU's share of the actor's weights. They are held in 32 bits, except for the frozen linear layers of an
        actor that is not sharded."""
        if not self.adapter_rank:
            return self.weight_bytes
        in_16_bits = self.shape.parameters - self.shape.vocab_size * self.shape.hidden_size if self.no_shard else 0
        return self.weight_bytes - (FP32_BYTES - BF16_BYTES) * in_16_bits + self.trained_bytes

    @property
    def holds_reference(self) -> bool:
        """Whether the reference policy has separate weights. With adapters, it is the actor without them."""
        return self.reference and not self.adapter_rank

    @property
    def forward_flops(self) -> float:
        """Floating-point operations of one forward pass over all samples of a step, on all GPUs."""
        logits = self.trained_tokens * self.logit_share / self.answers
        sample = self.shape.language_flops(self.sequence_tokens, logits)
        prompt = self.shape.language_flops(self.prompt_tokens, 0)
        prompts, images = (
            self.prompts if shared else self.answers for shared in (self.share_prompts, self.share_images)
        )
        image = self.shape.vision.flops(self.image_tokens)
        return self.answers * (sample - prompt) + prompts * prompt + images * image


def times(steps: int, frequency: int) -> int:
    """How often something happens in `steps` steps that happens every `frequency` steps and at the end; -1: never."""
    return -(-steps // frequency) if frequency > 0 else 0


def compose_recipe(overrides: Sequence[str]) -> DictConfig:
    """The recipe of stage 2; sizes may also be named `qwen3vl_8b`. Raises InputError if it does not compose."""
    plain = [override.replace("size=qwen3vl_", "size=") for override in overrides]
    check_choices(CONFIG, plain)
    try:
        with initialize_config_dir(str(CONFIG), version_base=None):
            return compose("grounding_grpo", plain, return_hydra_config=True)
    except HydraException as error:
        raise composition_error(error, CONFIG) from None


def check_modelled(config: DictConfig) -> None:
    """Raise InputError for settings that change what a GPU holds and that the memory model does not cover."""
    recipe, engine = config.actor_rollout_ref, config.actor_rollout_ref.actor.fsdp_config
    for name, value, known in (
        ("trainer.device", config.trainer.device, "cuda"),
        (f"{ROLES}.model.target_modules", recipe.model.target_modules if recipe.model.lora_rank else ALL, ALL),
        (f"{ROLES}.{SEQUENCE_RANKS}", sequence_ranks(recipe.actor), 1),
        (f"{TRAINING_ENGINE}.offload_policy", engine.offload_policy, False),
        (f"{TRAINING_ENGINE}.model_dtype", engine.model_dtype, "fp32"),
        (f"{ROLES}.actor.use_dynamic_bsz", recipe.actor.use_dynamic_bsz, True),
        (f"{ROLES}.actor.optim.optimizer", recipe.actor.optim.optimizer, "AdamW"),
        (f"{TRAINING_ENGINE}.freeze_vision", engine.freeze_vision, False),
    ):
        if value != known:
            raise InputError(f"{name}={value}: expected {known}, the only value that the planner knows")
    if (mode := config.trainer.v1.trainer_mode) == "separate_async":
        raise InputError(f"trainer.v1.trainer_mode={mode}: the planner knows only modes that share the GPUs")


def sequence_ranks(actor: DictConfig) -> int:
    """The number of GPUs that share one sequence."""
    return actor.fsdp_config.get("ulysses_sequence_parallel_size", 1)


def recipe_model(config: DictConfig) -> tuple[Family, Shape]:
    """Family and shape of the checkpoint in the folder `model.path`, or else those that are published for the chosen
    size.

    A config from `hydra.main` does not hold the chosen size. Raises InputError if neither is known.
    """
    model = config.actor_rollout_ref.model.path
    if model and (folder := Path(model).expanduser()).joinpath(MODEL_CONFIG).is_file():
        return read_family(folder), read_shape(folder)
    size = OmegaConf.select(config, "hydra.runtime.choices.size")
    if size not in SIZES:
        raise InputError(f"size={size}: expected {', '.join(SIZES)}, or a model.path that is a folder")
    return SIZES[size]


def picture_limits(config: DictConfig, family: Family) -> Limits:
    """The limits of pictures in the checkpoint's folder, or the published ones, changed by the recipe."""
    model = config.actor_rollout_ref.model.path
    folder = Path(model).expanduser() if model else None
    return family.picture_limits(folder, config.data.get("mm_processor_kwargs") or {})


def read_run(config: DictConfig, workload: Workload) -> Run:
    """Raises InputError for settings and models that the memory model does not cover."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    family, shape = recipe_model(config)
    fsdp, gpus = actor.fsdp_config, config.trainer.nnodes * config.trainer.n_gpus_per_node
    check_modelled(config)
    shares = fsdp.share_prompts and actor.ppo_mini_batch_size % gpus == 0  # else GPUs split a prompt's answers
    layers = fsdp.wrap_policy.get("transformer_layer_cls_to_wrap")  # none: layers are wrapped one by one
    return Run(
        shape=shape,
        gpus=gpus,
        gpus_per_node=config.trainer.n_gpus_per_node,
        prompts=config.data.train_batch_size,
        answers_per_prompt=rollout.n,
        image_tokens=family.picture_tokens(*workload.image_px, picture_limits(config, family)),
        share_prompts=shares,
        share_images=shares,
        head_tokens=HEAD_TOKENS if fsdp.response_logits_only else math.inf,
        prompt_text_tokens=PROMPT_TEXT_TOKENS,
        answer_tokens=workload.answer_tokens,
        longest_sequence_tokens=config.data.max_prompt_length + config.data.max_response_length,
        update_answers=actor.ppo_mini_batch_size * rollout.n,
        train_rows=workload.train_rows,
        epochs=config.trainer.total_epochs,
        val_rows=workload.val_rows,
        val_answers=rollout.val_kwargs.n,
        val_before_train=config.trainer.val_before_train,
        test_freq=config.trainer.test_freq,
        save_freq=config.trainer.save_freq,
        tokens_per_micro_batch=actor.ppo_max_token_len_per_gpu,
        response_logits_only=fsdp.response_logits_only,
        compiled=fsdp.compile_blocks,
        checkpointing=config.actor_rollout_ref.model.enable_gradient_checkpointing,
        adapter_rank=config.actor_rollout_ref.model.lora_rank,
        no_shard=fsdp.no_shard,
        gathered_at_once=bool(layers) and family.layer_class not in layers,
        param_offload=fsdp.param_offload,
        optimizer_offload=fsdp.optimizer_offload,
        ref_offload=config.actor_rollout_ref.ref.fsdp_config.param_offload,
        reference=actor.use_kl_loss,
        old_log_probs=not config.algorithm.rollout_correction.bypass_mode,
        rollout_engine=rollout.name,
        rollout_memory_share=rollout.gpu_memory_utilization,
        rollout_tp=rollout.tensor_model_parallel_size,
        rollout_slots=rollout.max_num_seqs,
        rollout_sleeps=rollout.free_cache_engine,
        filters_groups=config.algorithm.filter_groups.enable,
    )
