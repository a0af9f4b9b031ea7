"""A vLLM server of rollouts that gives all answers to a prompt for one request.

verl 0.9.1 returns the first output of a request alone, so that its agent loops send a request, with the image, for
every answer, and vLLM sends back each answer after every token, as text too. Here a request whose sampling parameters
have `n` (see `agent_loop.py`) gets its `n` answers at once, as tokens alone, when the last one ends.
"""

from collections.abc import AsyncGenerator
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind

from qwen3vl_rl.verl_ext.agent_loop import ANSWERS

STOP_REASONS = {"stop": "completed", "length": "completed", "abort": "aborted"}  # vLLM's in verl's words


class GroupServer(vLLMHttpServer):
    """verl's server; see the module."""

    async def run_server(self, args) -> None:
        await super().run_server(args)
        self._outputs: dict[str, list[CompletionOutput]] = {}  # of the requests that are under way
        self._generate, self.engine.generate = self.engine.generate, self._generate_and_keep

    async def _generate_and_keep(self, *, request_id: str, **options: Any) -> AsyncGenerator[RequestOutput]:
        """What vLLM yields; verl's server reads the first output of the last one, ours the others."""
        async for result in self._generate(request_id=request_id, **options):
            if request_id in self._outputs:
                self._outputs[request_id] = result.outputs
            yield result

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        """The first answer; where `sampling_params` have `n`, with all of them in `extra_fields[ANSWERS]`."""
        if "n" not in sampling_params:
            return await super().generate(prompt_ids, sampling_params, request_id, **options)
        whole = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": False}
        self._outputs[request_id] = []
        try:
            first = await super().generate(prompt_ids, sampling_params | whole, request_id, **options)
        finally:
            outputs = self._outputs.pop(request_id)
        answers = [first.model_copy(update=fields_of(output)) for output in outputs]
        return first.model_copy(update={"extra_fields": first.extra_fields | {ANSWERS: answers}})


def fields_of(output: CompletionOutput) -> dict[str, Any]:
    """What differs from answer to answer in verl's `TokenOutput`."""
    tokens, likely = output.token_ids, output.logprobs
    return {
        "token_ids": list(tokens),
        "log_probs": likely and [words[token].logprob for token, words in zip(tokens, likely, strict=True)],
        "routed_experts": output.routed_experts,
        "stop_reason": STOP_REASONS.get(output.finish_reason, output.finish_reason),
    }


class GroupReplica(vLLMReplica):
    """verl's replica, with our server."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
