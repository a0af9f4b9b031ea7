"""A vLLM server of rollouts that gives all answers to a prompt for one request (see `shared_request.py`).

vLLM sends back each answer after every token, as text too; for a shared request, as tokens alone, when the last one
ends.
"""

from collections.abc import AsyncGenerator, Iterable
from copy import copy
from itertools import repeat
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from qwen3vl_rl.verl_ext.shared_request import AnswersSharedRequests

WHOLE = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}


class GroupServer(AnswersSharedRequests, vLLMHttpServer):
    """verl's server; see the module."""

    async def run_server(self, args) -> None:
        await super().run_server(args)
        self._generate, self.engine.generate = self.engine.generate, self._generate_next

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        whole = WHOLE if "n" in sampling_params else {}
        return await super().generate(prompt_ids, sampling_params | whole, request_id, **options)

    def _apply_quantization(self) -> tuple[str | None, dict[str, Any]]:
        """verl's, and rotations for the positions that rollouts can have. vLLM holds those of four times the positions
        that the model knows, 256 MB of Qwen3-VL, and copies them to the host and back whenever it sleeps."""
        quantization, overrides = super()._apply_quantization()
        own_length = "max_model_len" in ((self.config.engine_kwargs or {}).get("vllm") or {})
        if own_length or getattr(self.model_config.hf_config, "text_config", None) is None:
            return quantization, overrides
        return quantization, overrides | {"text_config": {"max_position_embeddings": self.config.max_model_len}}

    def _generate_next(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput]:
        """In the place of vLLM's `generate`."""
        return self.take_turns(request_id, self._generate(prompt, sampling_params, request_id, **options), split)


def split(result: RequestOutput) -> Iterable[RequestOutput]:
    """One result for each of its outputs; of a request that was aborted, which has none, itself for every answer."""
    if not result.outputs:
        return repeat(result)
    singles = [copy(result) for _ in result.outputs]
    for single, output in zip(singles, result.outputs, strict=True):
        single.outputs = [output]
    return singles


class GroupReplica(vLLMReplica):
    """verl's replica, with our server."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
