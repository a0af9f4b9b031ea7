"""The constants of the planner and their sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from qwen3vl_rl.training.memory import MemoryConstants


@dataclass(frozen=True, slots=True)
class Constants(MemoryConstants):
    """Achieved shares of the data sheet's rates, and costs that cannot be counted. `constants.yaml` has the values."""

    # Keys are hidden widths; `at_width` interpolates between the measured ones.
    update_utilisation: Mapping[int, float]  # share of the dense bfloat16 rate, with recomputation counted
    forward_utilisation: Mapping[int, float]
    compiled_speed: Mapping[int, float]  # speedup of both with compiled blocks
    decode_bandwidth_share: float  # share of the memory bandwidth while reading weights and cache
    decode_step_s: float  # per token, in addition to reading: launches, sampling, scheduling
    sequence_step_s: float  # per token and sequence of a batch
    request_s: float  # per answer of a rollout engine, on its host: preparation, transfer, scoring
    node_request_s: float  # per answer of a node, for what its engines do one after the other
    sglang_generation: float  # slowdown compared with vLLM, on which all other rollout constants are measured
    host_bytes_per_s: float  # between GPU and host memory, for offloading
    sync_bytes_per_s: float  # from actor to rollout engine
    fixed_step_s: float  # per step, independent of all of these
    node_bytes_per_s: float  # between GPUs of one node, per GPU
    network_bytes_per_s: float  # between nodes, per GPU
    disk_bytes_per_s: float  # of a node, while writing a checkpoint


def read_constants(path: Path | None = None) -> tuple[Constants, dict[str, str]]:
    """The constants, and the source of each."""
    text = path.read_text() if path else files("qwen3vl_rl.training.planner").joinpath("constants.yaml").read_text()
    entries = yaml.safe_load(text)
    return Constants(**{name: entry["value"] for name, entry in entries.items()}), {
        name: entry["source"] for name, entry in entries.items()
    }
