"""GPUs: the data sheets of those that the planner knows, and the memory of those in this machine."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

DRIVER_MIB = 600  # of what nvidia-smi counts, about what the driver keeps and no program sees (H100, H200)


def visible_gib(total_mib: int) -> float:
    """The memory that a program sees of a GPU, from nvidia-smi's `memory.total`."""
    return (total_mib - DRIVER_MIB) / 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """Data sheet values of one GPU: memory that a program sees, dense bfloat16 operations and memory bytes a second."""

    name: str
    memory_gib: float
    flops: float
    memory_bytes_per_s: float


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu("A100", visible_gib(81_920), 312e12, 2.04e12),
    "h100": Gpu("H100", visible_gib(81_559), 989.5e12, 3.35e12),
    "h200": Gpu("H200", visible_gib(143_771), 989.5e12, 4.8e12),
}


def gpu_memories_mib() -> list[int]:
    """Memory of each GPU that CUDA_VISIBLE_DEVICES leaves; none where there is no NVIDIA driver."""
    return [int(mib) for mib in _ask("memory.total")]


def gpu_used_mib() -> list[int]:
    """What is in use on each of them, by whatever process. Raises ValueError where the driver does not say."""
    return [int(mib) for mib in _ask("memory.used")]


def gpu_busy_percent() -> list[int]:
    """Of each of them, how much of the last moment a kernel ran on it."""
    return [int(percent) for percent in _ask("utilization.gpu")]


def gpu_names() -> list[str]:
    """Such as `NVIDIA H100 80GB HBM3`."""
    return _ask("name")


def _ask(field: str) -> list[str]:
    query = ["nvidia-smi", f"--query-gpu=index,uuid,{field}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [[part.strip() for part in line.split(",")] for line in lines]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else visible.split(",")
    return [value for index, uuid, value in gpus if chosen is None or index in chosen or uuid in chosen]
