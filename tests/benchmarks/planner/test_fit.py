import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import grpo_step
from benchmarks.planner import fit
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.families.qwen3_vl import QWEN3_VL
from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.gpus import GPUS
from qwen3vl_rl.training.memory import rollout_memory_gib, update_memory_gib
from qwen3vl_rl.training.planner.constants import Constants, read_constants
from qwen3vl_rl.training.planner.timing import step_seconds
from qwen3vl_rl.training.workload import Workload, compose_recipe, read_run

pytestmark = pytest.mark.slow

DEVICE = "1 x NVIDIA H200"
GPU = GPUS["h200"]
CONSTANTS = replace(read_constants()[0], node_bytes_per_s=2e11, network_bytes_per_s=2e10, rollout_engine_gib=4.0)


@pytest.mark.long
def test_the_fit_finds_the_constants_that_made_the_measurements(tmp_path, monkeypatch):
    planted = replace(
        CONSTANTS,
        update_utilisation={2048: 0.31, 4096: 0.5},
        forward_utilisation={2048: 0.33, 4096: 0.6},
        compiled_speed={2048: 1.5, 4096: 1.2},
        host_bytes_per_s=1e11,
        sync_bytes_per_s=3e9,
        fixed_step_s=1.5,
        logit_bytes=12.0,
        reserved_gib=9.0,
        decode_step_s=0.004,
        decode_bandwidth_share=0.5,
        sequence_step_s=2e-5,
        request_s=0.012,
        sglang_generation=1.9,
        node_request_s=0.003,
    )
    files = [measured_steps(tmp_path / f"grpo_{tokens}.json", planted, tokens) for tokens in (100, 500)]
    files.append(measured_steps(tmp_path / "grpo_2gpus.json", planted, 100, gpus=2))
    offloaded = {"size": "8b", "kind": "h100", "variants": ("shipped", "fast")}  # the only measurements of 8B
    files.append(measured_steps(tmp_path / "grpo_8b.json", planted, 100, gpus=2, **offloaded))
    files.append(measured_steps(tmp_path / "grpo_sglang.json", planted, 100, gpus=2, engine="sglang"))
    files += [measured_latencies(tmp_path / f"serving_{size}.json", size, planted) for size in ("2b", "8b")]
    monkeypatch.setattr(sys, "argv", ["fit", *map(str, files), "--out", str(tmp_path / "constants.yaml")])
    fit.main()
    found, sources = read_constants(tmp_path / "constants.yaml")
    alone = ["grpo_100.json", "grpo_500.json"]
    with_vllm = ["grpo_100.json", "grpo_2gpus.json", "grpo_500.json", "grpo_8b.json"]
    by_width = ("update_utilisation", "forward_utilisation", "compiled_speed")
    for names, used in (
        ((*by_width, "host_bytes_per_s", "reserved_gib"), [*with_vllm, "grpo_sglang.json"]),
        (("request_s", "node_request_s", "sequence_step_s"), with_vllm),
        (("sglang_generation",), ["grpo_sglang.json"]),
        (("logit_bytes", "sync_bytes_per_s"), alone),
        (("decode_step_s",), ["serving_2b.json", "serving_8b.json"]),
    ):
        for name in names:
            assert getattr(found, name) == pytest.approx(getattr(planted, name), rel=1e-3), name
            assert sources[name] == f"measured: {', '.join(used)}"
    _, shipped = read_constants()
    assert sources["network_bytes_per_s"] == shipped["network_bytes_per_s"]  # not measured
    for step in (step for path in (files[0], files[3]) for step in fit.read_steps(path)):
        assert sum(step_seconds(step.run, step.gpu, found).values()) == pytest.approx(step.step_s, rel=1e-3)


