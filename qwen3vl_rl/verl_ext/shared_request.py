"""A rollout server that gives all answers to a prompt for one request, whichever its engine.

verl 0.9.1's servers return the first answer alone, so that its agent loops send a request, with the image, for every
answer. Here a request whose sampling parameters have `n` (see `agent_loop.py`) gets its `n` answers at once.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from verl.workers.rollout.replica import TokenOutput

from qwen3vl_rl.verl_ext.agent_loop import ANSWERS


class AnswersSharedRequests:
    """Mixed into a server of verl's. verl's `generate` runs once for each answer and reads it in verl's way, but its
    engine is asked once, by the first: the server passes the engine's results through `take_turns`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._answers: dict[str, Iterator | None] = {}  # of shared requests under way; None until the engine has ended

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        """The first answer; where `sampling_params` have `n`, with all of them in `extra_fields[ANSWERS]`."""
        generate_one, count = super().generate, sampling_params.get("n")
        if count is None:
            return await generate_one(prompt_ids, sampling_params, request_id, **options)
        if count == 1:  # which engines answer in another form
            alone = {name: value for name, value in sampling_params.items() if name != "n"}
            found = [await generate_one(prompt_ids, alone, request_id, **options)]
            return with_answers(found)
        self._answers[request_id] = None
        try:  # verl changes the parameters that it is given
            found = [await generate_one(prompt_ids, dict(sampling_params), request_id, **options) for _ in range(count)]
        finally:
            del self._answers[request_id]
        return with_answers(found)

    async def take_turns(
        self, request_id: str | None, results: AsyncIterator, split: Callable[[Any], Iterable]
    ) -> AsyncGenerator[Any]:
        """The engine's results; for a shared request, the next of the answers into which `split` divides its last
        result. The results of a shared request are read once, for its first answer."""
        if request_id not in self._answers:
            async for result in results:
                yield result
            return
        if self._answers[request_id] is None:
            async for result in results:
                last = result
            self._answers[request_id] = iter(split(last))
        yield next(self._answers[request_id])


def with_answers(found: list[TokenOutput]) -> TokenOutput:
    """The first of the answers, which carries all."""
    return found[0].model_copy(update={"extra_fields": found[0].extra_fields | {ANSWERS: found}})
