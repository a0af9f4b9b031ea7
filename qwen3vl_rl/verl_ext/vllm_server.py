"""A vLLM server of rollouts that gives all answers to a prompt for one request (see `shared_request.py`).

vLLM sends back each answer after every token, as text too; for a shared request, as tokens alone, when the last one
ends.
"""

from collections.abc import AsyncGenerator
from copy import copy
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
        return quantization, overrides | {"text_config": {"max_position_embeddings": self.config.max_model_len}}

    async def _generate_next(self, *, request_id: str, **options: Any) -> AsyncGenerator[RequestOutput]:
        """What vLLM yields; of a shared request the next answer."""
        results = self._generate(request_id=request_id, **options)
        if request_id in self._answers:
            yield await self.next_answer(request_id, results, split)
            return
        async for result in results:
            yield result


def split(result: RequestOutput) -> list[RequestOutput]:
    """One result for each of its outputs."""
    singles = [copy(result) for _ in result.outputs]
    for single, output in zip(singles, result.outputs, strict=True):
        single.outputs = [output]
    return singles


class GroupReplica(vLLMReplica):
    """verl's replica, with our server."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
