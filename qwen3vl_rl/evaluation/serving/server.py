"""The model servers that the evaluation uses: one that it starts, swaps weights in and stops, or a running one.

Both offer `load(model)`, which makes the server answer as that model and returns the name to request; `reset_caches()`;
`urls`, at which equal servers listen; `by_path`, whether the server reads images from our disk; and
`fingerprint(model)` and `describe()`, which cover all that affects the predictions.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import httpx

from qwen3vl_rl.data.openai_client import proxy_for
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.checkpoints import context_length, fingerprint, interchangeable, resolve_checkpoint
from qwen3vl_rl.evaluation.serving.engines import MAX_PROMPT_TOKENS, SERVED_NAME, Engine, device_name, on_cpu, replicas
from qwen3vl_rl.evaluation.serving.settings import Settings
from qwen3vl_rl.training import cpu, processes

START_TIMEOUT_S = 1800  # an 8B model with torch.compile and CUDA graphs on cold disks
SWAP_TIMEOUT_S = 600
LOG_LINES = 25


class EngineError(RuntimeError):
    """The server did not start, stopped, or refused a request."""


class Server:
    """A server that we start on a free local port. A context manager: leaving it stops the server, and nothing else.

    The first `load` starts it. A later one swaps the weights if the checkpoint allows it, and restarts otherwise. The
    server may read images below `images`, links resolved. Raises EngineError with the last lines of the log on failure.
    """

    by_path = True

    def __init__(
        self,
        engine: Engine,
        log: Path,
        images: Path,
        settings: Settings,
        arguments: Sequence[str] = (),
        *,
        gpu_share: float = 1.0,
    ):
        """gpu_share: of the memory that a server usually takes, with other servers on the same GPUs."""
        self.url, self.device, self._version = "", device_name(), engine.version
        self._engine, self._log, self._images = engine, log, images.resolve()
        self._settings, self._arguments, self._gpu_share = settings, arguments, gpu_share
        self._process: subprocess.Popen | None = None
        self._log_start = 0
        self._starting_since: float | None = None
        self._checkpoint: Path | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def load(self, checkpoint: str) -> str:
        try:
            self.begin(checkpoint)
            self.wait_until_healthy()
        except EngineError:
            self.stop()  # the next load starts it again
            raise
        return SERVED_NAME

    def begin(self, checkpoint: str) -> None:
        """Begin to load: a server that has to start is not waited for."""
        path = resolve_checkpoint(checkpoint)
        if self._checkpoint is None or (path != self._checkpoint and not self._can_swap(path)):
            self.stop()
            self._start(path)
        elif path != self._checkpoint:
            self._swap(path)
        self._checkpoint = path

    def reset_caches(self) -> None:
        """Reset the caches of prompts and images if the engine can, so that repeated questions take their full time."""
        if self._engine.reset_caches:
            self._tell("reset its caches", self._engine.reset_caches)

    def fingerprint(self, checkpoint: str) -> dict[str, str]:
        """Hashes of everything in the checkpoint that affects answers. Raises InputError if it is no checkpoint."""
        return fingerprint(resolve_checkpoint(checkpoint))

    def describe(self) -> dict:
        """The engine, and the flags that the user adds to ours."""
        return {"engine": self._engine.package, "version": self._version, "arguments": list(self._arguments)}

    def stop(self) -> None:
        """Stop the process group that `load` started, if any."""
        child, self._process, self._checkpoint, self._starting_since = self._process, None, None, None
        if child is not None:
            processes.stop(child)

    def describe_failure(self, what: str) -> str:
        """`what`, followed by the last lines of the server's log."""
        if not self._log.exists():
            return what
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        return f"{what}; the last lines of {self._log}:\n{tail}"

    def _can_swap(self, checkpoint: Path) -> bool:
        return self._engine.load_weights is not None and interchangeable(self._checkpoint, checkpoint)

    def _start(self, checkpoint: Path) -> None:
        if on_cpu():
            cpu.activate()
        port = _free_port()
        context, max_tokens = context_length(checkpoint), self._settings.max_tokens
        if max_tokens >= context:
            raise InputError(f"max_tokens: expected less than the model's context of {context}, got {max_tokens}")
        length = min(MAX_PROMPT_TOKENS + max_tokens, context)
        command = self._engine.command(checkpoint, length, self._images, self._settings, replicas(self._arguments))
        if self._gpu_share < 1:
            command += self._engine.share_gpu(checkpoint, self._gpu_share, self._arguments)
        command += ["--host", "127.0.0.1", "--port", str(port), *self._arguments]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._process = processes.start(command, self._log, self._engine.environment)
        self.url = f"http://127.0.0.1:{port}"
        self._starting_since = time.monotonic()
        _say(f"starting a server for {checkpoint}, log in {self._log}")

    def wait_until_healthy(self) -> None:
        """Wait for a server that is starting."""
        start, self._starting_since = self._starting_since, None
        if start is None:
            return
        while time.monotonic() < start + START_TIMEOUT_S:
            if (code := self._process.poll()) is not None:
                raise EngineError(self.describe_failure(f"the server exited with code {code} while starting"))
            if _is_healthy(self.url):
                return _say(f"ready after {time.monotonic() - start:.0f} s")
            time.sleep(0.2)
        raise EngineError(self.describe_failure(f"the server was not ready after {START_TIMEOUT_S} s"))

    def _swap(self, checkpoint: Path) -> None:
        _say(f"loading the weights of {checkpoint}")
        self._tell(f"take the weights of {checkpoint}", lambda client: self._engine.load_weights(client, checkpoint))

    def _tell(self, what: str, call: Callable[[httpx.Client], None]) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=SWAP_TIMEOUT_S, trust_env=False) as client:
                call(client)
        except httpx.HTTPError as error:
            raise EngineError(self.describe_failure(f"the server did not {what} ({error!r})")) from error


