"""Replaces verl 0.9.1's rollout servers with ours, and for vLLM the actor's side.

They are registered by name, which imports neither engine.
"""

from collections.abc import Callable

from hydra.utils import get_class
from verl.workers.rollout import replica
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry


def loader(server: str, load_verls: Callable[[], type[RolloutReplica]]) -> Callable[[], type[RolloutReplica]]:
    """A function that loads our replica after verl's, which sets up what the engine needs."""

    def load() -> type[RolloutReplica]:
        load_verls()
        return get_class(f"qwen3vl_rl.verl_ext.{server}.GroupReplica")

    return load


_ROLLOUT_REGISTRY["vllm", "async"] = "qwen3vl_rl.verl_ext.vllm_weights.OwnSocketAdapter"
RolloutReplicaRegistry.register("vllm", loader("vllm_server", replica._load_vllm))
RolloutReplicaRegistry.register("sglang", loader("sglang_server", replica._load_sglang))
