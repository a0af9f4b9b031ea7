"""A rollout server that gives all answers to a prompt for one request, whichever its engine.

verl 0.9.1's servers return the first answer alone, so that its agent loops send a request, with the image, for every
answer. Here a request whose sampling parameters have `n` (see `agent_loop.py`) gets its `n` answers at once.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from verl.workers.rollout.replica import TokenOutput

from qwen3vl_rl.verl_ext.agent_loop import ANSWERS


class AnswersSharedRequests:
    """Mixed into a server of verl's. verl's `generate` runs once for each answer and reads it in verl's way, but its
    engine is asked once, by the first: the server puts `next_answer` in the engine's place."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._answers: dict[str, Iterator | None] = {}  # of shared requests under way; None until the engine has ended

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        """The first answer; where `sampling_params` have `n`, with all of them in `extra_fields[ANSWERS]`."""
        generate_one = super().generate
        if "n" not in sampling_params:
            return await generate_one(prompt_ids, sampling_params, request_id, **options)
        self._answers[request_id] = None
        try:  # verl changes the parameters that it is given
            found = [
                await generate_one(prompt_ids, dict(sampling_params), request_id, **options)
                for _ in range(sampling_params["n"])
            ]
        finally:
            del self._answers[request_id]
        return found[0].model_copy(update={"extra_fields": found[0].extra_fields | {ANSWERS: found}})

    async def next_answer(self, request_id: str, results: AsyncIterator, split: Callable[[Any], list]) -> Any:
        """The next of the answers into which `split` takes the engine's last result; `results` are read once."""
        if self._answers[request_id] is None:
            async for result in results:
                last = result
            self._answers[request_id] = iter(split(last))
        return next(self._answers[request_id])
