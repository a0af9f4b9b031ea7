"""What can be known before a GPU is touched: whether data, model, settings and machine let stage 2 run at all. Stage 1
asks some of it, too (`sft/train.py`).

Every check raises InputError with one line that says what to change. Nothing here imports torch or verl.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.models.shapes import read_folder
from qwen3vl_rl.reward import check_settings
from qwen3vl_rl.training.checkpoints import latest_step
from qwen3vl_rl.training.recipe import LORA, check_paths
from qwen3vl_rl.training.run_folder import LATEST, check_same_run, record_data_hash

COLUMNS = ("prompt", "images", "reward_model", "extra_info", "data_source")
MAKER = "qwen3vl_rl.data.tools.rl_parquet"
BATCH_ROWS = 4096
GIB = 1 << 30
ACTIVATIONS_SHARE = 0.1  # of a GPU's memory, the least that activations take
SEQUENCE_RANKS = "actor.fsdp_config.ulysses_sequence_parallel_size"
COUNTS = (
    *(f"trainer.{name}" for name in ("nnodes", "n_gpus_per_node", "total_epochs")),
    "data.train_batch_size",
    *(f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "ppo_max_token_len_per_gpu")),
    *(f"actor_rollout_ref.rollout.{name}" for name in ("n", "max_num_seqs", "tensor_model_parallel_size")),
    f"actor_rollout_ref.{SEQUENCE_RANKS}",
)
ON_POLICY_LOSS = "gspo_on_policy"
# Settings that make two starts one run: what decides the data, the answers, the loss and the update. The others
# (logging, saving, the length of the run, the machine and how it is used) may change when it is resumed.
SAME_RUN = (
    "reward.custom_reward_function",
    "algorithm",
    *(f"data.{name}" for name in ("train_files", "val_files", "train_batch_size", "seed", "mm_processor_kwargs")),
    *(f"data.{name}" for name in ("max_prompt_length", "max_response_length")),
    *(f"trainer.{name}" for name in ("train_files_sha256", "val_files_sha256", "v1.trainer_mode")),
    *(f"actor_rollout_ref.model.{name}" for name in ("path", *LORA)),
    *(f"actor_rollout_ref.rollout.{name}" for name in ("n", "temperature", "top_p", "top_k")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("policy_loss", "loss_agg_mode", "entropy_coeff", "grad_clip")),
    *(f"actor_rollout_ref.actor.clip_ratio{end}" for end in ("", "_low", "_high", "_c")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("use_kl_loss", "kl_loss_coef", "kl_loss_type")),
    *(f"actor_rollout_ref.actor.{name}" for name in ("ppo_mini_batch_size", "ppo_epochs", "optim")),
)


def check(config: DictConfig) -> int:
    """All checks of stage 2, the cheap ones first. Returns the number of steps of the run."""
    check_paths(config, "actor_rollout_ref.model.path", "data.train_files", "data.val_files")
    check_settings(**config.reward.custom_reward_function.reward_kwargs)
    check_numbers(config)
    check_lengths(config)
    check_ranks(config)
    check_words(config)
    check_units(config)
    check_trainer(config)
    check_agent_loop(config)
    check_on_policy(config)
    check_sampler(config)
    check_engine(config)
    check_gpus(config)
    check_memory(config)
    rows = check_rows(config, "data.train_files")
    check_rows(config, "data.val_files")
    for key in ("data.train_files", "data.val_files"):
        check_truths(config, key)
        record_data_hash(config, key)
    check_same_run(config, SAME_RUN)
    return check_steps(config, rows)


def check_numbers(config: DictConfig) -> None:
    """Counts are counts, the rollout engine's share is one, and GPUs divide what they share."""
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
            f"{ranks} GPUs to get equally many of the {answers} answers of an update"
        )


def sequence_ranks(actor: DictConfig) -> int:
    """GPUs that share one sequence."""
    return actor.fsdp_config.get("ulysses_sequence_parallel_size", 1)


def check_lengths(config: DictConfig) -> None:
    """The engine's context takes the longest prompt with the longest answer; verl cuts answers there, silently."""
    context = config.actor_rollout_ref.rollout.max_model_len
    needed = config.data.max_prompt_length + config.data.max_response_length
    if context and context < needed:
        raise InputError(
            f"actor_rollout_ref.rollout.max_model_len={context}: expected at least {needed}, "
            "data.max_prompt_length and data.max_response_length together"
        )


