"""Memory of each GPU in stage 2, counted from the model's shape. The planner and the preflight both ask this model.

It counts bytes of weights, gradients, Adam moments, activations and logits, and adds what was measured beside them.
"""

from dataclasses import dataclass

from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.workload import Run

GATHERED_COPIES = 3  # of keys and values that answers share: in 16 bits, and in 32 while they are gathered
GIB = 1 << 30
SMALLEST_MEASURED_GIB = 79.0  # of the GPUs that `reserved_gib` was measured on


@dataclass(frozen=True, slots=True)
class MemoryConstants:
    """What counting does not give. `planner/constants.yaml` has the values."""

    logit_bytes: float  # per token that has logits, and word of the vocabulary, at the peak of the update
    activation_values: float  # per token and hidden value, kept in a layer while it is computed; bfloat16
    reserved_gib: float  # of each GPU: contexts, fragments, communication buffers
    rollout_engine_gib: float  # of a rollout engine's share: activations and graphs


def update_memory_gib(run: Run, memory_gib: float, constants: MemoryConstants) -> dict[str, float]:
    """Of each GPU of `memory_gib` at the peak of the update, with the rollout engine asleep."""
    shape, tokens = run.shape, run.tokens_per_micro_batch
    layers = shape.num_hidden_layers
    in_a_layer = BF16_BYTES * tokens * shape.hidden_size * constants.activation_values
    in_a_layer += GATHERED_COPIES * shape.cache_bytes(tokens * run.keys_per_token) / layers
    kept = BF16_BYTES * tokens * shape.hidden_size * layers if run.checkpointing else in_a_layer * layers
    embeddings = shape.vocab_size * shape.hidden_size
    sharded = embeddings + shape.block_weights  # on one GPU, where autocast keeps what it has made of them
    if run.gpus > 1:  # at most: embeddings and vision tower, and a layer beside the next
        sharded = 2 * embeddings + shape.vision_parameters + 2 * shape.block_weights
    held = shape.parameters if run.no_shard or run.gathered_at_once else sharded
    if run.adapter_rank and run.no_shard:  # whose frozen weights are in 16 bits anyway
        held = embeddings
    parts = {
        "weights, gradients, Adam moments": run.actor_bytes + 3 * run.trained_bytes,
        "reference weights": run.weight_bytes if run.holds_reference and not run.ref_offload else 0.0,
        "weights in 16 bits": BF16_BYTES * held,  # autocast's, or gathered
        "activations": kept + in_a_layer,
        "logits": constants.logit_bytes * min(run.head_tokens, tokens * run.logit_share) * shape.vocab_size,
        "reserved": reserved_gib(memory_gib, constants) * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def rollout_memory_gib(run: Run, memory_gib: float, constants: MemoryConstants) -> dict[str, float]:
    """Of each GPU while answers are generated."""
    weights = (1 - run.param_offload) * run.actor_bytes
    moments = 2 * (1 - run.optimizer_offload) * run.trained_bytes  # gradients are gone by then
    reference = run.weight_bytes if run.holds_reference and not run.ref_offload else 0.0
    return {
        "weights, Adam moments, reference, as far as they stay": (weights + moments + reference) / GIB,
        "rollout engine": run.rollout_memory_share * memory_gib,
        "reserved": reserved_gib(memory_gib, constants),
    }


def reserved_gib(memory_gib: float, constants: MemoryConstants) -> float:
    """Of a GPU smaller than those measured, the same share as of the smallest that was."""
    return constants.reserved_gib * min(1.0, memory_gib / SMALLEST_MEASURED_GIB)


def cache_tokens(run: Run, memory_gib: float, constants: MemoryConstants) -> int:
    """Tokens whose keys and values one rollout engine holds."""
    weights = BF16_BYTES * run.shape.parameters / run.rollout_tp
    room = (run.rollout_memory_share * memory_gib - constants.rollout_engine_gib) * GIB - weights
    return max(0, int(room * run.rollout_tp / run.shape.cache_bytes(1)))


def problems(run: Run, memory_gib: float, constants: MemoryConstants) -> list[str]:
    """What does not fit, in words; empty where everything does."""
    found = []
    room = memory_gib * (1.0 if run.rollout_sleeps else 1 - run.rollout_memory_share)
    update = sum(update_memory_gib(run, memory_gib, constants).values())
    rollout = sum(rollout_memory_gib(run, memory_gib, constants).values())
    if update > room:
        found.append(f"the update takes {update:.0f} GiB of {room:.0f}")
    if rollout > memory_gib:
        found.append(f"generation takes {rollout:.0f} GiB of {memory_gib:.0f}")
    if cache_tokens(run, memory_gib, constants) < run.sequence_tokens:
        found.append("the rollout engine has no room for a single sequence")
    return found


def host_memory_gib(run: Run) -> float:
    """Of a node, for what its GPUs offload."""
    state = run.param_offload * run.actor_bytes + 2 * run.optimizer_offload * run.trained_bytes
    reference = run.weight_bytes if run.holds_reference and run.ref_offload else 0.0
    return (state + reference) * min(run.gpus, run.gpus_per_node) / GIB


def checkpoint_gib(run: Run) -> float:
    """Of one step on disk: weights and Adam's moments; with adapters the weights once more, for the export."""
    weights = run.actor_bytes * (2 if run.adapter_rank else 1)
    return (weights + 2 * run.trained_bytes) * run.gpus / GIB
