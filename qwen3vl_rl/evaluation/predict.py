"""The client: asks a server every question once, with bounded concurrency, and hands over answers as they finish."""

import asyncio
import base64
import mimetypes
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from qwen3vl_rl.evaluation.predictions import Prediction, Question, score
from qwen3vl_rl.evaluation.server import EngineError
from qwen3vl_rl.evaluation.settings import Settings
from qwen3vl_rl.grounding import render_prompt

ATTEMPTS = 5
FIRST_WAIT_S = 0.5  # doubled after each attempt
REQUEST_TIMEOUT_S = 900  # one whole answer of the recipe's 4,096 tokens under load
WARM_UP_REQUESTS = 2


class RequestFailed(Exception):
    """The server refused this request, or failed on it in every attempt."""


def predict(
    questions: Sequence[Question],
    *,
    url: str,
    model: str,
    images: Path,
    reads_images_below: Path | None,
    settings: Settings,
    concurrency: int,
    finished: Callable[[Prediction], None],
) -> None:
    """Ask `model` at `url` all `questions`, at most `concurrency` at a time; calls `finished` with each prediction.

    A request that fails for good becomes a prediction with an `error`. Raises EngineError where the server no longer
    answers at all: what is unfinished then stays open for the next run.
    """
    client = _Client(url, model, images, reads_images_below, settings)
    try:
        asyncio.run(_predict(client, questions, concurrency, finished))
    except ExceptionGroup as group:  # of the workers; the first failure stopped the others
        raise group.exceptions[0] from None


async def _predict(client: "_Client", questions: Sequence[Question], concurrency: int, finished) -> None:
    async def answer(question: Question) -> None:
        finished(await client.answer(question))

    async with client.http:
        await _warm_up(client, questions[:WARM_UP_REQUESTS])
        await _each(iter(questions), answer, concurrency)


async def _warm_up(client: "_Client", questions: Sequence[Question]) -> None:
    """Requests that are not counted. If each of them fails, something is wrong with all: no row shall record that."""
    answers = [await client.answer(question) for question in questions]
    if answers and all(answer.error for answer in answers):
        raise EngineError(f"the server refused the first requests ({answers[0].error})")


async def _each(items: Iterator, work, concurrency: int) -> None:
    """Run `work` on every item with so many workers; the first exception stops them all."""

    async def worker() -> None:
        for item in items:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


class _Client:
    def __init__(self, url: str, model: str, images: Path, reads_images_below: Path | None, settings: Settings):
        self.model, self.settings = model, settings
        self.images, self.by_path = images.resolve(), reads_images_below is not None
        limits = httpx.Limits(max_connections=None)  # the number of workers is the bound
        self.http = httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, limits=limits, trust_env=False)

    async def answer(self, question: Question) -> Prediction:
        request = self._request(question, await self._image_url(question.sample.image))
        try:
            reply, latency_s = await self._post(request)
            text, tokens, reason = _read_reply(reply)
        except RequestFailed as failure:
            return score(question, "", parser=self.settings.parser, error=str(failure))
        return score(
            question, text, parser=self.settings.parser, tokens=tokens, latency_s=latency_s, finish_reason=reason
        )

    def _request(self, question: Question, image_url: str) -> dict:
        sample = question.sample
        content = [
            {"type": "image_url", "image_url": {"url": image_url}},
            {"type": "text", "text": render_prompt(sample.prompt_name, sample.sent)},
        ]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, **self.settings.sampling()}

    async def _image_url(self, image: str) -> str:
        path = self.images / image
        return path.as_uri() if self.by_path else await asyncio.to_thread(_data_url, path)

    async def _post(self, request: dict) -> tuple[dict, float]:
        """The reply and the latency of the attempt that brought it, seconds."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            start = time.perf_counter()
            try:
                response = await self.http.post("/v1/chat/completions", json=request)
                if response.is_success:
                    return response.json(), round(time.perf_counter() - start, 6)
                failure = f"HTTP {response.status_code}: {response.text[:300]}"
                if response.is_client_error and response.status_code not in (408, 429):
                    raise RequestFailed(failure)  # asking again cannot help
            except (httpx.TransportError, ValueError) as error:
                failure = repr(error)
        if not await self._server_is_there():
            raise EngineError(f"the server stopped answering ({failure})")
        raise RequestFailed(f"{failure}, {ATTEMPTS} attempts")

    async def _server_is_there(self) -> bool:
        try:
            return (await self.http.get("/v1/models", timeout=30)).is_success
        except httpx.TransportError:
            return False


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _read_reply(reply: dict) -> tuple[str, int, str | None]:
    """(text, generated tokens, finish reason). Raises RequestFailed for a reply of another shape."""
    try:
        choice = reply["choices"][0]
        # No reasoning parser runs on the server, so the content holds reasoning, `</think>` and answer.
        return choice["message"]["content"] or "", reply["usage"]["completion_tokens"], choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise RequestFailed(f"expected a chat completion, got {str(reply)[:300]} ({error!r})") from error