def check_ranks(config: DictConfig) -> None:
    """A checkpoint is resumed on as many GPUs as wrote it, by whose number verl names its shards, and with shards where
    it has shards."""
    folder = Path(config.trainer.default_local_dir)
    if config.trainer.resume_mode != "auto" or (step := latest_step(folder)) is None:
        return
    try:
        saved = json.loads((folder / f"global_step_{step}" / "actor" / "fsdp_config.json").read_text())
        ranks, plain = saved["world_size"], saved["FSDP_version"] == 0
    except (OSError, ValueError, KeyError):
        raise InputError(f"{folder}: expected a whole checkpoint in global_step_{step}, which {LATEST} names") from None
    wanted = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if ranks != wanted:
        raise InputError(f"{folder}: its checkpoint was written by {ranks} GPUs, and {wanted} cannot go on from it")
    word = "actor_rollout_ref.actor.fsdp_config.no_shard"
    if plain != bool(OmegaConf.select(config, word)):
        how = "without shards" if plain else "with shards"
        raise InputError(f"{folder}: its checkpoint was written {how}; {word}={str(plain).lower()} goes on from it")


def check_words(config: DictConfig) -> None:
    """The words of our training engine go with verl's settings."""
    model, name = config.actor_rollout_ref.model, "actor_rollout_ref.actor.fsdp_config"
    engine = config.actor_rollout_ref.actor.fsdp_config
    if engine.get("skip_dp_sync"):
        raise InputError(f"{name}.skip_dp_sync: it is for stage 1")
    check_one_gpu(config, f"{name}.no_shard")
    check_liger(config, "actor_rollout_ref.model", name)
    if engine.get("response_logits_only") and (model.use_fused_kernels or not model.use_remove_padding):
        raise InputError(
            f"{name}.response_logits_only=true: expected use_remove_padding=true and use_fused_kernels=false beside it"
        )


def check_units(config: DictConfig) -> None:
    """Where embeddings are not tied verl gathers each by itself, the vision tower's among them, and FSDP then fails at
    the tower as a unit: its embeddings would come after it."""
    recipe, path = config.actor_rollout_ref, Path(config.actor_rollout_ref.model.path).expanduser() / "config.json"
    key = "actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap"
    units = OmegaConf.select(config, key) or []
    if "Qwen3VLVisionModel" not in units or recipe.actor.fsdp_config.get("no_shard") or not path.is_file():
        return
    if not read_folder(path.parent).tie_word_embeddings:
        raise InputError(
            f"{key}={list(units)}: expected [Qwen3VLTextDecoderLayer] for {path.parent}, as size=8b has it"
        )


def check_one_gpu(config: DictConfig, word: str) -> None:
    """A word that means one GPU goes with one GPU. Both stages."""
    trainer = config.trainer
    if OmegaConf.select(config, word) and trainer.n_gpus_per_node * trainer.nnodes > 1:
        raise InputError(
            f"trainer.n_gpus_per_node={trainer.n_gpus_per_node}, nnodes={trainer.nnodes}: expected one GPU with "
            f"{word}=true, as hardware=gpu1 has it; hardware=node8 takes any number on a node"
        )


def check_liger(config: DictConfig, model: str, engine: str) -> None:
    """torch 2.11 cannot compile the norms of liger-kernel 0.8.5. Both stages; `model`, `engine`: keys of these."""
    if OmegaConf.select(config, f"{model}.use_liger") and OmegaConf.select(config, f"{engine}.compile_blocks"):
        raise InputError(f"{model}.use_liger=true: expected {engine}.compile_blocks=false")


def check_trainer(config: DictConfig) -> None:
    """What we add to verl's trainer is added to its present one; verl calls the other deprecated."""
    if not config.trainer.use_v1:
        raise InputError("trainer.use_v1=false: expected true")


def check_agent_loop(config: DictConfig) -> None:
    """Our agent loop sends images as our training engine reads them, and as verl's others do not."""
    loop, key = config.actor_rollout_ref.rollout.agent.default_agent_loop, "rollout.agent.default_agent_loop"
    if loop == "image_once":
        other = f"actor_rollout_ref.{key}=single_turn_agent is for others"
        if (strategy := config.actor_rollout_ref.actor.strategy) != "fsdp2":
            raise InputError(f"actor_rollout_ref.actor.strategy={strategy}: expected fsdp2; {other}")
        if config.algorithm.adv_estimator == "gae":
            raise InputError(f"algorithm.adv_estimator=gae: expected an estimator without a critic; {other}")
    limits = {"min_pixels", "max_pixels"} & set(config.data.mm_processor_kwargs or {})
    if len(limits) == 1:  # the trainer's processor takes no notice of one alone, vLLM's does
        raise InputError(f"data.mm_processor_kwargs: expected min_pixels and max_pixels, got {limits.pop()} alone")