def test_a_fit_keeps_widths_without_a_measurement(tmp_path, monkeypatch):
    path = measured_steps(tmp_path / "grpo_8b.json", CONSTANTS, 100, gpus=2, size="8b", variants=("shipped", "fast"))
    monkeypatch.setattr(sys, "argv", ["fit", str(path), "--out", str(tmp_path / "constants.yaml")])
    fit.main()
    (found, _), (shipped, _) = read_constants(tmp_path / "constants.yaml"), read_constants()
    for name in ("update_utilisation", "forward_utilisation", "compiled_speed"):
        assert getattr(found, name)[2048] == getattr(shipped, name)[2048]
    assert found.update_utilisation[4096] != shipped.update_utilisation[4096]


def test_a_phase_shorter_than_moving_its_weights_is_named(tmp_path, monkeypatch):
    path = measured_steps(tmp_path / "grpo_8b.json", CONSTANTS, 100, gpus=2, size="8b", variants=("shipped",))
    result = json.loads(path.read_text())
    result["variants"][0]["phases_s"]["update_actor"] = always(0.1)
    path.write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["fit", str(path)])
    with pytest.raises(
        InputError, match=r"grpo_8b\.json, shipped: update_actor: expected more than the .* s of moving"
    ):
        fit.main()


def test_measurements_on_unknown_devices_are_rejected(tmp_path, monkeypatch):
    path = measured_latencies(tmp_path / "8b.json", "8b", CONSTANTS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "CPU, x86_64"}))
    monkeypatch.setattr(sys, "argv", ["fit", str(path)])
    with pytest.raises(InputError, match=r'8b.json: "device": expected one of a100, h100, h200, got CPU'):
        fit.main()


def always(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value}


def measured_steps(
    path: Path,
    constants: Constants,
    answer_tokens: int,
    gpus: int = 1,
    size: str = "2b",
    kind: str = "h200",
    engine: str = "vllm",
    variants: Sequence[str] = ("released", "resident", "resident+on-policy+prompt-per-answer", "fast"),
) -> Path:
    """Write the result that `benchmarks.grpo_step` would have on a machine that the planner describes exactly."""
    gpu = GPUS[kind]
    settings = {"size": size, "engine": engine, "hardware": f"gpu{gpus}", "gpus": gpus, "prompts": 16}
    settings |= {"samples_per_prompt": 16, "answer_tokens": answer_tokens, "steps": 3, "set": []}
    rows = []
    for name in variants:
        nowhere = [Path("none")] * 2
        config = compose_recipe(grpo_step.recipe(argparse.Namespace(**settings), *nowhere, name, Path("none")))
        run = read_run(config, Workload((640, 480), answer_tokens, 1000))
        phases = step_seconds(run, gpu, constants)
        seconds = sum(phases.values())
        del phases["other"]
        tokens = math.ceil(run.trained_tokens / run.micro_batches)
        whole = replace(run, tokens_per_micro_batch=tokens), gpu.memory_gib, replace(constants, reserved_gib=0)
        peak = sum(update_memory_gib(*whole).values())
        parts = (memory(run, gpu.memory_gib, constants) for memory in (update_memory_gib, rollout_memory_gib))
        used = max(sum(part.values()) for part in parts)
        rows.append(
            {
                "variant": name,
                "share_prompts": run.share_prompts,
                "steps": [seconds] * 3,
                "step_s": always(seconds),
                "phases_s": {phase: always(value) for phase, value in phases.items()},
                "prompt_tokens": always(run.prompt_tokens),
                "actor_peak_gib": always(peak),
                "gpu_peak_gib": [used],
            }
        )
    path.write_text(json.dumps({"device": f"{gpus} x NVIDIA {gpu.name}", "settings": settings, "variants": rows}))
    return path


def measured_latencies(path: Path, size: str, constants: Constants) -> Path:
    read_s = BF16_BYTES * QWEN3_VL.sizes[size].language_parameters / GPU.memory_bytes_per_s
    token_s = constants.decode_step_s + read_s / constants.decode_bandwidth_share
    rows = [{"answer_tokens": n, "latency_s": always(0.05 + n * token_s)} for n in (1, 15, 50, 100, 200)]
    path.write_text(json.dumps({"device": DEVICE, "size": size, "latency": rows}))
    return path
