"""Our replica replaces verl 0.9.1's for vLLM rollouts. Naming it imports no vLLM."""

from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry


def load_replica() -> type[RolloutReplica]:
    from qwen3vl_rl.verl_ext.vllm_server import GroupReplica

    return GroupReplica


RolloutReplicaRegistry.register("vllm", load_replica)
