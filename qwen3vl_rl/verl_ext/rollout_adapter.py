"""Our parts replace verl 0.9.1's in vLLM rollouts: the actor's side, and the servers. Naming them imports no vLLM."""

from functools import partial

from hydra.utils import get_class
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplicaRegistry

_ROLLOUT_REGISTRY["vllm", "async"] = "qwen3vl_rl.verl_ext.vllm_weights.OwnSocketAdapter"
RolloutReplicaRegistry.register("vllm", partial(get_class, "qwen3vl_rl.verl_ext.vllm_server.GroupReplica"))
