"""Recipes, machines and round constants for the checks and the planner."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.rl_rows import COLUMNS
from qwen3vl_rl.training.planner.constants import Constants
from qwen3vl_rl.training.workload import CONFIG, Run, Workload, compose_recipe, read_run


@pytest.fixture
def recipe():
    """`recipe(*overrides)`: the shipped one, composed."""

    def make(*overrides: str):
        given = ["size=tiny", "hardware=gpu1", "engine=vllm", "actor_rollout_ref.model.path=m", "data.train_files=t"]
        with initialize_config_dir(str(CONFIG), version_base=None):
            return compose("grounding_grpo", [*given, "data.val_files=v", *overrides])

    return make


@pytest.fixture
def config(tmp_path) -> DictConfig:
    """A recipe of two GPUs, 8 rows and 4 prompts a step."""
    (tmp_path / "image.png").touch()
    _write_rows(tmp_path / "train.parquet", [str(tmp_path / "image.png")] * 8)
    rollout = {"name": "vllm", "gpu_memory_utilization": 0.8}
    offloaded = {"param_offload": True, "optimizer_offload": True, "no_shard": False}
    return OmegaConf.create(
        {
            "trainer": {
                "device": "cuda",
                "n_gpus_per_node": 2,
                "nnodes": 1,
                "total_epochs": 3,
                "total_training_steps": None,
                "default_local_dir": str(tmp_path / "run"),
                "resume_mode": "auto",
            },
            "data": {"train_files": str(tmp_path / "train.parquet"), "train_batch_size": 4},
            "actor_rollout_ref": {
                "rollout": rollout,
                "model": {"path": str(tmp_path / "model")},
                "actor": {"use_kl_loss": True, "fsdp_config": offloaded},
                "ref": {"fsdp_config": {"param_offload": True}},
            },
        }
    )


@pytest.fixture
def write_rows() -> Callable[[Path, list[str]], None]:
    """`write_rows(path, images)`: a parquet file with a row for each image."""
    return _write_rows


def _write_rows(path: Path, images: list[str]) -> None:
    rows = {name: ["x"] * len(images) for name in COLUMNS} | {"images": [[image] for image in images]}
    pq.write_table(pa.table(rows), path)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """`gpus(mib, mib, …)`: a machine whose nvidia-smi lists GPUs of so much memory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(*mib: int) -> None:
        lines = "".join(f"{index}, GPU-{index}, {memory}\\n" for index, memory in enumerate(mib))
        (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\nprintf "{lines}"\n')
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


@pytest.fixture(scope="session")
def constants() -> Constants:
    """Round numbers: the shipped ones follow the measurements."""
    return Constants(
        update_utilisation={2048: 0.3, 4096: 0.35},
        forward_utilisation={2048: 0.3, 4096: 0.4},
        compiled_speed={2048: 1.3},
        decode_bandwidth_share=0.6,
        decode_step_s=0.002,
        sequence_step_s=1e-5,
        request_s=0.001,
        node_request_s=0.0005,
        sglang_generation=1.5,
        host_bytes_per_s=2e10,
        sync_bytes_per_s=5e9,
        fixed_step_s=3.0,
        node_bytes_per_s=2e11,
        network_bytes_per_s=2e10,
        disk_bytes_per_s=1e9,
        logit_bytes=10.0,
        activation_values=34.0,
        reserved_gib=4.0,
        rollout_engine_gib=4.0,
    )


@pytest.fixture(scope="session")
def read() -> Callable[..., Run]:
    """`read(*overrides)`: the run of a recipe, with answers of 100 tokens."""
    return lambda *overrides: read_run(compose_recipe(overrides), Workload((640, 480), 100, 1000))


@pytest.fixture(scope="session")
def run_8b(read) -> Run:
    """The released recipe on one node."""
    return read("size=qwen3vl_8b", "hardware=node8")
