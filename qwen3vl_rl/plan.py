"""Will stage 2 fit, and how long will it take? Memory and time of a step, from first principles.

    python -m qwen3vl_rl.plan --gpu h100 size=8b hardware=node8 [OVERRIDE OF THE RECIPE …]

Reads the very recipe that `qwen3vl_rl.train` would run, counts bytes and floating-point operations from the model's
shape, and divides by what a GPU can do times a few constants (`constants.yaml`: how much of it is reached). Each
constant says what it was measured on, or that it is assumed; `benchmarks/fit_plan.py` fits them. Nothing is started,
and neither torch nor a GPU is needed. A plan is for answers of `--answer-tokens`; the exit code is 1 where the run does
not fit.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.models.shapes import BF16_BYTES, MERGED_PATCH_PX, PUBLISHED, Shape, find_shape, image_tokens
from qwen3vl_rl.training import preflight
from qwen3vl_rl.training.recipe import check_choices

GIB = 1 << 30
FP32_BYTES = 4
RL_SAMPLES = 83_989  # of the paper's 8B run
ANSWER_TOKENS = 101  # mean of EGM-8B's answers in the paper
PROMPT_TEXT_TOKENS = 40  # the template, the question and an expression of a dozen words
LAYER = "Qwen3VLTextDecoderLayer"
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
NODE_GPUS = 8
ROLLOUT_SHARES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
RECIPE = "actor_rollout_ref"
OFFLOADING = " ".join(
    f"{RECIPE}.{part}_offload=true"
    for part in ("actor.fsdp_config.param", "actor.fsdp_config.optimizer", "ref.fsdp_config.param")
)
PHASES = {  # verl's names
    "gen": "answers and their rewards",
    "old_log_prob": "a pass of the policy before the update",
    "ref": "a pass of the reference",
    "update_actor": "forward, backward and the optimizer",
    "update_weights": "the new weights to the rollout engine",
    "other": "all else",
}
FITTED_ON = "2B and 8B, one to four H100s and H200s, 8 to 64 prompts a step (benchmarks/README.md)"


@dataclass(frozen=True, slots=True)
class Gpu:
    """Data sheet values of one GPU: memory that a program sees, dense bfloat16 operations and memory bytes a second."""

    name: str
    memory_gib: float
    flops: float
    memory_bytes_per_s: float


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu("A100", 79, 312e12, 2.04e12),
    "h100": Gpu("H100", 79, 989.5e12, 3.35e12),
    "h200": Gpu("H200", 140, 989.5e12, 4.8e12),
}


@dataclass(frozen=True, slots=True)
class Run:
    """What of a recipe decides memory and time."""

    shape: Shape
    gpus: int
    gpus_per_node: int
    prompts: int
    samples_per_prompt: int
    image_tokens: int
    samples_per_image: int  # that are trained on together, and share its encoding
    prompt_text_tokens: int
    answer_tokens: int
    longest_sequence_tokens: int
    update_samples: int
    train_samples: int
    epochs: int
    tokens_per_micro_batch: int
    loss_tokens_only: bool
    compiled: bool
    checkpointing: bool
    unsharded: bool
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

    @property
    def prompt_tokens(self) -> int:
        return self.image_tokens + self.prompt_text_tokens

    @property
    def sequence_tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    @property
    def samples(self) -> int:
        return self.prompts * self.samples_per_prompt

    @property
    def logit_share(self) -> float:
        """Of the tokens, those whose logits are computed."""
        return self.answer_tokens / self.sequence_tokens if self.loss_tokens_only else 1.0

    @property
    def micro_batches(self) -> int:
        """Of one GPU in a step."""
        return math.ceil(self.samples * self.sequence_tokens / self.gpus / self.tokens_per_micro_batch)

    @property
    def weight_bytes(self) -> float:
        """One 32-bit copy of the model, this GPU's share."""
        return FP32_BYTES * self.shape.parameters / self.gpus

    @property
    def forward_flops(self) -> float:
        """One pass over all samples of a step, on all GPUs."""
        tokens = self.sequence_tokens
        image = self.shape.vision_flops(self.image_tokens) / self.samples_per_image
        return self.samples * (self.shape.language_flops(tokens, tokens * self.logit_share) + image)


