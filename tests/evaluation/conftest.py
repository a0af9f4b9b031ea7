"""Fixtures of the evaluation's tests: RefShapes on disk, handmade predictions, finished runs."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

import aiohttp
import pytest
from aiohttp import web

from qwen3vl_rl.data import refshapes
from qwen3vl_rl.data.predictions import Prediction, Question, append, score
from qwen3vl_rl.evaluation.run import Load, Run
from qwen3vl_rl.evaluation.scoring.results import Result, read_result
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Endpoint
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import px_to_1000, target_text


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A RefShapes folder with 6 samples per split."""
    folder = tmp_path_factory.mktemp("world")
    refshapes.build(folder, train=2, val=6, seed=3)
    return folder


@pytest.fixture
def copied_world(world, tmp_path) -> Path:
    """A copy of the evaluation files that a test may damage."""
    folder = tmp_path / "eval"
    folder.mkdir()
    for file in (world / "eval").glob("*.jsonl"):
        (folder / file.name).write_text(file.read_text())
    return folder


@pytest.fixture
def change_row() -> Callable[..., None]:
    """`change_row(file, number, field=value)` changes one row of a jsonl file."""

    def change(file, number, **changes):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[number - 1] |= changes
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


@pytest.fixture
def finished_runs(world, tmp_path) -> list[Path]:
    """Folders `base`, `sft`, `rl` of finished runs over RefShapes: all wrong, half right, all right."""
    questions = read_questions([world / "eval"], world / "images")
    folders = []
    for name, is_right in (("base", lambda i: False), ("sft", lambda i: i % 2 == 0), ("rl", lambda i: True)):
        folder = tmp_path / name
        server = Endpoint("http://localhost:1")  # never asked, because every row exists
        Run(folder, name, questions, load_settings(), server).write_config()
        with (folder / "predictions.jsonl").open("w") as file:
            for i, question in enumerate(questions):
                append(file, _answer(question, is_right(i)))
        Run(folder, name, questions, load_settings(), server).complete(world / "images", Load(concurrency=8))
        folders.append(folder)
    return folders


def _answer(question: Question, is_right: bool) -> Prediction:
    sample = question.sample
    xyxy_1000 = px_to_1000(sample.xyxy_px, sample.width, sample.height) if is_right else (0, 0, 20, 20)
    text = target_text(f"<i>{sample.sent}</i> & nothing else", xyxy_1000, sample.sent)
    return score(question, text, parser="strict", tokens=30, latency_s=0.25, finish_reason="stop")


@pytest.fixture
def answer() -> Callable[[Question, bool], Prediction]:
    """`answer(question, is_right)`: a scored answer."""
    return _answer


@pytest.fixture
def results(finished_runs) -> list[Result]:
    """The results of `finished_runs`."""
    return [read_result(folder) for folder in finished_runs]


@pytest.fixture
def scaled(finished_runs, tmp_path) -> Path:
    """A folder with the finished variants of one model."""
    out = tmp_path / "scaling"
    (out / "tiny").mkdir(parents=True)
    for run, name in zip(finished_runs, ("answers-4", "budget-16", "free"), strict=True):
        run.rename(out / "tiny" / name)
    return out


@pytest.fixture(scope="session")
def checkpoints(starter, rl_checkpoint) -> tuple[Path, Path]:
    """Two checkpoints of one architecture: the start and the end of the shared SFT → GRPO run."""
    return starter, rl_checkpoint


class FaultProxy:
    """A proxy between client and model server that breaks some requests; `plan` gives the fault of the n-th, if any.

    Faults: an HTTP status, `garbage` (half a JSON text), `shape` (JSON with other fields), `reset`, `stall`.
    """

    def __init__(self, url: str, plan: Callable[[int, str], str | None]):
        self._server_url, self._plan = url, plan
        self.outcomes: list[str | None] = []

    def __enter__(self) -> "FaultProxy":
        started = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        self.url, self._loop, self._end = started.result()
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self, started: Future) -> None:
        end = asyncio.Event()
        async with aiohttp.ClientSession(self._server_url) as self._http:
            app = web.Application(client_max_size=10**8)
            app.router.add_get("/v1/models", self._forward)
            app.router.add_post("/v1/chat/completions", self._answer)
            runner = web.AppRunner(app, handler_cancellation=True)  # a stalled request ends when its client leaves
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]
            started.set_result((f"http://127.0.0.1:{port}", asyncio.get_running_loop(), end))
            await end.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        fault = self._plan(len(self.outcomes), await request.text())
        self.outcomes.append(fault)
        if fault is None:
            return await self._forward(request)
        if fault == "reset":
            request.transport.abort()
        if fault == "stall":
            await asyncio.Event().wait()
        replies = {"garbage": '{"choices": [{"mess', "shape": '{"object": "error"}'}
        return web.Response(text=replies.get(fault), status=int(fault) if fault.isdigit() else 200)

    async def _forward(self, request: web.Request) -> web.Response:
        headers = {"Content-Type": "application/json"}
        body = await request.read()
        async with self._http.request(request.method, request.path, data=body, headers=headers) as reply:
            return web.Response(body=await reply.read(), status=reply.status, content_type=reply.content_type)


@pytest.fixture
def fault_proxy() -> type[FaultProxy]:
    return FaultProxy
