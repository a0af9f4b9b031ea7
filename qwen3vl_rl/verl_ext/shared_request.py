"""A rollout server of any engine that returns all answers to a prompt for one request.

verl 0.9.1's servers return only the first answer, so that its agent loops send one request with the image per answer.
Here a request whose sampling parameters have `n` (see `agent_loop.py`) gets its `n` answers at once.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from verl.workers.rollout.replica import TokenOutput

from qwen3vl_rl.verl_ext.agent_loop import ANSWERS


class AnswersSharedRequests:
    """A mixin for verl's servers. verl's `generate` runs once per answer and reads it in verl's way.

    Only the first run calls the engine, because the server passes the engine's results through `take_turns`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._answers: dict[str, Iterator | None] = {}  # of active shared requests; None until the engine is done

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **options: Any
    ) -> TokenOutput:
        """The first answer. If `sampling_params` have `n`, its `extra_fields[ANSWERS]` holds all answers."""
        generate_one, count = super().generate, sampling_params.get("n")
        if count is None:
            return await generate_one(prompt_ids, sampling_params, request_id, **options)
        if count == 1:  # engines answer this in another form
            alone = {name: value for name, value in sampling_params.items() if name != "n"}
            found = [await generate_one(prompt_ids, alone, request_id, **options)]
            return with_answers(found)
        self._answers[request_id] = None
        try:  # a copy, because verl changes it
            found = [await generate_one(prompt_ids, dict(sampling_params), request_id, **options) for _ in range(count)]
        finally:
            del self._answers[request_id]
        return with_answers(found)

    async def take_turns(
        self, request_id: str | None, results: AsyncIterator, split: Callable[[Any], Iterable]
    ) -> AsyncGenerator[Any]:
        """The engine's results. For a shared request, the next of its answers.

        The results of a shared request are read once, for the first answer. `split` divides the last one into answers.
        """
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
    """The first answer, with all answers in its extra fields."""
    return found[0].model_copy(update={"extra_fields": found[0].extra_fields | {ANSWERS: found}})