@dataclass(frozen=True, slots=True)
class Constants:
    """How much of the data sheet is reached, and what counting does not give. `constants.yaml` has the values."""

    # By hidden width: `at_width` reads between the widths that were measured.
    update_utilisation: Mapping[int, float]  # of dense bfloat16 operations, recomputation counted
    forward_utilisation: Mapping[int, float]
    compiled_speed: Mapping[int, float]  # times as many of them with compiled blocks, in both
    decode_bandwidth_share: float  # of the memory's bytes a second, while weights and cache are read
    decode_step_s: float  # per token, beside reading: launches, sampling, scheduling
    sequence_step_s: float  # per token and sequence in a batch
    request_s: float  # per answer of a rollout engine, on its host: prepared, sent, scored
    node_request_s: float  # per answer of a node, of what its engines do one after the other
    sglang_generation: float  # times as long as with vLLM, of which all other constants of the rollouts are
    host_bytes_per_s: float  # between GPU and host memory, for what is offloaded
    sync_bytes_per_s: float  # from actor to rollout engine
    fixed_step_s: float  # what depends on none of these
    node_bytes_per_s: float  # between GPUs of one node, per GPU
    network_bytes_per_s: float  # between nodes, per GPU
    logit_bytes: float  # per token that has logits, and word of the vocabulary, at the peak of the update
    activation_values: float  # per token and hidden value, kept in a layer while it is computed; bfloat16
    reserved_gib: float  # of each GPU: contexts, fragments, communication buffers
    engine_gib: float  # of a rollout engine's share: activations and graphs


def read_constants(path: Path | None = None) -> tuple[Constants, dict[str, str]]:
    """The constants, and where each comes from."""
    text = path.read_text() if path else files("qwen3vl_rl.training.planner").joinpath("constants.yaml").read_text()
    entries = yaml.safe_load(text)
    return Constants(**{name: entry["value"] for name, entry in entries.items()}), {
        name: entry["source"] for name, entry in entries.items()
    }


# --- memory ----------------------------------------------------------------------------------------------------------


