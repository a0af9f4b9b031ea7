"""The client: asks a server every question once, with bounded concurrency, and hands over answers as they finish."""

import asyncio
import base64
import mimetypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import aiohttp

from qwen3vl_rl.data.predictions import Prediction, Question, score, vote
from qwen3vl_rl.evaluation.serving.server import EngineError
from qwen3vl_rl.evaluation.serving.settings import PARSERS, Settings
from qwen3vl_rl.grounding import render_prompt, target_text

ATTEMPTS = 6
FIRST_WAIT_S = 0.5  # doubled after each attempt
REQUEST_TIMEOUT_S = 900  # one whole answer of the recipe's 4,096 tokens under load
ENCODED_IMAGES = 256  # kept, since rows about one image follow one another

# What a reasoning that reached its budget is continued with: the end of the reasoning and the answer up to its numbers.
FORCED_ANSWER = target_text("", (0, 0, 0, 0), "").partition("0")[0]


class RequestFailed(Exception):
    """The server refused this request, or failed on it in every attempt."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and how. `by_path`: the server reads images from our disk; otherwise they travel in the request."""

    url: str
    model: str
    images: Path
    by_path: bool
    settings: Settings
    timeout_s: float = REQUEST_TIMEOUT_S


def warm_up(target: Target, questions: Sequence[Question]) -> None:
    """Ask `questions` for answers that do not count. Raises EngineError where all are refused, or all of several of one
    split: no row shall say so."""
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
    """Ask `target` all `questions`, at most `concurrency` at a time; calls `finished` with each prediction.

    A request that fails for good becomes a prediction with an `error`. Raises EngineError where the server no longer
    answers at all: what is unfinished then stays open for the next run.
    """
    try:
        asyncio.run(_predict(target, questions, concurrency, finished))
    except ExceptionGroup as group:  # of the workers; the first failure stopped the others
        raise group.exceptions[0] from None


async def _predict(target: Target, questions: Sequence[Question], concurrency: int, finished) -> None:
    # The number of workers bounds the connections. aiohttp: at 64 requests in flight httpx takes 40 times the CPU.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=target.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        client = _Client(target, http)

        async def answer(question: Question) -> None:
            finished(await client.answer(question))

        await _each(iter(questions), answer, min(concurrency, len(questions)))


async def _each(items: Iterator, work, workers: int) -> None:
    """Run `work` on every item with so many workers; the first exception stops them all."""

    async def worker() -> None:
        for item in items:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    finish_reason: str | None


class _Client:
    def __init__(self, target: Target, http: aiohttp.ClientSession):
        self.target, self.settings, self.http = target, target.settings, http
        self._images = target.images.resolve()
        self._encoded = lru_cache(ENCODED_IMAGES)(self._encode)

    async def answer(self, question: Question) -> Prediction:
        """Ask one question. Of several answers, the one whose box overlaps the others most counts."""
        parser = PARSERS[self.settings.parser]
        try:
            answers, tokens, latency_s = await self._ask(question)
        except RequestFailed as failure:
            return score(question, "", parser=parser, error=str(failure))
        chosen = answers[vote([answer.text for answer in answers], parser)]
        return score(
            question,
            chosen.text,
            parser=parser,
            tokens=tokens,
            latency_s=round(latency_s, 6),
            finish_reason=chosen.finish_reason,
        )

    async def _ask(self, question: Question) -> tuple[list[_Answer], int, float]:
        """(answers, tokens generated for all of them, seconds)."""
        budget, count = self.settings.reasoning_tokens, self.settings.answers
        request = await self._request(question)
        if budget == 0:
            answers, tokens, latency_s = [_Answer("", "length")] * count, 0, 0.0
        else:
            limit = budget or self.settings.max_tokens
            answers, tokens, latency_s = await self._post(request | {"n": count, "max_tokens": limit})
        if budget is None:
            return answers, tokens, latency_s
        parts = (self._finish(_of_answer(request, number), answer, budget) for number, answer in enumerate(answers))
        finished = await asyncio.gather(*parts)
        answers = [answer for answer, _, _ in finished]
        return answers, tokens + sum(more for _, more, _ in finished), latency_s + max(s for _, _, s in finished)

    async def _finish(self, request: dict, answer: _Answer, budget: int) -> tuple[_Answer, int, float]:
        """The answer, if the budget cut it off with the rest that the model writes when told to answer now."""
        if answer.finish_reason != "length":
            return answer, 0, 0.0
        begun = answer_now(answer.text)
        turns = [*request["messages"], {"role": "assistant", "content": begun}]
        limit = self.settings.max_tokens - budget
        more = {"messages": turns, "max_tokens": limit, "add_generation_prompt": False, "continue_final_message": True}
        (rest,), tokens, latency_s = await self._post(request | more)
        return _Answer(begun + rest.text, rest.finish_reason), tokens, latency_s

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
        if self.target.by_path:
            return (self._images / image).as_uri()
        try:
            return await self._encoded(image)
        except OSError as error:
            raise RequestFailed(f"cannot read the image: {error}") from error

    def _encode(self, image: str) -> "asyncio.Task[str]":
        """One encoding, off the event loop, that all questions about the image wait for."""
        return asyncio.create_task(asyncio.to_thread(_data_url, self._images / image))

    async def _post(self, request: dict) -> tuple[list[_Answer], int, float]:
        """(answers, tokens generated for all of them, seconds of the attempt that brought them)."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            start = time.perf_counter()
            try:
                async with self.http.post(f"{self.target.url}/v1/chat/completions", json=request) as response:
                    if response.ok:
                        answers, tokens = _read_reply(await response.json(content_type=None))
                        return answers, tokens, time.perf_counter() - start
                    failure = f"HTTP {response.status}: {(await response.text(errors='replace'))[:300]}"
                    if response.status < 500 and response.status not in (408, 429):
                        raise RequestFailed(failure)  # asking again cannot help
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                failure = repr(error)
        if not await self._server_is_there():
            raise EngineError(f"the server stopped answering ({failure})")
        raise RequestFailed(f"{failure}, {ATTEMPTS} attempts")

    async def _server_is_there(self) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=30)
            async with self.http.get(f"{self.target.url}/v1/models", timeout=timeout) as response:
                return response.ok
        except (aiohttp.ClientError, TimeoutError):
            return False


def _of_answer(request: dict, number: int) -> dict:
    """The request for one of several answers by itself, with the seed that vLLM gives it when it draws them together.

    With one seed for all, answers that begin alike would be the same to the end.
    """
    return request | {"seed": request["seed"] + number} if "seed" in request else request


def answer_now(text: str) -> str:
    """A generation that was cut off, as the turn to continue: behind its reasoning the answer begins.

    Chat templates strip newlines around reasoning and answer, and a turn that they change cannot be continued.
    """
    parts = [part.strip() for part in text.split("</think>")]
    if len(parts) == 1 or not parts[-1]:
        return parts[0] + FORCED_ANSWER
    return f"{parts[0]}\n</think>\n\n{parts[-1]}"


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _read_reply(reply: object) -> tuple[list[_Answer], int]:
    """(answers, generated tokens of all). Raises ValueError for a reply of another shape."""
    try:
        # No reasoning parser runs on the server, so the content holds reasoning, `</think>` and answer.
        answers = [_Answer(one["message"]["content"] or "", one["finish_reason"]) for one in reply["choices"]]
        tokens = reply["usage"]["completion_tokens"]
        if not (answers and isinstance(tokens, int) and all(isinstance(answer.text, str) for answer in answers)):
            raise TypeError
        return answers, tokens
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"expected a chat completion, got {str(reply)[:300]}") from error
