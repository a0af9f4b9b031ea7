"""The client against a server that fails on demand: what is retried, when, and what ends a request."""

import asyncio
import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from qwen3vl_rl.data import openai_client
from qwen3vl_rl.data.openai_client import (
    Choice,
    EndpointFailed,
    NoReply,
    OpenAIClient,
    RequestFailed,
    for_each,
    proxy_for,
    read_completion,
    retry_after_s,
)

GOOD = {
    "choices": [{"message": {"content": text}, "finish_reason": "stop"} for text in ("a", "b")],
    "usage": {"prompt_tokens": 900, "completion_tokens": 40},
}


def test_completions_are_read_with_tokens_and_latency():
    completion = read_completion(GOOD, 2.5)
    assert completion.choices == (Choice("a", "stop"), Choice("b", "stop"))
    assert (completion.input_tokens, completion.output_tokens, completion.latency_s) == (900, 40, 2.5)


def test_null_content_and_missing_usage_are_accepted():
    completion = read_completion({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})
    assert completion.choices == (Choice("", "stop"),)
    assert completion.input_tokens is completion.output_tokens is None


@pytest.mark.parametrize(
    "reply",
    [
        *({}, [], {"choices": []}, {"choices": [{}]}, {"choices": None}, None, {"error": "busy"}),
        {"choices": [{"message": {"content": ["parts"]}}]},
        GOOD | {"usage": {"completion_tokens": "forty"}},
    ],
)
def test_malformed_replies_raise_value_error(reply):
    with pytest.raises(ValueError, match="not a chat completion"):
        read_completion(reply)


@pytest.mark.parametrize(
    ("header", "seconds"), [("2", 2), ("-1", 0), ("9999", 60), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)]
)
def test_retry_after_header_is_parsed(header, seconds):
    assert retry_after_s(header) == seconds


class _Handler(BaseHTTPRequestHandler):
    """Answer posts with the codes in `server.codes`, then with 200; `server.asked` records (time, authorization)."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((time.monotonic(), self.headers["Authorization"]))
        self.server.last = self.path, self.headers["api-key"]
        code = self.server.codes.pop(0) if self.server.codes else 200
        content = json.dumps(GOOD).encode() if code == 200 else b"no"
        if code == 0:  # drop the connection
            return self.connection.close()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        if self.server.retry_after:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """Log nothing."""


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_WAIT_S", 0.001)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.codes, server.asked, server.retry_after = [], [], None
        thread = Thread(target=server.serve_forever, args=[0.01])  # s until it notices its end
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(endpoint, attempts=6, path="/v1", **options):
    """Return (completion or failure, whether the endpoint is there)."""

    async def run():
        url = f"http://127.0.0.1:{endpoint.server_port}{path}"
        async with OpenAIClient(url, attempts=attempts, timeout_s=5, **options) as client:
            try:
                found = await client.complete({"model": "m"})
            except RequestFailed as failure:
                found = failure
            return found, await client.is_there()

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_temporary_failures_are_retried(endpoint, path):
    endpoint.codes = [408, 409, 425, 429, 500, 503, 0]
    completion, there = ask(endpoint, attempts=8, path=path, api_key="secret")
    assert completion.choices[0].text == "a" and there
    assert [key for _, key in endpoint.asked] == ["Bearer secret"] * 8


def test_rejected_requests_are_not_retried(endpoint):
    endpoint.codes = [400]
    failure, _ = ask(endpoint)
    assert (type(failure), str(failure), len(endpoint.asked)) == (RequestFailed, "HTTP 400: no", 1)


@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_endpoint_errors_are_not_retried(endpoint, code):
    endpoint.codes = [code]
    failure, _ = ask(endpoint)
    assert (type(failure), len(endpoint.asked)) == (EndpointFailed, 1)


def test_failing_requests_do_not_mean_that_the_endpoint_is_down(endpoint):
    endpoint.codes = [500] * 3
    failure, there = ask(endpoint, attempts=3)
    assert (type(failure), str(failure), there) == (NoReply, "HTTP 500: no, 3 attempts", True)


def test_an_unreachable_endpoint_is_detected(endpoint):
    _, there = ask(endpoint, path="/elsewhere/v1")
    assert not there
    endpoint.server_port = 9  # no server listens there
    failure, there = ask(endpoint, attempts=2)
    assert isinstance(failure, NoReply) and str(failure).startswith("ClientConnectorError") and not there


def test_azure_requests_use_deployment_key_and_version(endpoint):
    path = "/openai/deployments/gpt-4.1"
    found, _ = ask(endpoint, path=path, api_key="secret", api_version="2024-12-01-preview")
    assert found.choices
    assert endpoint.last == (f"{path}/chat/completions?api-version=2024-12-01-preview", "secret")
    assert endpoint.asked[-1][1] is None


def test_retry_after_is_respected(endpoint):
    endpoint.codes, endpoint.retry_after = [429], "0.4"
    ask(endpoint)
    (first, _), (second, _) = endpoint.asked
    assert 0.4 <= second - first < 2


def test_concurrency_is_limited():
    running, most, done = 0, 0, []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done.append(item)

    asyncio.run(for_each(range(20), work, 3))
    assert most == 3 and sorted(done) == list(range(20))


def test_the_first_failure_stops_the_others_and_is_raised():
    done = []

    async def work(item: int) -> None:
        if item == 2:
            raise OSError("full")
        await asyncio.sleep(0.001 if item < 2 else 60)
        done.append(item)

    with pytest.raises(OSError, match="full"):
        asyncio.run(for_each(range(100), work, 4))
    assert set(done) <= {0, 1}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://api.example.org/v1", "http://proxy:3128"),
        ("https://api.example.org:8443/v1", "http://secure:3128"),  # a proxy without a scheme
        ("http://inside.example.com/v1", None),  # no_proxy
        ("http://127.0.0.1:8000/v1", None),
        ("http://127.8.8.8:8000/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://0.0.0.0:8000/v1", None),
        (f"http://{socket.gethostname()}:8000/v1", None),
    ],
)
def test_proxies_apply_only_to_other_machines(monkeypatch, url, proxy):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for(url) is None
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("https_proxy", "secure:3128")
    monkeypatch.setenv("no_proxy", "example.com")
    assert proxy_for(url) == proxy
