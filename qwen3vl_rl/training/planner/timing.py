"""The time of a step of stage 2 by phase: operations and bytes over the rates that a GPU achieves."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.gpus import Gpu
from qwen3vl_rl.training.memory import GIB, cache_tokens, checkpoint_gib
from qwen3vl_rl.training.planner.constants import Constants
from qwen3vl_rl.training.workload import Run


def step_seconds(run: Run, gpu: Gpu, constants: Constants) -> dict[str, float]:
    """Seconds of each phase of a step, under verl's names."""
    phases = {"gen": generation_s(run, gpu, constants)}
    if run.old_log_probs:
        phases["old_log_prob"] = pass_s(run, gpu, constants) + offload_s(run, constants, params=run.param_offload)
    if run.reference:  # if offloaded, its weights come from the host for every micro-batch, during the computation
        streamed = run.holds_reference * run.ref_offload * run.micro_batches * run.weight_bytes
        phases["ref"] = max(pass_s(run, gpu, constants), streamed / constants.host_bytes_per_s)
    phases["update_actor"] = update_s(run, gpu, constants)
    weights = BF16_BYTES * run.shape.parameters
    phases["update_weights"] = weights / constants.sync_bytes_per_s + offload_s(
        run, constants, params=run.param_offload
    )
    return phases | {"other": constants.fixed_step_s}


def validation_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Seconds to answer the whole validation set."""
    asked = replace(run, prompts=run.val_rows, answers_per_prompt=run.val_answers)
    return generation_s(asked, gpu, constants)


def checkpoint_s(run: Run, constants: Constants) -> float:
    """Seconds to write a checkpoint. Each node writes its own shards."""
    nodes = math.ceil(run.gpus / run.gpus_per_node)
    return checkpoint_gib(run) * GIB / (nodes * constants.disk_bytes_per_s)


def pass_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Seconds of a forward pass over all samples. Weights are gathered for each micro-batch, during the computation."""
    rate = forward_rate(run, gpu, constants) * compiled_factor(run, constants)
    return max(run.forward_flops / (run.gpus * rate), communication_s(run, constants, copies=1))


def update_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Seconds of an update: forward, backward and, if activations are recomputed, forward again.

    The backward pass has twice the operations, for inputs and weights, or once if the weights are frozen.
    """
    passes = 3 + run.checkpointing - bool(run.adapter_rank)
    utilisation = at_width(constants.update_utilisation, run.shape.hidden_size)
    rate = gpu.flops * utilisation * compiled_factor(run, constants)
    compute = passes * run.forward_flops / (run.gpus * rate)
    # Weights are gathered in 16 bits for forward and backward. Gradients of all weights are reduced in 32 bits.
    moved = communication_s(run, constants, copies=2 if run.adapter_rank else 4)
    return max(compute, moved) + offload_s(run, constants, params=run.param_offload, moments=run.optimizer_offload)


def compiled_factor(run: Run, constants: Constants) -> float:
    """The speedup by compiled blocks, 1 without them."""
    return at_width(constants.compiled_speed, run.shape.hidden_size) if run.compiled else 1.0


def forward_rate(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Operations per second of a forward pass without compiled blocks."""
    return gpu.flops * at_width(constants.forward_utilisation, run.shape.hidden_size)


def at_width(values: Mapping[int, float], width: int) -> float:
    """The value at `width`: linear between the known widths, constant beyond them."""
    widths = sorted(values)
    return float(np.interp(width, widths, [values[known] for known in widths]))


def communication_s(run: Run, constants: Constants, copies: int) -> float:
    """Seconds to move `copies` 16-bit copies of all weights through every GPU, for each micro-batch."""
    if run.gpus == 1:
        return 0.0
    across_nodes = run.gpus > run.gpus_per_node
    rate = constants.network_bytes_per_s if across_nodes else constants.node_bytes_per_s
    return run.micro_batches * copies * BF16_BYTES * run.shape.parameters * (1 - 1 / run.gpus) / rate


def offload_s(run: Run, constants: Constants, params: bool, moments: bool = False) -> float:
    """Seconds to move this GPU's share to the GPU and back."""
    return 2 * (params * run.actor_bytes + 2 * moments * run.trained_bytes) / constants.host_bytes_per_s


def generation_s(run: Run, gpu: Gpu, constants: Constants) -> float:
    """Seconds to generate the answers of a step.

    Prompts are encoded once for all samples (prefix caching), then each wave of sequences is generated token by token.
    The host's time per answer is added.
    """
    prompt = run.shape.language_flops(run.prompt_tokens, 1) + run.shape.vision.flops(run.image_tokens)
    prefill = run.prompts * prompt / (run.gpus * forward_rate(run, gpu, constants))
    sequences = answers_per_engine(run)
    slots = min(run.rollout_slots, cache_tokens(run, gpu.memory_gib, constants) // run.sequence_tokens)
    waves = math.ceil(sequences / max(slots, 1))
    batch = sequences / waves
    on_host = constants.request_s * sequences + constants.node_request_s * answers_per_node(run)
    with_vllm = on_host + prefill + waves * run.answer_tokens * token_s(run, gpu, constants, batch)
    return with_vllm * (constants.sglang_generation if run.rollout_engine == "sglang" else 1.0)


def answers_per_engine(run: Run) -> float:
    """Answers that one rollout engine generates in a step."""
    return run.answers * run.rollout_tp / run.gpus


def answers_per_node(run: Run) -> float:
    """Answers that one node generates in a step."""
    return run.answers * min(run.gpus, run.gpus_per_node) / run.gpus


def token_s(run: Run, gpu: Gpu, constants: Constants, batch: float) -> float:
    """Seconds for one token of each of `batch` sequences, for which all weights and caches are read once."""
    cache = run.shape.cache_bytes(batch * (run.prompt_tokens + run.answer_tokens / 2))
    read = (BF16_BYTES * run.shape.language_parameters + cache) / run.rollout_tp
    reading = read / (gpu.memory_bytes_per_s * constants.decode_bandwidth_share)
    return constants.decode_step_s + batch * constants.sequence_step_s + reading