def check_on_policy(config: DictConfig) -> None:
    """The loss of `speed=fast`, which takes the old policy for the current one, needs them to be the same, and the rest
    of `speed=fast` needs that loss."""
    actor, key = config.actor_rollout_ref.actor, "actor_rollout_ref"
    if actor.policy_loss.loss_mode != ON_POLICY_LOSS:
        return
    bypass = config.algorithm.rollout_correction.bypass_mode
    for name, value, needed in (
        (f"{key}.actor.ppo_mini_batch_size", actor.ppo_mini_batch_size, config.data.train_batch_size),
        (f"{key}.actor.ppo_epochs", actor.ppo_epochs, 1),
        ("algorithm.rollout_correction.bypass_mode", bypass, True),
    ):
        if value != needed:
            raise InputError(
                f"{name}={value}: expected {needed}, as speed=fast is for GSPO with one update per batch; "
                "speed=released is for others"
            )


def check_sampler(config: DictConfig) -> None:
    """verl leaves out the filter of groups where a sampler is named, and its separate trainer asks more of one."""
    sampler, other = config.trainer.v1.sampler.custom_sampler, "trainer.v1.sampler.custom_sampler=null"
    if not sampler or not sampler.path:
        return
    if config.algorithm.filter_groups.enable:
        raise InputError(f"algorithm.filter_groups.enable=true: expected {other} beside it")
    if config.trainer.v1.trainer_mode == "separate_async":
        raise InputError(f"trainer.v1.trainer_mode=separate_async: expected {other} beside it")


def check_engine(config: DictConfig) -> None:
    """The rollout engine is installed, and can run on the device."""
    engine = config.actor_rollout_ref.rollout.name
    if config.trainer.device == "cpu" and engine != "vllm":
        raise InputError(f"engine={engine}: expected engine=vllm on hardware=cpu")
    if find_spec(engine) is None:
        here = [f"engine={name} is, or " for name in ("vllm", "sglang") if find_spec(name)]
        how = f"remove .venv, which holds one engine, and run bash scripts/setup.sh {engine}"
        raise InputError(f"engine={engine}: {engine} is not installed; {''.join(here)}{how}")


def check_gpus(config: DictConfig) -> None:
    """This machine has as many GPUs as the recipe takes. A cluster (RAY_ADDRESS) is left to Ray, which counts it."""
    if config.trainer.device == "cpu" or os.environ.get("RAY_ADDRESS"):
        return
    if config.trainer.nnodes > 1:
        raise InputError(f"trainer.nnodes={config.trainer.nnodes}: expected RAY_ADDRESS to name the cluster's head")
    check_gpus_here(config)


def check_gpus_here(config: DictConfig) -> None:
    wanted, found = config.trainer.n_gpus_per_node, len(gpu_memories_mib())
    if wanted > found:
        choices = "gpu1, gpu2, node8" if found else "cpu"
        raise InputError(f"trainer.n_gpus_per_node={wanted}: found {found} GPUs here; hardware={choices}")


def check_memory(config: DictConfig) -> None:
    """The smallest GPU holds the training state with room for activations, and what stays of it beside the rollout
    engine. Not where FSDP keeps it on the host, nor on other machines."""
    model, fsdp = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.fsdp_config
    path, key = Path(model.path).expanduser(), "actor_rollout_ref.rollout.gpu_memory_utilization"
    elsewhere = config.trainer.device == "cpu" or os.environ.get("RAY_ADDRESS")
    if elsewhere or not path.is_dir() or fsdp.get("offload_policy"):
        return
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    size = 2 if fsdp.get("model_dtype") in ("bf16", "bfloat16", "fp16", "float16") else 4
    weights_gib = parameter_count(path) * size / gpus / GIB
    moments_gib = 0 if model.get("lora_rank") else 2 * weights_gib
    gradients_gib = moments_gib / 2
    smallest_gib = min(gpu_memories_mib()) / 1024
    needed_gib = weights_gib + gradients_gib + moments_gib
    if needed_gib > smallest_gib * (1 - ACTIVATIONS_SHARE):
        raise InputError(
            f"{path}: weights, gradients and Adam moments take {needed_gib:.0f} GiB on each of {gpus} GPUs of "
            f"{smallest_gib:.0f} GiB; take a smaller model or more GPUs"
        )
    has_reference = config.actor_rollout_ref.actor.use_kl_loss and not model.get("lora_rank")
    kept_gib = (not fsdp.param_offload) * weights_gib + (not fsdp.optimizer_offload) * moments_gib
    kept_gib += (has_reference and not config.actor_rollout_ref.ref.fsdp_config.param_offload) * weights_gib
    share = config.actor_rollout_ref.rollout.gpu_memory_utilization
    if kept_gib + share * smallest_gib > smallest_gib:
        raise InputError(
            f"{key}={share}: expected less than {1 - kept_gib / smallest_gib:.2f}, as the training state keeps "
            f"{kept_gib:.0f} of {smallest_gib:.0f} GiB beside the rollout engine; speed=released offloads it"
        )


