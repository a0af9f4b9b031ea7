"""The memory model of stage 2, per GPU. The planner and the preflight both use it.

It counts the bytes of weights, gradients, Adam moments, activations and logits from the model's shape, and adds
measured constants for the rest.
"""

from dataclasses import dataclass

from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.workload import Run

GATHERED_COPIES = 3  # of shared keys and values, in 16-bit copies: one stays, and a 32-bit one is gathered
GIB = 1 << 30
SMALLEST_MEASURED_GIB = 79.0  # memory of the smallest GPU that `reserved_gib` was measured on


@dataclass(frozen=True, slots=True)
class MemoryConstants:
    """Measured constants. `planner/constants.yaml` has the values."""

    logit_bytes: float  # per token with logits and vocabulary entry, at the peak of the update
    activation_values: float  # bfloat16 values per token and hidden unit that a layer keeps while it is computed
    reserved_gib: float  # per GPU: contexts, fragmentation, communication buffers
    rollout_engine_gib: float  # activations and graphs, part of a rollout engine's share


def update_memory_gib(run: Run, memory_gib: float, constants: MemoryConstants) -> dict[str, float]:
    """GiB by part on a GPU of `memory_gib` GiB, at the peak of the update, while the rollout engine sleeps."""
    shape, tokens = run.shape, run.tokens_per_micro_batch
    layers = shape.num_hidden_layers
    in_a_layer = BF16_BYTES * tokens * shape.hidden_size * constants.activation_values
    in_a_layer += GATHERED_COPIES * shape.cache_bytes(tokens * run.keys_per_token) / layers
    kept = BF16_BYTES * tokens * shape.hidden_size * layers if run.checkpointing else in_a_layer * layers
    embeddings = shape.vocab_size * shape.hidden_size
    sharded = embeddings + shape.block_weights  # one GPU: the 16-bit copies that autocast keeps
    if run.gpus > 1:  # the most that is gathered at once: embeddings, vision tower, a layer and the next one
        sharded = 2 * embeddings + shape.vision.parameters + 2 * shape.block_weights
    held = shape.parameters if run.no_shard or run.gathered_at_once else sharded
    if run.adapter_rank and run.no_shard:  # the frozen weights are in 16 bits already
        held = embeddings
    parts = {
        "weights, gradients, Adam moments": run.actor_bytes + 3 * run.trained_bytes,
        "reference weights": run.weight_bytes if run.holds_reference and not run.ref_offload else 0.0,
        "weights in 16 bits": BF16_BYTES * held,  # copies by autocast, or gathered shards
        "activations": kept + in_a_layer,
        "logits": constants.logit_bytes * min(run.head_tokens, tokens * run.logit_share) * shape.vocab_size,
        "reserved": reserved_gib(memory_gib, constants) * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def rollout_memory_gib(run: Run, memory_gib: float, constants: MemoryConstants) -> dict[str, float]:
    """GiB by part on a GPU of `memory_gib` GiB, while answers are generated."""
    weights = (1 - run.param_offload) * run.actor_bytes
    moments = 2 * (1 - run.optimizer_offload) * run.trained_bytes  # gradients are freed by then
    reference = run.weight_bytes if run.holds_reference and not run.ref_offload else 0.0
    return {
        "weights, Adam moments, reference, as far as they stay": (weights + moments + reference) / GIB,
        "rollout engine": run.rollout_memory_share * memory_gib,
        "reserved": reserved_gib(memory_gib, constants),
    }


def reserved_gib(memory_gib: float, constants: MemoryConstants) -> float:
    """GiB reserved on a GPU. GPUs smaller than all measured ones reserve the same share as the smallest measured."""
    return constants.reserved_gib * min(1.0, memory_gib / SMALLEST_MEASURED_GIB)


def cache_tokens(run: Run, memory_gib: float, constants: MemoryConstants) -> int:
    """The number of tokens whose keys and values one rollout engine can hold."""
    weights = BF16_BYTES * run.shape.parameters / run.rollout_tp
    room = (run.rollout_memory_share * memory_gib - constants.rollout_engine_gib) * GIB - weights
    return max(0, int(room * run.rollout_tp / run.shape.cache_bytes(1)))


def problems(run: Run, memory_gib: float, constants: MemoryConstants) -> list[str]:
    """One sentence for each part that does not fit; empty if everything fits."""
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
    """GiB of host memory that a node needs for what its GPUs offload."""
    state = run.param_offload * run.actor_bytes + 2 * run.optimizer_offload * run.trained_bytes
    reference = run.weight_bytes if run.holds_reference and run.ref_offload else 0.0
    return (state + reference) * min(run.gpus, run.gpus_per_node) / GIB


def checkpoint_gib(run: Run) -> float:
    """GiB of one checkpoint on disk: weights and Adam moments; with adapters, also the weights for the export."""
    weights = run.actor_bytes * (2 if run.adapter_rank else 1)
    return (weights + 2 * run.trained_bytes) * run.gpus / GIB
