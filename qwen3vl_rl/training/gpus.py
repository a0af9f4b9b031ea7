"""Data sheets of the GPUs that the planner knows, and the state of the GPUs in this machine."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

DRIVER_MIB = 600  # part of nvidia-smi's total that the driver keeps for itself (measured on H100 and H200)


def visible_gib(total_mib: int) -> float:
    """Memory that programs can use, from nvidia-smi's `memory.total`."""
    return (total_mib - DRIVER_MIB) / 1024


@dataclass(frozen=True, slots=True)
class Gpu:
    """Data sheet values of one GPU: memory that programs can use, dense bfloat16 operations per second, and memory
    bandwidth."""

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
    """Memory of each visible GPU (CUDA_VISIBLE_DEVICES). Empty without an NVIDIA driver."""
    return [int(mib) for mib in _ask("memory.total")]


def gpu_used_mib() -> list[int]:
    """Memory in use on each visible GPU, by all processes. Raises ValueError if the driver does not report it."""
    return [int(mib) for mib in _ask("memory.used")]


def gpu_busy_percent() -> list[int]:
    """Utilization of each visible GPU: the share of the last sampling period in which a kernel ran."""
    return [int(percent) for percent in _ask("utilization.gpu")]


def gpu_names() -> list[str]:
    """The name of each visible GPU, such as `NVIDIA H100 80GB HBM3`."""
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
