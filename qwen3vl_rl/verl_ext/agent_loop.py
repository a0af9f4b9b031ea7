"""Prompts of rollouts: made once for all answers, asked once, and their images sent to the trainer as bytes.

verl 0.9.1 decodes the image of a prompt and writes out its tokens for every answer, runs the image processor three
times for each, and hands the trainer what comes out: 1.9 GB of floats for the 256 answers to 16 prompts with images of
640 x 480 px, fetched again for every pass. Here all that is done once (see `models/prepared_images.py`).

verl resizes each image before the image processor does, to multiples of two patches. Its filter of lengths takes
`data.image_patch_size` for the patch; its rollouts take the processor's own. Here rollouts follow the key, too. With
14, as in the release, images become multiples of 28 first, and some get another token grid: 500 x 375 px becomes
512 x 352 instead of 512 x 384.

verl runs one agent loop for each answer, and gives those of a prompt the same message objects, which is how they are
known to belong together. The first to be ready asks the server for the answers of all (`shared_request.py`). In verl's
asynchronous modes each asks for its own, as they interrupt and resume single answers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any

from PIL.Image import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from qwen3vl_rl.data.pictures import open_picture, to_rgb
from qwen3vl_rl.models.prepared_images import PreparedImages

NAME = "image_once"
REMOTE = ("http://", "https://", "data:")  # left to verl
SHARING = ("vllm", "sglang")  # engines whose servers are ours
ANSWERS = "answers"  # the key of `TokenOutput.extra_fields` with the answers to a shared request
MEDIA = ("images", "videos", "audios")  # as verl's data set returns them


@register(NAME)
class ImageOnceAgentLoop(SingleTurnAgentLoop):
    """verl's single turn; chosen with `rollout.agent.default_agent_loop`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.processor.image_processor, PreparedImages):  # one processor for all answers of a worker
            self.processor.image_processor = PreparedImages(self.processor.image_processor)
        rollout = self.rollout_config
        self._may_share = (
            rollout.name in SHARING
            and self.config.trainer.v1.trainer_mode == "sync"
            and not rollout.disaggregation.enabled  # whose servers give the first answer alone
            and (rollout.name != "sglang" or self._sglang_may_share())
        )

    def _sglang_may_share(self) -> bool:
        """sglang 0.5.12 releases an adapter once too often for a shared request, and a picture in shared memory, which
        it uses where it has a tokenizer, too early."""
        model = self.config.actor_rollout_ref.model
        lora = model.get("lora", {})
        has_adapter = (model.get("lora_rank") or lora.get("rank")) and not lora.get("merge")
        return not has_adapter and self.rollout_config.skip_tokenizer_init

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> AgentLoopOutput:
        if self._may_share and sampling_params["temperature"] > 0:  # engines give one answer without sampling
            self.server_manager = self._join_request(fields["raw_prompt"], sampling_params)
        return await super().run(sampling_params, **fields)

    def _join_request(self, messages: list[dict], sampling_params: dict[str, Any]) -> "SharedRequest":
        """verl starts the loops of a prompt before any of them can be ready to ask: the request knows all of them."""
        requests, client = self.processor.image_processor.prompts["requests"], self.server_manager
        request = requests.get([*messages, sampling_params], lambda: SharedRequest(client))
        request.answers_wanted += 1
        return request

    async def process_multi_modal_info(self, messages: list[dict]) -> dict:
        return dict(await self._once("decoded", messages, partial(self._decode, messages)))

    async def _decode(self, messages: list[dict]) -> dict:
        """Pictures opened as in all stages, then resized by verl for the patch size of the recipe."""
        opened, config = await asyncio.to_thread(with_pictures, messages), self.data_config
        found = await self.dataset_cls.process_multi_modal_info(opened, config.image_patch_size, config)
        return {name: media for name, media in zip(MEDIA, found, strict=True) if media is not None}

    async def ct_build_initial_tokens(self, messages: list[dict], tools=None, **media) -> list[int]:
        tokenize = partial(super().ct_build_initial_tokens, messages, tools, **media)
        if tools or media.get("videos") or media.get("audios"):  # of which verl wants more than tokens
            return await tokenize()
        return list(await self._once("tokens", messages, tokenize))

    async def _once(self, what: str, messages: list[dict], make: Callable[[], Coroutine]) -> Any:
        """What `make` gives the first answer to a prompt that asks; the others wait for it."""
        made = self.processor.image_processor.prompts[what]
        task = made.get(messages, lambda: asyncio.ensure_future(make()))
        return await asyncio.shield(task)  # an answer that is given up does not stop the others


class SharedRequest:
    """Takes the place of verl's client: one request for the answers to a prompt, of which each caller gets its own."""

    def __init__(self, client: LLMServerClient):
        self.answers_wanted = 0
        self._client = client
        self._asked: asyncio.Task | None = None
        self._shares = count()

    async def generate(self, request_id: str, *, sampling_params: dict[str, Any], **prompt: Any) -> TokenOutput:
        if self._asked is None:
            whole = sampling_params | {"n": self.answers_wanted}
            self._asked = asyncio.ensure_future(self._client.generate(request_id, sampling_params=whole, **prompt))
        share = next(self._shares)
        found = await asyncio.shield(self._asked)  # an answer that is given up does not stop the others
        fields = {name: value for name, value in found.extra_fields.items() if name != ANSWERS}
        return found.extra_fields[ANSWERS][share].model_copy(update={"extra_fields": fields})


def with_pictures(messages: list[dict]) -> list[dict]:
    """The messages with each picture opened that they name by its path, or hold."""
    return [message | {"content": _opened(message["content"])} for message in messages]


def _opened(content: str | list[dict]) -> str | list[dict]:
    if isinstance(content, str):
        return content
    return [part | {"image": _picture(part["image"])} if "image" in part else part for part in content]


def _picture(image: str | Image) -> str | Image:
    if isinstance(image, Image):
        return to_rgb(image)
    return image if image.startswith(REMOTE) else open_picture(image.removeprefix("file://"))
