"""A client for OpenAI-compatible chat endpoints, shared by trace generation and evaluation."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from socket import gethostname
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # doubled after each attempt, unless the endpoint sends Retry-After
PROBE_TIMEOUT_S = 30
SHOWN_CHARACTERS = 300  # of an error response
PASSING = frozenset({408, 409, 425, 429})  # HTTP codes worth retrying, together with all from 500 on
OF_THE_ENDPOINT = frozenset({401, 402, 403, 404})  # wrong key, account, address or model: every request fails

Item = TypeVar("Item")


class RequestFailed(Exception):
    """The endpoint rejected this request and would reject it again."""


class EndpointFailed(RequestFailed):
    """The endpoint rejects every request, because of the key, the account, the address or the model."""


class NoReply(EndpointFailed):
    """No attempt returned a readable reply. The server may be down; check with `OpenAIClient.is_there`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One generated answer.

    `reasoning`: the reasoning that an endpoint with a reasoning parser returns apart from the text. `logprobs`:
    (token, log-probability) of each generated token, if the request asks for `logprobs`.
    """

    text: str
    finish_reason: str | None
    reasoning: str = ""
    logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The choices of one request and the token counts of all choices together; None if the endpoint reports no counts.

    `latency_s`: seconds of the successful attempt, from sending the request to receiving the complete reply.
    """

    choices: tuple[Choice, ...]
    input_tokens: int | None
    output_tokens: int | None
    latency_s: float


class OpenAIClient:
    """An async context manager. `base_url` ends in `/v1`; `timeout_s` applies to one attempt.

    The number of connections is not limited. Of the environment's settings only the proxies are used, see `proxy_for`.
    It uses aiohttp because httpx needs 40 times the CPU time at 64 concurrent requests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        attempts: int,
        timeout_s: float,
        api_key: str | None = None,
        api_version: str | None = None,
    ):
        """`api_version`: set for Azure, where `base_url` is the address of a deployment,
        https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT."""
        self._url, self._attempts = base_url.rstrip("/") + "/", attempts
        self._proxy = proxy_for(base_url)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = (
            ({"api-key": api_key} if api_version else {"Authorization": f"Bearer {api_key}"}) if api_key else {}
        )
        self._query = {"api-version": api_version} if api_version else {}

    async def __aenter__(self) -> "OpenAIClient":
        self._http = aiohttp.ClientSession(
            self._url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=self._timeout,
            headers=self._headers,
            trust_env=False,  # True would also read ~/.netrc, whose password would replace the key
        )
        return self

    async def __aexit__(self, *_) -> None:
        await self._http.close()

    async def complete(self, request: dict) -> Completion:
        """Send a chat request, and retry it after a wait if that may help.

        Raises RequestFailed or EndpointFailed if a retry cannot help, and NoReply if no attempt succeeded.
        """
        for attempt in range(1, self._attempts + 1):
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            start = time.perf_counter()
            try:
                async with self._http.post(
                    "chat/completions", json=request, params=self._query, proxy=self._proxy
                ) as response:
                    if response.ok:
                        reply = await response.json(content_type=None)
                        return read_completion(reply, time.perf_counter() - start)
                    said = await response.text(errors="replace")
                    failure = f"HTTP {response.status}: {said[:SHOWN_CHARACTERS]}"
                    if response.status < 500 and response.status not in PASSING:
                        raise (EndpointFailed if response.status in OF_THE_ENDPOINT else RequestFailed)(failure)
                    wait_s = retry_after_s(response.headers.get("Retry-After")) or wait_s
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"[:SHOWN_CHARACTERS]
            if attempt < self._attempts:
                await asyncio.sleep(wait_s)
        raise NoReply(f"{failure}, {self._attempts} attempts")

    async def is_there(self) -> bool:
        """Whether the endpoint lists its models."""
        try:
            timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
            async with self._http.get("models", timeout=timeout, proxy=self._proxy) as response:
                return response.ok
        except (aiohttp.ClientError, TimeoutError):
            return False


def proxy_for(url: str) -> str | None:
    """The proxy for `url` from `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` of the environment.

    None for a server on this machine, because a proxy would resolve `localhost` to itself.
    """
    parts, proxies = urlsplit(url), getproxies()
    host = parts.hostname or ""
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or _is_here(host) or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_here(host: str) -> bool:
    with suppress(ValueError):
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    return host == "localhost" or host.endswith(".localhost") or host == gethostname()


def read_completion(reply: object, latency_s: float = 0.0) -> Completion:
    """Parse the completion in an endpoint's reply. Raises ValueError for anything else."""
    try:
        choices = tuple(_read_choice(choice) for choice in reply["choices"])
        usage = reply.get("usage") or {}
        tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not choices or not all(isinstance(count, int | None) for count in tokens):
            raise TypeError("no choices, or token counts that are not integers")
        return Completion(choices, *tokens, latency_s)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion ({type(error).__name__}: {error}): {str(reply)[:200]}") from None


def _read_choice(choice: dict) -> Choice:
    message = choice["message"]
    text, reasoning = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(text, str) or not isinstance(reasoning, str):
        raise TypeError(f"content is a {type(text).__name__}, reasoning a {type(reasoning).__name__}")
    scores = (choice.get("logprobs") or {}).get("content") or ()
    return Choice(text, choice.get("finish_reason"), reasoning, tuple((one["token"], one["logprob"]) for one in scores))


def retry_after_s(header: str | None) -> float | None:
    """Seconds from a `Retry-After` header, at most LONGEST_WAIT_S; None for a date, which is not supported."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(header)))
    except (TypeError, ValueError):
        return None


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Run `work` on every item, at most `concurrency` at a time. The first exception cancels the rest and is raised."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