def update_memory_gib(run: Run, constants: Constants) -> dict[str, float]:
    """Of each GPU at the peak of the update, with the rollout engine asleep."""
    shape, tokens = run.shape, run.tokens_per_micro_batch
    layers = shape.num_hidden_layers
    in_a_layer = BF16_BYTES * tokens * shape.hidden_size * constants.activation_values
    kept = BF16_BYTES * tokens * shape.hidden_size * layers if run.checkpointing else in_a_layer * layers
    embeddings = shape.vocab_size * shape.hidden_size
    sharded = embeddings + shape.block_weights  # on one GPU, where autocast keeps what it has made of them
    if run.gpus > 1:  # at most: embeddings and vision tower, and a layer beside the next
        sharded = 2 * embeddings + shape.vision_parameters + 2 * shape.block_weights
    held = shape.parameters if run.unsharded or run.gathered_at_once else sharded
    parts = {
        "weights, gradients, Adam moments": 4 * run.weight_bytes,
        "reference weights": run.weight_bytes if run.reference and not run.ref_offload else 0.0,
        "weights in 16 bits": BF16_BYTES * held,  # autocast's, or gathered
        "activations": kept + in_a_layer,
        "logits": constants.logit_bytes * tokens * run.logit_share * shape.vocab_size,
        "reserved": constants.reserved_gib * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def rollout_memory_gib(run: Run, gpu: Gpu, constants: Constants) -> dict[str, float]:
    """Of each GPU while answers are generated."""
    state = (1 - run.param_offload) + 2 * (1 - run.optimizer_offload)  # gradients are gone by then
    reference = run.reference and not run.ref_offload
    return {
        "weights, Adam moments, reference, as far as they stay": (state + reference) * run.weight_bytes / GIB,
        "rollout engine": run.rollout_memory_share * gpu.memory_gib,
        "reserved": constants.reserved_gib,
    }


def cache_tokens(run: Run, gpu: Gpu, constants: Constants) -> int:
    """Tokens whose keys and values one rollout engine holds."""
    weights = BF16_BYTES * run.shape.parameters / run.rollout_tp
    room = (run.rollout_memory_share * gpu.memory_gib - constants.engine_gib) * GIB - weights
    return max(0, int(room * run.rollout_tp / run.shape.cache_bytes(1)))


def problems(run: Run, gpu: Gpu, constants: Constants) -> list[str]:
    """What does not fit, in words; empty where everything does."""
    found = []
    room = gpu.memory_gib * (1.0 if run.rollout_sleeps else 1 - run.rollout_memory_share)
    update = sum(update_memory_gib(run, constants).values())
    rollout = sum(rollout_memory_gib(run, gpu, constants).values())
    if update > room:
        found.append(f"the update takes {update:.0f} GiB of {room:.0f}")
    if rollout > gpu.memory_gib:
        found.append(f"generation takes {rollout:.0f} GiB of {gpu.memory_gib:.0f}")
    if cache_tokens(run, gpu, constants) < run.sequence_tokens:
        found.append("the rollout engine has no room for a single sequence")
    return found


def remedies(run: Run, gpu: Gpu, constants: Constants) -> list[str]:
    """Overrides, of which each line makes everything fit, the mildest of its kind; the last kinds are more GPUs."""
    limit, stays = run.tokens_per_micro_batch, not run.param_offload
    kinds: list[list[tuple[str, Run]]] = [
        [(f"{RECIPE}.model.enable_gradient_checkpointing=true", replace(run, checkpointing=True))],
        [(f"{RECIPE}.rollout.free_cache_engine=true", replace(run, rollout_sleeps=True))],
        less_for_rollouts(run),
        [
            (f"{RECIPE}.actor.ppo_max_token_len_per_gpu={less}", replace(run, tokens_per_micro_batch=less))
            for less in (limit * eighths // 8 for eighths in (6, 4, 3, 2, 1))
            if less >= run.longest_sequence_tokens  # verl does not split one
        ],
        [(OFFLOADING, offloaded(run))] if stays else [],
        more_gpus(run),
        [(f"{words} {OFFLOADING}", more) for words, more in more_gpus(offloaded(run))] if stays else [],
    ]
    first = (next((words for words, changed in kind if not problems(changed, gpu, constants)), None) for kind in kinds)
    return [words for words in first if words]


def offloaded(run: Run) -> Run:
    return replace(run, param_offload=True, optimizer_offload=True, ref_offload=True)


def less_for_rollouts(run: Run) -> list[tuple[str, Run]]:
    """With smaller shares of the memory for the rollout engine, the largest first."""
    return [
        (f"{RECIPE}.rollout.gpu_memory_utilization={share}", replace(run, rollout_memory_share=share))
        for share in ROLLOUT_SHARES
        if share < run.rollout_memory_share
    ]


def more_gpus(run: Run) -> list[tuple[str, Run]]:
    """With more GPUs, the fewest first; of each number with the rollout engine's share as it is, then smaller ones."""
    found = []
    for gpus in (gpus for gpus in GPU_COUNTS if gpus > run.gpus and run.update_samples % gpus == 0):
        more = replace(run, gpus=gpus, gpus_per_node=min(gpus, NODE_GPUS), unsharded=False)
        words = hardware(gpus) + (f" {RECIPE}.engine.no_shard=false" if run.unsharded else "")
        found += [(words, more), *((f"{words} {less}", smaller) for less, smaller in less_for_rollouts(more))]
    return found


def hardware(gpus: int) -> str:
    """The overrides for so many GPUs, one of GPU_COUNTS; with their number, as another may have been set beside it."""
    nodes, each = max(1, gpus // NODE_GPUS), min(gpus, NODE_GPUS)
    name = f"gpu{gpus}" if gpus <= 2 else "node8" if nodes == 1 else "multinode"
    return f"hardware={name} trainer.nnodes={nodes} trainer.n_gpus_per_node={each}"


def host_memory_gib(run: Run) -> float:
    """Of a node, for what its GPUs offload."""
    copies = run.param_offload + 2 * run.optimizer_offload + (run.reference and run.ref_offload)
    return copies * run.weight_bytes * min(run.gpus, run.gpus_per_node) / GIB


def checkpoint_gib(run: Run) -> float:
    """Of one step on disk: weights and Adam's moments."""
    return 3 * run.weight_bytes * run.gpus / GIB


# --- time ------------------------------------------------------------------------------------------------------------


def step_seconds(run: Run, gpu: Gpu, constants: Constants) -> dict[str, float]:
    """Of the phases of one step, under verl's names."""
    phases = {"gen": generation_s(run, gpu, constants)}
    if run.old_log_probs:
        phases["old_log_prob"] = pass_s(run, gpu, constants) + offload_s(run, constants, params=run.param_offload)
    if run.reference:  # offloaded, its weights come from the host for every micro-batch, beside the computation
        streamed = run.ref_offload * run.micro_batches * run.weight_bytes / constants.host_bytes_per_s
        phases["ref"] = max(pass_s(run, gpu, constants), streamed)
    phases["update_actor"] = update_s(run, gpu, constants)
    weights = BF16_BYTES * run.shape.parameters
    phases["update_weights"] = weights / constants.sync_bytes_per_s + offload_s(
        run, constants, params=run.param_offload
    )
    return phases | {"other": constants.fixed_step_s}


def pass_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """A forward pass over all samples; weights are gathered once per micro-batch, beside the computation."""
    rate = forward_rate(run, gpu, constants) * compiled_factor(run, constants)
    return max(run.forward_flops / (run.gpus * rate), communication_s(run, constants, copies=1))


def update_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Forward, backward (twice the operations) and, where activations are recomputed, forward again."""
    passes = 4 if run.checkpointing else 3
    utilisation = at_width(constants.update_utilisation, run.shape.hidden_size)
    rate = gpu.flops * utilisation * compiled_factor(run, constants)
    compute = passes * run.forward_flops / (run.gpus * rate)
    # Gathered for forward and backward in 16 bits; gradients are reduced in 32.
    moved = communication_s(run, constants, copies=4)
    return max(compute, moved) + offload_s(run, constants, params=run.param_offload, moments=run.optimizer_offload)


def compiled_factor(run: Run, constants: Constants) -> float:
    """By which a GPU computes faster in the blocks of this run."""
    return at_width(constants.compiled_speed, run.shape.hidden_size) if run.compiled else 1.0


def forward_rate(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Operations a second of a forward pass that is not compiled."""
    return gpu.flops * at_width(constants.forward_utilisation, run.shape.hidden_size)


def at_width(values: Mapping[int, float], width: int) -> float:
    """On straight lines between the widths that have a value; beyond them, that of the nearest."""
    widths = sorted(values)
    return float(np.interp(width, widths, [values[known] for known in widths]))


def communication_s(run: Run, constants: Constants, copies: int) -> float:
    """Moving `copies` 16-bit copies of all weights through every GPU, for each micro-batch."""
    if run.gpus == 1:
        return 0.0
    across_nodes = run.gpus > run.gpus_per_node
    rate = constants.network_bytes_per_s if across_nodes else constants.node_bytes_per_s
    return run.micro_batches * copies * BF16_BYTES * run.shape.parameters * (1 - 1 / run.gpus) / rate


def offload_s(run: Run, constants: Constants, params: bool, moments: bool = False) -> float:
    """To the GPU and back, this GPU's share."""
    return 2 * run.weight_bytes * (params + 2 * moments) / constants.host_bytes_per_s


def generation_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Prompts are encoded once for all samples (prefix caching); then each wave of sequences, token by token. What the
    host does for an answer adds to that."""
    prompt = run.shape.language_flops(run.prompt_tokens, 1) + run.shape.vision_flops(run.image_tokens)
    prefill = run.prompts * prompt / (run.gpus * forward_rate(run, gpu, constants))
    sequences = engine_samples(run)
    slots = min(run.rollout_slots, cache_tokens(run, gpu, constants) // run.sequence_tokens)
    waves = math.ceil(sequences / max(slots, 1))
    batch = sequences / waves
    on_host = constants.request_s * sequences + constants.node_request_s * node_samples(run)
    with_vllm = on_host + prefill + waves * run.answer_tokens * token_s(run, gpu, constants, batch)
    return with_vllm * (constants.sglang_generation if run.rollout_engine == "sglang" else 1.0)


def engine_samples(run: Run) -> float:
    """Answers that one rollout engine makes in a step."""
    return run.samples * run.rollout_tp / run.gpus


def node_samples(run: Run) -> float:
    """Answers that one node makes in a step."""
    return run.samples * min(run.gpus, run.gpus_per_node) / run.gpus


def token_s(run: Run, gpu: Gpu, constants: Constants, batch: float) -> float:
    """One more token of each of `batch` sequences: all weights and their caches are read once."""
    cache = run.shape.cache_bytes(batch * (run.prompt_tokens + run.answer_tokens / 2))
    read = (BF16_BYTES * run.shape.language_parameters + cache) / run.rollout_tp
    reading = read / (gpu.memory_bytes_per_s * constants.decode_bandwidth_share)
    return constants.decode_step_s + batch * constants.sequence_step_s + reading


# --- from recipe to report -------------------------------------------------------------------------------------------


def compose_recipe(overrides: Sequence[str]) -> DictConfig:
    """The recipe of stage 2; sizes may be called `qwen3vl_8b`. Raises InputError for what does not compose."""
    plain = [override.replace("size=qwen3vl_", "size=") for override in overrides]
    folder = Path(__file__).parent / "config"
    check_choices(folder, plain)
    try:
        with initialize_config_dir(str(folder), version_base=None):
            return compose("grounding_grpo", plain, return_hydra_config=True)
    except HydraException as error:
        raise InputError(f"recipe: {' '.join(str(error).split())}") from None


def check_modelled(config: DictConfig) -> None:
    """Raises InputError for settings that change what a GPU holds, and that the planner knows nothing of."""
    recipe = config.actor_rollout_ref
    for name, value, known in (
        ("trainer.device", config.trainer.device, "cuda"),
        (f"{RECIPE}.model.lora_rank", recipe.model.get("lora_rank") or 0, 0),
        (f"{RECIPE}.{preflight.SEQUENCE_RANKS}", preflight.sequence_ranks(recipe.actor), 1),
        (f"{RECIPE}.actor.fsdp_config.offload_policy", recipe.actor.fsdp_config.offload_policy, False),
        (f"{RECIPE}.actor.fsdp_config.model_dtype", recipe.actor.fsdp_config.model_dtype, "fp32"),
    ):
        if value != known:
            raise InputError(f"{name}={value}: expected {known}, which is all that the planner knows")


def read_run(config: DictConfig, args: argparse.Namespace) -> Run:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    size = config.hydra.runtime.choices["size"]
    try:
        shape = find_shape(size, config.actor_rollout_ref.model.path)
    except KeyError:
        raise InputError(f"size={size}: expected {', '.join(PUBLISHED)}, or a model.path that is a folder") from None
    fsdp, gpus = actor.fsdp_config, config.trainer.nnodes * config.trainer.n_gpus_per_node
    check_modelled(config)
    words, wrapped = config.actor_rollout_ref.model.override_config, fsdp.wrap_policy
    layers = wrapped.get("transformer_layer_cls_to_wrap")  # none: each layer by itself
    whole_prompts = actor.ppo_mini_batch_size % gpus == 0  # for each GPU; else samples are dealt out by length
    return Run(
        shape=shape,
        gpus=gpus,
        gpus_per_node=config.trainer.n_gpus_per_node,
        prompts=config.data.train_batch_size,
        samples_per_prompt=rollout.n,
        image_tokens=image_tokens(*args.image),
        samples_per_image=words.get("samples_per_image", 1) if whole_prompts else 1,
        prompt_text_tokens=PROMPT_TEXT_TOKENS,
        answer_tokens=args.answer_tokens,
        longest_sequence_tokens=config.data.max_prompt_length + config.data.max_response_length,
        update_samples=actor.ppo_mini_batch_size * rollout.n,
        train_samples=args.samples,
        epochs=config.trainer.total_epochs,
        tokens_per_micro_batch=actor.ppo_max_token_len_per_gpu,
        loss_tokens_only=words.get("loss_tokens_only", False),
        compiled=words.get("compile_blocks", False),
        checkpointing=config.actor_rollout_ref.model.enable_gradient_checkpointing,
        unsharded=words.get("unsharded", False),
        gathered_at_once=bool(layers) and LAYER not in layers,
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
    )


def report(run: Run, gpu: Gpu, constants: Constants, sources: Mapping[str, str]) -> str:
    gpus = f"{run.gpus} x {gpu.name} of {gpu.memory_gib:.0f} GiB"
    lines = [f"{run.shape.parameters / 1e9:.2f} billion parameters; GPUs: {gpus}"]
    for title, parts in (
        ("update", update_memory_gib(run, constants)),
        ("generation", rollout_memory_gib(run, gpu, constants)),
    ):
        lines.append(f"\nmemory of each GPU, {title}: {sum(parts.values()):.0f} GiB")
        lines += [f"  {size:7.1f}  {name}" for name, size in parts.items() if size]
    if host_gib := host_memory_gib(run):
        lines.append(f"\nmemory of a node's host: {host_gib:.0f} GiB for what is offloaded, beside all else")
    disk = (
        f"{checkpoint_gib(run):.0f} GiB a checkpoint; the latest and the best are kept, and lie there beside the next"
    )
    lines.append(f"\ndisk: {disk}")
    found = problems(run, gpu, constants)
    lines.append("\nit fits" if not found else f"\nit does not fit: {'; '.join(found)}")
    if found and (changes := remedies(run, gpu, constants)):
        lines += ["any of these lines would do, in the place of what it changes:", *(f"  {words}" for words in changes)]
    elif found:
        lines.append("no single change that was tried makes it fit")
    phases = step_seconds(run, gpu, constants)
    step_s, steps = sum(phases.values()), run.train_samples // run.prompts
    lines.append(
        f"\na step, {run.prompts} prompts of {run.prompt_tokens} tokens x {run.samples_per_prompt} answers of "
        f"{run.answer_tokens}: {step_s:.0f} s"
    )
    lines += [f"  {seconds:7.1f}  {name:15} {PHASES[name]}" for name, seconds in phases.items()]
    lines.append(
        f"\nan epoch of {run.train_samples} samples: {steps} steps, {steps * step_s / 3600:.1f} h; "
        f"{run.epochs} epochs: {run.epochs * steps * step_s / 3600:.1f} h (without validation and checkpoints)"
    )
    assumed = [name for name, source in sources.items() if source.startswith("assumed")]
    lines.append(f"assumed: {', '.join(assumed)}; the other constants are measured on {FITTED_ON}")
    if run.rollout_engine == "sglang":
        lines.append(
            f"sglang's answers take {constants.sglang_generation:.1f} times as long as vLLM's: measured on 2B alone"
        )
    if run.shape.hidden_size not in constants.update_utilisation:
        lines.append("how much of a GPU a model of this width reaches is interpolated")
    return "\n".join(lines)


def count(text: str) -> int:
    """Raises ArgumentTypeError for what is no integer of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """Raises ArgumentTypeError for what is not WIDTHxHEIGHT, in px."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or min(int(width), int(height)) < MERGED_PATCH_PX:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT of at least {MERGED_PATCH_PX} px each, got {text}")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--gpu", choices=GPUS, default="h200", help="default: h200")
    samples = f"of the training set (default: {RL_SAMPLES}, the paper's)"
    parser.add_argument("--samples", type=count, default=RL_SAMPLES, help=samples)
    parser.add_argument("--image", type=image_size, default=(640, 480), metavar="WIDTHxHEIGHT", help="default: 640x480")
    tokens = f"of a mean answer (default: {ANSWER_TOKENS}, EGM-8B's in the paper)"
    parser.add_argument("--answer-tokens", type=count, default=ANSWER_TOKENS, help=tokens)
    args = parser.parse_intermixed_args()
    constants, sources = read_constants()
    config, gpu = compose_recipe(args.overrides), GPUS[args.gpu]
    if (longest := config.data.max_response_length) < args.answer_tokens:
        raise InputError(f"--answer-tokens {args.answer_tokens}: expected at most data.max_response_length={longest}")
    preflight.check_numbers(config)
    preflight.check_lengths(config)
    if (batch := config.data.train_batch_size) > args.samples:
        raise InputError(f"data.train_batch_size={batch}: expected at most the {args.samples} of --samples")
    preflight.check_words(config)
    preflight.check_on_policy(config)
    run = read_run(config, args)
    print(report(run, gpu, constants, sources))
    if problems(run, gpu, constants):
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
