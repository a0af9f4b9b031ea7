"""The machine has what the recipe needs: a rollout engine, GPUs, and memory on them."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes
from qwen3vl_rl.training import memory
from qwen3vl_rl.training.gpus import gpu_memories_mib, visible_gib
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.remedies import remedies
from qwen3vl_rl.training.workload import PAPER_WORKLOAD, Run, read_run


def check_rollout_engine(config: DictConfig) -> None:
    """The rollout engine is installed and can run on the device."""
    engine = config.actor_rollout_ref.rollout.name
    if config.trainer.device == "cpu" and engine != "vllm":
        raise InputError(f"engine={engine}: expected engine=vllm on hardware=cpu")
    if find_spec(engine) is None:
        here = [f"use engine={name}, or " for name in ("vllm", "sglang") if find_spec(name)]
        how = f"remove .venv, which holds one engine, and run bash scripts/setup.sh {engine}"
        raise InputError(f"engine={engine}: {engine} is not installed; {''.join(here)}{how}")


def check_gpus(config: DictConfig) -> None:
    """This machine has as many GPUs as the recipe needs. Ray counts those of a cluster (RAY_ADDRESS)."""
    address = os.environ.get("RAY_ADDRESS")
    if address and OmegaConf.select(config, "ray_kwargs.ray_init.num_cpus") is not None:
        raise InputError(f"RAY_ADDRESS={address}: expected it unset, because this recipe starts its own Ray")
    if config.trainer.device == "cpu" or address:
        return
    if config.trainer.nnodes > 1:
        raise InputError(f"trainer.nnodes={config.trainer.nnodes}: expected RAY_ADDRESS to name the cluster's head")
    check_gpus_here(config)


def check_gpus_here(config: DictConfig) -> None:
    wanted, found = config.trainer.n_gpus_per_node, len(gpu_memories_mib())
    if wanted > found:
        choices = "gpu1, gpu2, node8" if found else "cpu"
        raise InputError(f"trainer.n_gpus_per_node={wanted}: found {found} GPUs here; hardware={choices}")


def check_memory(config: DictConfig) -> None:
    """The run fits on the smallest GPU, by the planner's memory model and with the answer length of the paper.

    What the model does not cover (Ulysses, another architecture, a checkpoint that is still on the Hub, …) is never
    rejected for its memory, nor is a run on the GPUs of another machine.
    """
    path = Path(config.actor_rollout_ref.model.path).expanduser()
    if config.trainer.device == "cpu" or os.environ.get("RAY_ADDRESS") or not path.is_dir():
        return
    for file in path.glob("*.safetensors"):
        read_tensor_shapes(file)  # raises for an incomplete file
    if (run := modelled_run(config)) is None:
        return
    memory_gib, constants = visible_gib(min(gpu_memories_mib())), read_constants()[0]
    if not (found := memory.problems(run, memory_gib, constants)):
        return
    changes = remedies(run, memory_gib, constants)
    advice = f"{changes[0]} makes it fit" if changes else "take a smaller model or more GPUs"
    gpus = f"{run.gpus} GPUs" if run.gpus > 1 else "one GPU"
    raise InputError(f"{path}: it does not fit {gpus} of {memory_gib:.0f} GiB: {'; '.join(found)}; {advice}")


def modelled_run(config: DictConfig) -> Run | None:
    """The recipe as the memory model sees it; None if the model does not cover it."""
    try:
        run = read_run(config, PAPER_WORKLOAD)
    except InputError:
        return None
    return replace(run, answer_tokens=min(run.answer_tokens, config.data.max_response_length))
