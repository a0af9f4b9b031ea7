"""An sglang rollout server that returns all answers to a prompt for one request (see `shared_request.py`).

sglang prepares an image once per request: 256 times for 256 requests that answer 16 prompts.
"""

from collections.abc import AsyncGenerator
from typing import Any

import ray
from sglang.srt.managers.io_struct import GenerateReqInput
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.sglang_rollout.async_sglang_server import SGLangHttpServer, SGLangReplica

from qwen3vl_rl.verl_ext.shared_request import AnswersSharedRequests


class GroupServer(AnswersSharedRequests, SGLangHttpServer):
    """verl's server with shared requests."""

    async def launch_server(self, *args, **kwargs) -> None:
        await super().launch_server(*args, **kwargs)
        if manager := self.tokenizer_manager:  # only on the first node of an engine
            self._generate, manager.generate_request = manager.generate_request, self._generate_next

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: list | None = None,
        **options: Any,
    ) -> TokenOutput:
        count = sampling_params.get("n", 1)
        if image_data and count > 1:  # sglang expects a batch of one prompt with all its images
            image_data = [image_data]
        try:
            return await super().generate(prompt_ids, sampling_params, request_id, image_data=image_data, **options)
        finally:  # sglang registers an id for every answer, replaces them all and removes only the first
            for number in range(count if count > 1 else 0):
                self.tokenizer_manager.rid_to_state.pop(f"{request_id}_{number}", None)

    def _generate_next(self, request: GenerateReqInput, *rest: Any) -> AsyncGenerator[dict | list[dict]]:
        """Replaces sglang's `generate_request`, which changes the request's id."""
        name = request.rid if isinstance(request.rid, str) else None  # a batch has a list of ids
        return self.take_turns(name, self._generate(request, *rest), list)


class GroupReplica(SGLangReplica):
    """verl's replica with our server."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(GroupServer)