class Servers:
    """`count` equal servers on the same GPUs, each with its part of the memory. Used like a `Server`.

    One server often leaves the GPU idle, because its own processes are the bottleneck. Raises InputError if the engine
    cannot share a GPU.
    """

    by_path = True

    def __init__(
        self, count: int, engine: Engine, log: Path, images: Path, settings: Settings, arguments: Sequence[str] = ()
    ):
        if engine.share_gpu is None:
            raise InputError(f"--servers-per-gpu: expected 1 with {engine.package}, got {count}")
        logs = [log, *(log.with_stem(f"{log.stem}-{number}") for number in range(2, count + 1))]
        self._servers = [Server(engine, log, images, settings, arguments, gpu_share=1 / count) for log in logs]
        self.device = f"{device_name()}, {count} servers on each"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self._servers)

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        for server in self._servers:
            server.stop()

    def load(self, checkpoint: str) -> str:
        try:
            for server in self._servers:  # they start at once, because a start takes a minute or two
                server.begin(checkpoint)
            for server in self._servers:
                server.wait_until_healthy()
        except EngineError:
            self.stop()  # the next load starts them again
            raise
        return SERVED_NAME

    def reset_caches(self) -> None:
        for server in self._servers:
            server.reset_caches()

    def fingerprint(self, checkpoint: str) -> dict[str, str]:
        return self._servers[0].fingerprint(checkpoint)

    def describe(self) -> dict:
        return self._servers[0].describe()

    def describe_failure(self, what: str) -> str:
        return "\n".join(server.describe_failure(what) for server in self._servers)


def new_server(
    count: int, engine: Engine, log: Path, images: Path, settings: Settings, arguments: Sequence[str] = ()
) -> Server | Servers:
    """A server, or `count` of them on the same GPUs."""
    options = engine, log, images, settings, arguments
    return Server(*options) if count == 1 else Servers(count, *options)


class Endpoint:
    """A server that someone else runs. A model is given by the name under which it is served."""

    by_path = False  # it may run on another machine
    device = None  # unknown

    def __init__(self, url: str):
        self.url = url.rstrip("/").removesuffix("/v1")
        self.urls = (self.url,)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_) -> None:
        """Do nothing: the server belongs to someone else."""

    def load(self, model: str) -> str:
        """Raises InputError if the server does not serve `model`, or is not OpenAI-compatible."""
        served = served_models(self.url)
        if model not in served:
            raise InputError(f'{self.url}: expected a server of "{model}", it serves {", ".join(served) or "nothing"}')
        return model

    def reset_caches(self) -> None:
        """Do nothing: other clients may use the server's caches."""

    def fingerprint(self, model: str) -> dict[str, str]:
        """The name of the model and the URL, because its files are not accessible."""
        return {"weights": f"{model} at {self.url}"}

    def describe(self) -> dict:
        return {"endpoint": self.url}

    def describe_failure(self, what: str) -> str:
        return f"{what} ({self.url})"


AnyServer: TypeAlias = Server | Servers | Endpoint


def served_models(url: str) -> list[str]:
    """The models of an OpenAI-compatible server. Raises InputError if there is no such server."""
    try:
        listing = (
            httpx.get(f"{url}/v1/models", timeout=10, trust_env=False, proxy=proxy_for(url)).raise_for_status().json()
        )
        return [model["id"] for model in listing["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: expected an OpenAI-compatible server, /v1/models gave {error!r}") from error


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