def check_rows(config: DictConfig, key: str, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    """Every file is parquet with these columns and every image is there. Returns the number of rows."""
    files = OmegaConf.select(config, key)
    paths = [Path(file).expanduser() for file in ([files] if isinstance(files, str) else files)]
    return sum(check_file(path, columns, maker) for path in paths)


def check_file(path: Path, columns: Sequence[str] = COLUMNS, maker: str = MAKER) -> int:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected parquet of {maker} ({error})") from None
    if missing := [name for name in columns if name not in file.schema_arrow.names]:
        raise InputError(f"{path}: expected parquet of {maker}, found no column {missing[0]}")
    number = 0
    for number, images in enumerate(_images(file), start=1):
        for image in images or []:
            if isinstance(image, str) and not os.path.exists(image):
                raise row_error(path, number, "images", "an image that exists", image)
    return number


def check_truths(config: DictConfig, key: str) -> None:
    """Every row has what our reward reads: the image's size and a box. Rows for another reward are its own affair."""
    if config.reward.custom_reward_function.path != "pkg://qwen3vl_rl.reward":
        return
    files = OmegaConf.select(config, key)
    for path in (Path(file).expanduser() for file in ([files] if isinstance(files, str) else files)):
        batches = pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["reward_model", "extra_info"])
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            info, truth = row["extra_info"] or {}, (row["reward_model"] or {}).get("ground_truth")
            for name in ("width", "height"):
                if type(info.get(name)) is not int or info[name] < 1:
                    raise row_error(path, number, f"extra_info.{name}", f"the image's {name} in px", info.get(name))
            if not isinstance(truth, list) or len(truth) != 4:
                raise row_error(path, number, "reward_model.ground_truth", "four numbers in 0..1000", truth)


def check_steps(config: DictConfig, rows: int) -> int:
    """The training set gives at least one batch, and the epochs as many steps as are asked for. Returns their number
    (the epochs': at most, as prompts that are too long are left out)."""
    batch, epochs, steps = (
        config.data.train_batch_size,
        config.trainer.total_epochs,
        config.trainer.total_training_steps,
    )
    for name, value in (("data.train_batch_size", batch), ("trainer.total_epochs", epochs)):  # stage 1 asks no more
        if value < 1:
            raise InputError(f"{name}={value}: expected at least 1")
    if rows < batch:
        raise InputError(f"data.train_batch_size={batch}: expected at most the {rows} rows of data.train_files")
    most = rows // batch * epochs
    if steps and steps > most:
        needed = -(-steps // (rows // batch))
        raise InputError(
            f"trainer.total_training_steps={steps}: {epochs} epochs of {rows} rows end after {most} steps; "
            f"trainer.total_epochs={needed} gives enough"
        )
    return steps or most


def gpu_memories_mib() -> list[int]:
    """Memory of each GPU that CUDA_VISIBLE_DEVICES leaves; none where there is no NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [[field.strip() for field in line.split(",")] for line in lines]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else visible.split(",")
    return [int(mib) for index, uuid, mib in gpus if chosen is None or index in chosen or uuid in chosen]


def parameter_count(model: Path) -> int:
    """Parameters in the safetensors files of a checkpoint, read from their headers."""
    return sum(_tensor_sizes(path) for path in model.glob("*.safetensors"))


def _tensor_sizes(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _images(file: pq.ParquetFile) -> Iterator[list | None]:
    for batch in file.iter_batches(BATCH_ROWS, columns=["images"]):
        yield from batch.column(0).to_pylist()
