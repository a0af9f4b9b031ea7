"""Rollout prompts: prepared once for all answers, requested once, and their images sent to the trainer as bytes.

For every answer, verl 0.9.1 decodes the prompt's image, tokenizes the prompt and runs the image processor three times.
It sends the trainer 1.9 GB of floats for 256 answers to 16 prompts with images of 640 x 480 px, which are fetched again
for every pass. Here each prompt is prepared once (see `models/prepared_images.py`).

verl resizes each image to multiples of two patches before the image processor does. Its length filter takes the patch
size from `data.image_patch_size`, its rollouts from the processor. Here rollouts also use the config key. With 14, as
in the release, images become multiples of 28 first, and some get another token grid: 500 x 375 px becomes 512 x 352
instead of 512 x 384.

verl runs one agent loop per answer and gives all loops of a prompt the same message objects. Loops are grouped by the
identity of these objects. The first loop that is ready requests the answers of all (`shared_request.py`). In verl's
asynchronous modes each loop requests its own answer, because these modes interrupt and resume single answers.
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

from qwen3vl_rl.data.pictures import fetch_picture, open_picture, to_rgb
from qwen3vl_rl.models.families import find_family
from qwen3vl_rl.models.prepared_images import PreparedImages

NAME = "image_once"
REMOTE = ("http://", "https://", "data:")
SHARING = ("vllm", "sglang")  # rollout engines whose servers are ours
ANSWERS = "answers"  # key of `TokenOutput.extra_fields` that holds the answers to a shared request
MEDIA = ("images", "videos", "audios")  # in the order in which verl's data set returns them


@register(NAME)
class ImageOnceAgentLoop(SingleTurnAgentLoop):
    """verl's single-turn loop; selected with `rollout.agent.default_agent_loop`."""

    def __init__(self, *args, hf_model_type: str, **kwargs):
        super().__init__(*args, hf_model_type=hf_model_type, **kwargs)
        self._family = find_family({"model_type": hf_model_type})
        if not isinstance(self.processor.image_processor, PreparedImages):  # once per worker
            self.processor.image_processor = PreparedImages(self.processor.image_processor, self._family.prompts)
        rollout = self.rollout_config
        self._may_share = (
            rollout.name in SHARING
            and self.config.trainer.v1.trainer_mode == "sync"
            and not rollout.disaggregation.enabled  # its servers return only the first answer
            and (rollout.name != "sglang" or self._sglang_may_share())
        )

    def _sglang_may_share(self) -> bool:
        """Whether sglang 0.5.12 can serve shared requests. It releases an adapter once too often for them. With a
        tokenizer, it keeps images in shared memory, which it releases too early."""
        model = self.config.actor_rollout_ref.model
        lora = model.get("lora", {})
        has_adapter = (model.get("lora_rank") or lora.get("rank")) and not lora.get("merge")
        return not has_adapter and self.rollout_config.skip_tokenizer_init

    async def run(self, sampling_params: dict[str, Any], **fields: Any) -> AgentLoopOutput:
        if self._may_share and sampling_params["temperature"] > 0:  # without sampling, engines return one answer
            self.server_manager = self._join_request(fields["raw_prompt"], sampling_params)
        return await super().run(sampling_params, **fields)

    def _join_request(self, messages: list[dict], sampling_params: dict[str, Any]) -> "SharedRequest":
        """Add an answer to the shared request of a prompt. verl starts all its loops before any of them can send it."""
        requests, client = self.processor.image_processor.prompts["requests"], self.server_manager
        request = requests.get([*messages, sampling_params], lambda: SharedRequest(client))
        request.answers_wanted += 1
        return request

    async def process_multi_modal_info(self, messages: list[dict]) -> dict:
        return dict(await self._once("decoded", messages, partial(self._decode, messages)))

    async def _decode(self, messages: list[dict]) -> dict:
        """Open the images as all stages do. verl then resizes those of some families for the recipe's patch size."""
        opened, config = await asyncio.to_thread(with_pictures, messages), self.data_config
        if not self._family.resizes_first:
            return {"images": found} if (found := pictures_of(opened)) else {}
        found = await self.dataset_cls.process_multi_modal_info(opened, config.image_patch_size, config)
        return {name: media for name, media in zip(MEDIA, found, strict=True) if media is not None}

    async def ct_build_initial_tokens(self, messages: list[dict], tools=None, **media) -> list[int]:
        tokenize = partial(super().ct_build_initial_tokens, messages, tools, **media)
        if tools or media.get("videos") or media.get("audios"):  # verl needs more than tokens for these
            return await tokenize()
        return list(await self._once("tokens", messages, tokenize))

    async def _once(self, what: str, messages: list[dict], make: Callable[[], Coroutine]) -> Any:
        """The result of `make`, called for the first answer to a prompt. The other answers wait for it."""
        made = self.processor.image_processor.prompts[what]
        task = made.get(messages, lambda: asyncio.ensure_future(make()))
        return await asyncio.shield(task)  # a cancelled answer does not cancel the others


class SharedRequest:
    """Replaces verl's client: sends one request for all answers to a prompt and gives each caller one of them."""

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
        found = await asyncio.shield(self._asked)  # a cancelled answer does not cancel the others
        fields = {name: value for name, value in found.extra_fields.items() if name != ANSWERS}
        return found.extra_fields[ANSWERS][share].model_copy(update={"extra_fields": fields})


def with_pictures(messages: list[dict]) -> list[dict]:
    """The messages with all images opened, which they hold or name by their paths or URLs."""
    return [message | {"content": _opened(message["content"])} for message in messages]


def pictures_of(messages: list[dict]) -> list[Image]:
    """All images of messages that `with_pictures` has opened."""
    parts = (part for message in messages if not isinstance(message["content"], str) for part in message["content"])
    return [part["image"] for part in parts if part.get("image")]


def _opened(content: str | list[dict]) -> str | list[dict]:
    if isinstance(content, str):
        return content
    named = [part.get("image") or part.get("image_url") for part in content]
    return [part | {"image": _picture(image)} if image else part for part, image in zip(content, named, strict=True)]


def _picture(image: str | Image) -> Image:
    if isinstance(image, Image):
        return to_rgb(image)
    return fetch_picture(image) if image.startswith(REMOTE) else open_picture(image.removeprefix("file://"))
