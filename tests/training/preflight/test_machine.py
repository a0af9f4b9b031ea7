import json
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.training.gpus import GPUS, gpu_memories_mib
from qwen3vl_rl.training.memory import problems
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.preflight import machine
from qwen3vl_rl.training.workload import PAPER_WORKLOAD, compose_recipe, read_run

pytestmark = pytest.mark.slow

MIB = {"a100": 81_920, "h100": 81_559, "h200": 143_771}  # as nvidia-smi reports


def test_gpus_are_counted_as_cuda_will_see_them(config, gpus, monkeypatch):
    gpus(80_000, 81_000, 82_000)
    assert gpu_memories_mib() == [80_000, 81_000, 82_000]
    machine.check_gpus(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
    assert gpu_memories_mib() == [82_000]
    with pytest.raises(InputError, match=r"n_gpus_per_node=2: found 1 GPUs here; hardware=gpu1"):
        machine.check_gpus(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match=r"found 0 GPUs here; hardware=cpu"):
        machine.check_gpus(config)


def test_several_nodes_need_a_cluster(config, gpus, monkeypatch):
    gpus(80_000, 80_000)
    config.trainer.nnodes = 2
    with pytest.raises(InputError, match="expected RAY_ADDRESS"):
        machine.check_gpus(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    machine.check_gpus(config)


@pytest.mark.parametrize(("engine", "device"), [("sglang", "cpu"), ("trtllm", "cuda")])
def test_an_engine_must_be_there_and_run_on_the_device(config, engine, device):
    config.actor_rollout_ref.rollout.name, config.trainer.device = engine, device
    with pytest.raises(InputError, match=f"engine={engine}: "):
        machine.check_rollout_engine(config)


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(size)`: a folder with the configuration of a published model."""

    def make(size: str) -> Path:
        folder, shape = tmp_path / size, asdict(QWEN3_VL.sizes[size])
        folder.mkdir()
        vision = shape.pop("vision")
        vision["deepstack_visual_indexes"] = list(range(vision.pop("mergers") - 1))
        config = {"model_type": "qwen3_vl", "text_config": shape, "vision_config": vision}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def refused(config) -> bool:
    try:
        machine.check_memory(config)
    except InputError:
        return True
    return False


@pytest.mark.parametrize(
    "words",
    [
        ["size=4b", "hardware=gpu1"],
        ["size=2b", "hardware=gpu1"],
        ["size=2b", "hardware=gpu1", "speed=fast"],
        ["size=2b", "hardware=gpu1", "actor_rollout_ref.rollout.free_cache_engine=false"],
        ["size=4b", "hardware=gpu1", "speed=fast"],
        ["size=4b", "hardware=gpu2"],
        ["size=4b", "hardware=gpu2", "speed=fast"],
        ["size=8b", "hardware=gpu2"],
        ["size=8b", "hardware=node8"],
        ["size=8b", "hardware=node8", "speed=fast", "actor_rollout_ref.rollout.gpu_memory_utilization=0.9"],
        ["size=8b", "hardware=node8", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=200000"],
    ],
    ids=" ".join,
)
def test_preflight_and_planner_give_one_answer(gpus, checkpoint, words):
    planned = compose_recipe(words)
    config, run = planned.copy(), read_run(planned, PAPER_WORKLOAD)
    config.actor_rollout_ref.model.path = str(checkpoint(words[0].partition("=")[2]))
    for kind, mib in MIB.items():
        gpus(*[mib] * planned.trainer.n_gpus_per_node)
        assert refused(config) == bool(problems(run, GPUS[kind].memory_gib, read_constants()[0])), kind


def test_the_memory_error_says_what_to_change(gpus, recipe, checkpoint):
    gpus(MIB["h100"])
    config = recipe("size=4b", f"actor_rollout_ref.model.path={checkpoint('4b')}")
    with pytest.raises(InputError, match=r"4b: .* not fit one GPU of 79 GiB: the update .*; hardware=gpu2 .* fit$"):
        machine.check_memory(config)


def test_what_the_memory_model_does_not_cover_is_not_rejected(gpus, recipe, checkpoint):
    gpus(8_000)
    config = recipe("size=8b", f"actor_rollout_ref.model.path={checkpoint('8b')}")
    assert refused(config)
    for key, value in (
        ("actor.fsdp_config.freeze_vision", True),
        ("actor.fsdp_config.offload_policy", True),
        ("actor.fsdp_config.ulysses_sequence_parallel_size", 2),
        ("actor.use_dynamic_bsz", False),
    ):
        changed = config.copy()
        OmegaConf.update(changed, f"actor_rollout_ref.{key}", value)
        machine.check_memory(changed)


@pytest.mark.parametrize("mib", [16_000, 24_000, 81_559])
def test_the_tiny_model_fits_any_gpu(gpus, recipe, starter, mib):
    gpus(mib)
    machine.check_memory(recipe(f"actor_rollout_ref.model.path={starter}"))


def test_git_lfs_pointers_are_named(gpus, recipe, starter, tmp_path):
    gpus(81_559)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a safetensors file"):
        machine.check_memory(recipe(f"actor_rollout_ref.model.path={tmp_path}"))


def test_a_leftover_address_of_ray_is_named_on_a_cpu(recipe, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=127\.0\.0\.1:6399: expected it unset"):
        machine.check_gpus(recipe("hardware=cpu"))
    machine.check_gpus(recipe("hardware=node8"))  # a cluster's
