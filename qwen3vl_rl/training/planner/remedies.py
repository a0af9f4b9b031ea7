"""What to change in a recipe that does not fit in memory."""

from dataclasses import replace

from qwen3vl_rl.training.memory import MemoryConstants, problems
from qwen3vl_rl.training.workload import ROLES, TRAINING_ENGINE, Run

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
NODE_GPUS = 8
ROLLOUT_SHARES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
OFFLOADING = " ".join(
    f"{ROLES}.{part}_offload=true"
    for part in ("actor.fsdp_config.param", "actor.fsdp_config.optimizer", "ref.fsdp_config.param")
)


def remedies(run: Run, memory_gib: float, constants: MemoryConstants) -> list[str]:
    """Overrides that each make everything fit on their own: the mildest of each kind, more GPUs last."""
    limit, resident = run.tokens_per_micro_batch, not run.param_offload
    kinds: list[list[tuple[str, Run]]] = [
        [(f"{ROLES}.model.enable_gradient_checkpointing=true", replace(run, checkpointing=True))],
        [(f"{ROLES}.rollout.free_cache_engine=true", replace(run, rollout_sleeps=True))],
        less_for_rollouts(run),
        [
            (f"{ROLES}.actor.ppo_max_token_len_per_gpu={less}", replace(run, tokens_per_micro_batch=less))
            for less in (limit * eighths // 8 for eighths in (6, 4, 3, 2, 1))
            if less >= run.longest_sequence_tokens  # verl does not split a sequence
        ],
        [(OFFLOADING, offloaded(run))] if resident else [],
        more_gpus(run),
        [(f"{overrides} {OFFLOADING}", more) for overrides, more in more_gpus(offloaded(run))] if resident else [],
    ]
    first = (
        next((overrides for overrides, changed in kind if not problems(changed, memory_gib, constants)), None)
        for kind in kinds
    )
    return [overrides for overrides in first if overrides]


def offloaded(run: Run) -> Run:
    return replace(run, param_offload=True, optimizer_offload=True, ref_offload=True)


def less_for_rollouts(run: Run) -> list[tuple[str, Run]]:
    """The run with smaller shares of GPU memory for the rollout engine, the largest first."""
    return [
        (f"{ROLES}.rollout.gpu_memory_utilization={share}", replace(run, rollout_memory_share=share))
        for share in ROLLOUT_SHARES
        if share < run.rollout_memory_share
    ]


def more_gpus(run: Run) -> list[tuple[str, Run]]:
    """The run with more GPUs, fewest first; for each number, with the rollout engine's share and then smaller ones."""
    found = []
    for gpus in (gpus for gpus in GPU_COUNTS if gpus > run.gpus and run.update_answers % gpus == 0):
        more = replace(run, gpus=gpus, gpus_per_node=min(gpus, NODE_GPUS), no_shard=False)
        overrides = hardware(gpus) + (f" {TRAINING_ENGINE}.no_shard=false" if run.no_shard else "")
        found += [(overrides, more), *((f"{overrides} {less}", smaller) for less, smaller in less_for_rollouts(more))]
    return found


def hardware(gpus: int) -> str:
    """Overrides for a number of GPUs in `GPU_COUNTS`. They also set the number, which may have been overridden."""
    nodes, each = max(1, gpus // NODE_GPUS), min(gpus, NODE_GPUS)
    name = f"gpu{gpus}" if gpus <= 2 else "node8" if nodes == 1 else "multinode"
    return f"hardware={name} trainer.nnodes={nodes} trainer.n_gpus_per_node={each}"
