"""The constants of the planner, and where each comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from qwen3vl_rl.training.memory import MemoryConstants


@dataclass(frozen=True, slots=True)
class Constants(MemoryConstants):
    """How much of the data sheet is reached, and what counting does not give. `constants.yaml` has the values."""

    # By hidden width: `at_width` reads between the widths that were measured.
    update_utilisation: Mapping[int, float]  # of dense bfloat16 operations, recomputation counted
    forward_utilisation: Mapping[int, float]
    compiled_speed: Mapping[int, float]  # times as many of them with compiled blocks, in both
    decode_bandwidth_share: float  # of the memory's bytes a second, while weights and cache are read
    decode_step_s: float  # per token, beside reading: launches, sampling, scheduling
    sequence_step_s: float  # per token and sequence in a batch
    request_s: float  # per answer of a rollout engine, on its host: prepared, sent, scored
    node_request_s: float  # per answer of a node, of what its engines do one after the other
    sglang_generation: float  # times as long as with vLLM, of which all other constants of the rollouts are
    host_bytes_per_s: float  # between GPU and host memory, for what is offloaded
    sync_bytes_per_s: float  # from actor to rollout engine
    fixed_step_s: float  # what depends on none of these
    node_bytes_per_s: float  # between GPUs of one node, per GPU
    network_bytes_per_s: float  # between nodes, per GPU
    disk_bytes_per_s: float  # of a node, while a checkpoint is written


def read_constants(path: Path | None = None) -> tuple[Constants, dict[str, str]]:
    """The constants, and where each comes from."""
    text = path.read_text() if path else files("qwen3vl_rl.training.planner").joinpath("constants.yaml").read_text()
    entries = yaml.safe_load(text)
    return Constants(**{name: entry["value"] for name, entry in entries.items()}), {
        name: entry["source"] for name, entry in entries.items()
    }
