"""A vLLM rollout server that returns all answers to a prompt for one request (see `shared_request.py`).

vLLM returns each answer after every token, also as text. For a shared request it returns only token ids, when the last
answer ends.
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

from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.verl_ext.shared_request import AnswersSharedRequests

WHOLE = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}


class GroupServer(AnswersSharedRequests, vLLMHttpServer):
    """verl's server with shared requests."""

    async def run_server(self, args) -> None:
        await super().run_server(args)
        self._generate, self.engine.generate = self.engine.generate, self._generate_next

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        whole = WHOLE if "n" in sampling_params else {}
        if options.get("image_data"):
            prompts = find_family({"model_type": self.model_config.hf_config.model_type}).prompts
            prompt_ids = prompts.engine_prompt(prompt_ids, self.model_config.processor)
        return await super().generate(prompt_ids, sampling_params | whole, request_id, **options)

    def _apply_quantization(self) -> tuple[str | None, dict[str, Any]]:
        """As in verl, with a rotary table for only the positions that rollouts can have.

        vLLM's table has four times the positions of the model, 256 MB for Qwen3-VL, which it copies to the host and
        back whenever it sleeps.
        """
        quantization, overrides = super()._apply_quantization()
        own_length = "max_model_len" in ((self.config.engine_kwargs or {}).get("vllm") or {})
        if own_length or getattr(self.model_config.hf_config, "text_config", None) is None:
            return quantization, overrides
        return quantization, overrides | {"text_config": {"max_position_embeddings": self.config.max_model_len}}

    def _generate_next(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput]:
        """Replaces vLLM's `generate`."""
        return self.take_turns(request_id, self._generate(prompt, sampling_params, request_id, **options), split)


def split(result: RequestOutput) -> Iterable[RequestOutput]:
    """One result per output. The result of an aborted request, which has no outputs, is repeated for every answer."""
    if not result.outputs:
        return repeat(result)
    singles = [copy(result) for _ in result.outputs]
    for single, output in zip(singles, result.outputs, strict=True):
        single.outputs = [output]
    return singles


class GroupReplica(vLLMReplica):
    """verl's replica with our server."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
