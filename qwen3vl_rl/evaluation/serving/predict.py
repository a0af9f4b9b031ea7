"""Asks a server every question once, with bounded concurrency, and passes on each prediction when it is finished."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from qwen3vl_rl.data.openai_client import Choice, Completion, NoReply, OpenAIClient, RequestFailed, for_each
from qwen3vl_rl.data.pictures import picture_url
from qwen3vl_rl.data.predictions import Prediction, Question, score, vote
from qwen3vl_rl.evaluation.serving.server import EngineError
from qwen3vl_rl.evaluation.serving.settings import PARSERS, Settings
from qwen3vl_rl.grounding import render_prompt, target_text

ATTEMPTS = 6
REQUEST_TIMEOUT_S = 900  # enough for an answer of the recipe's 4,096 tokens under load
NO_ANSWER = frozenset({"abort", "error", "content_filter", "tool_calls"})  # finish reasons that the model did not cause
ENCODED_IMAGES = 256  # cached, since rows about one image are consecutive

# Appended to reasoning that reached its budget: the end of the reasoning, and the answer up to its first number.
FORCED_ANSWER = target_text("", (0, 0, 0, 0), "").partition("0")[0]


@dataclass(frozen=True, slots=True)
class Target:
    """The servers to ask, and how to ask them.

    `urls`: of one server, or of several that give the same answers; one of them is asked all questions about an image,
    so that it encodes the image once.
    `by_path`: the server reads images from our disk. Otherwise the request contains them, as it always does for images
    that the server might decode differently.
    """

    urls: Sequence[str]
    model: str
    images: Path
    by_path: bool
    settings: Settings
    timeout_s: float = REQUEST_TIMEOUT_S


def warm_up(target: Target, questions: Sequence[Question]) -> None:
    """Ask `questions` without recording the answers.

    Raises EngineError if the server refuses all of them, or all of one split with more than one question. The run then
    stops instead of recording every row as failed.
    """
    answers: list[Prediction] = []
    predict(target, questions, len(questions), answers.append)
    if all(answer.error for answer in answers):
        raise EngineError(f"the server refused the first requests ({answers[0].error})")
    for split in {answer.split for answer in answers}:
        errors = [answer.error for answer in answers if answer.split == split]
        if len(errors) > 1 and all(errors):
            raise EngineError(f"the server refused the first requests of {split} ({errors[0]})")


def predict(
    target: Target, questions: Sequence[Question], concurrency: int, finished: Callable[[Prediction], None]
) -> None:
    """Ask `target` all `questions`, at most `concurrency` at a time, and call `finished` with each prediction.

    A request that fails for good becomes a prediction with an `error`. Raises EngineError if the server no longer
    answers at all. Unfinished questions are then left for the next run.
    """
    asyncio.run(_predict(target, questions, concurrency, finished))


def complete(target: Target, questions: Sequence[Question], **fields) -> list[Completion]:
    """The completions of `questions`, one after the other, with additional `fields` in the chat request.

    Raises RequestFailed if a request fails for good, and EngineError if the server is gone.
    """

    async def ask() -> list[Completion]:
        async with predictor_of(target) as predictor:
            return [await predictor(question).complete(question, **fields) for question in questions]

    return asyncio.run(ask())


async def _predict(target: Target, questions: Sequence[Question], concurrency: int, finished) -> None:
    async with predictor_of(target) as predictor:

        async def answer(question: Question) -> None:
            finished(await predictor(question).answer(question))

        await for_each(questions, answer, min(concurrency, len(questions)))


@asynccontextmanager
async def predictor_of(target: Target) -> AsyncIterator[Callable[[Question], "_Predictor"]]:
    """Yields a function from a question to the predictor of its server."""
    async with AsyncExitStack() as open_clients:
        clients = [
            await open_clients.enter_async_context(
                OpenAIClient(f"{url}/v1", attempts=ATTEMPTS, timeout_s=target.timeout_s)
            )
            for url in target.urls
        ]
        found = [_Predictor(target, client) for client in clients]
        yield lambda question: found[crc32(question.sample.image.encode()) % len(found)]


class _Predictor:
    def __init__(self, target: Target, client: OpenAIClient):
        self.target, self.settings, self.client = target, target.settings, client
        self._images = target.images.resolve()
        self._addressed = lru_cache(ENCODED_IMAGES)(self._address)

    async def answer(self, question: Question) -> Prediction:
        """Ask one question. Of several answers, the one whose box overlaps the others most is returned."""
        reading = {"parser": PARSERS[self.settings.parser], "coordinates": self.settings.coordinates}
        try:
            completion = await self._ask(question)
        except RequestFailed as failure:
            return score(question, "", **reading, error=str(failure))
        chosen = completion.choices[vote([choice.text for choice in completion.choices], **reading)]
        return score(
            question,
            chosen.text,
            **reading,
            tokens=completion.output_tokens,
            latency_s=round(completion.latency_s, 6),
            finish_reason=chosen.finish_reason,
        )

    async def complete(self, question: Question, **fields) -> Completion:
        """One completion, without the budget for reasoning."""
        return await self._complete(await self._request(question) | fields)

    async def _ask(self, question: Question) -> Completion:
        """All answers to one question, with their total tokens and the time until the last one."""
        budget, count = self.settings.reasoning_tokens, self.settings.answers
        request = await self._request(question)
        if budget == 0:
            begun = Completion((Choice("", "length"),) * count, 0, 0, 0.0)
        else:
            begun = await self._complete(request | {"n": count, "max_tokens": budget or self.settings.max_tokens})
        if budget is None:
            return begun
        parts = (
            self._finish(_of_answer(request, number), choice, budget) for number, choice in enumerate(begun.choices)
        )
        finished = await asyncio.gather(*parts)
        return Completion(
            choices=tuple(part.choices[0] for part in finished),
            input_tokens=begun.input_tokens,
            output_tokens=begun.output_tokens + sum(part.output_tokens for part in finished),
            latency_s=begun.latency_s + max(part.latency_s for part in finished),
        )

    async def _finish(self, request: dict, choice: Choice, budget: int) -> Completion:
        """The finished answer. If the budget cut it off, the model continues it from a forced start of the answer."""
        if choice.finish_reason != "length":
            return Completion((choice,), 0, 0, 0.0)
        begun = answer_now(choice.text)
        turns = [*request["messages"], {"role": "assistant", "content": begun}]
        limit = self.settings.max_tokens - budget
        more = {"messages": turns, "max_tokens": limit, "add_generation_prompt": False, "continue_final_message": True}
        rest = await self._complete(request | more)
        (end,) = rest.choices
        return replace(rest, choices=(Choice(begun + end.text, end.finish_reason),))

    async def _complete(self, request: dict) -> Completion:
        """A completion with its token count. Raises EngineError if the server is gone.

        The text of each choice holds reasoning, `</think>` and answer, even if a reasoning parser split them.
        """
        try:
            completion = await self.client.complete(request)
        except NoReply as failure:
            if await self.client.is_there():
                raise
            raise EngineError(f"the server stopped answering ({failure})") from failure
        if completion.output_tokens is None:
            raise RequestFailed("expected usage.completion_tokens in the server's reply, found none")
        if ended := next((c.finish_reason for c in completion.choices if c.finish_reason in NO_ANSWER), None):
            raise RequestFailed(f"the endpoint ended the answer itself ({ended})")
        return replace(completion, choices=tuple(map(with_reasoning, completion.choices)))

    async def _request(self, question: Question) -> dict:
        sample, settings = question.sample, self.settings
        prompt = settings.prompt if sample.modal_xyxy_px is None else settings.amodal_prompt
        content = [
            {"type": "image_url", "image_url": {"url": await self._image_url(sample.image)}},
            {"type": "text", "text": render_prompt(prompt, sample.sent)},
        ]
        messages = [{"role": "user", "content": content}]
        return {"model": self.target.model, "messages": messages, **settings.sampling(question.key)}

    async def _image_url(self, image: str) -> str:
        try:
            return await self._addressed(image)
        except OSError as error:
            raise RequestFailed(f"cannot read the image: {error}") from error

    def _address(self, image: str) -> "asyncio.Task[str]":
        """Read the file once, off the event loop. All questions about the image wait for this task."""
        return asyncio.create_task(asyncio.to_thread(picture_url, self._images / image, self.target.by_path))


def _of_answer(request: dict, number: int) -> dict:
    """The request for one of several answers, with the seed that vLLM uses for it when it samples them together.

    With a single seed, answers that begin with the same text would be identical.
    """
    return request | {"seed": request["seed"] + number} if "seed" in request else request


def with_reasoning(choice: Choice) -> Choice:
    """The choice with its reasoning put back into its text, as the model wrote it."""
    if not choice.reasoning:
        return choice
    answer = f"\n</think>\n\n{choice.text.lstrip()}" if choice.text else ""
    return replace(choice, text=choice.reasoning.strip() + answer, reasoning="")


def answer_now(text: str) -> str:
    """The turn to continue for a generation that was cut off: its reasoning, then the start of the answer.

    Newlines around reasoning and answer are stripped as chat templates do it, because a turn that the template changes
    cannot be continued.
    """
    parts = [part.strip() for part in text.split("</think>")]
    if len(parts) == 1 or not parts[-1]:
        return parts[0] + FORCED_ANSWER
    return f"{parts[0]}\n</think>\n\n{parts[-1]}"
