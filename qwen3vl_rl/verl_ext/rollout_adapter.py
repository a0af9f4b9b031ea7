"""Our adapter replaces verl 0.9.1's as the actor's side of vLLM rollouts. Naming it imports no vLLM."""

from verl.workers.rollout.base import _ROLLOUT_REGISTRY

_ROLLOUT_REGISTRY["vllm", "async"] = "qwen3vl_rl.verl_ext.vllm_weights.OwnSocketAdapter"
