import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fit_plan, grpo_step
from qwen3vl_rl import plan
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.shapes import BF16_BYTES, PUBLISHED
from qwen3vl_rl.training import preflight

DEVICE = "1 x NVIDIA H200"
GPU = plan.GPUS["h200"]
CONSTANTS = plan.Constants(  # round numbers: the shipped ones follow the measurements
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
    logit_bytes=10.0,
    activation_values=34.0,
    reserved_gib=4.0,
    engine_gib=4.0,
)
WORKLOAD = argparse.Namespace(image=(640, 480), answer_tokens=100, samples=1000)


def read(*overrides: str) -> plan.Run:
    return plan.read_run(plan.compose_recipe(overrides), WORKLOAD)


RUN = read("size=qwen3vl_8b", "hardware=node8")


def step_s(run: plan.Run) -> float:
    return sum(plan.step_seconds(run, GPU, CONSTANTS).values())


def update_gib(run: plan.Run) -> float:
    return sum(plan.update_memory_gib(run, CONSTANTS).values())


@pytest.mark.parametrize(
    "change", ["model.lora_rank=32", "actor.fsdp_config.offload_policy=true", "actor.fsdp_config.model_dtype=bf16"]
)
def test_what_the_planner_does_not_know_is_refused(change):
    with pytest.raises(InputError, match=rf"actor_rollout_ref\.{change.partition('=')[0]}=.*: expected .* knows"):
        read("size=2b", f"actor_rollout_ref.{change}")


def test_a_published_size_is_not_looked_for_in_the_folder_at_hand(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert read("size=2b").shape == PUBLISHED["2b"]


def test_a_plan_reads_the_recipe():
    assert (RUN.gpus, RUN.prompts, RUN.samples_per_prompt, RUN.tokens_per_micro_batch) == (8, 256, 16, 25600)
    assert RUN.shape == PUBLISHED["8b"]
    assert RUN.param_offload and RUN.optimizer_offload and RUN.ref_offload and RUN.reference and RUN.old_log_probs
    changed = read("size=2b", "hardware=gpu1", "speed=fast")
    assert not (changed.param_offload or changed.optimizer_offload or changed.ref_offload or changed.old_log_probs)
    assert changed.compiled and changed.gathered_at_once and not (RUN.compiled or RUN.gathered_at_once)
    assert changed.rollout_memory_share == 0.6
    each = read("size=2b", "hardware=gpu1", *grpo_step.CHANGES["encode-each"])
    apart = read("size=2b", "hardware=node8", "actor_rollout_ref.actor.ppo_mini_batch_size=252")
    runs = RUN, changed, each, apart
    assert [run.samples_per_image for run in runs] == [16, 16, 1, 1]
    assert changed.forward_flops < 0.8 * each.forward_flops


def test_training_state_is_sixteen_bytes_a_parameter():
    parts = plan.update_memory_gib(replace(RUN, gpus=1), CONSTANTS)
    assert parts["weights, gradients, Adam moments"] == pytest.approx(16 * RUN.shape.parameters / plan.GIB)


def test_several_gpus_gather_embeddings_and_tower_whole_and_layers_one_by_one():
    gathered = plan.update_memory_gib(RUN, CONSTANTS)["weights in 16 bits"] * plan.GIB / BF16_BYTES
    shape = RUN.shape
    assert gathered > shape.vision_parameters + 2 * shape.vocab_size * shape.hidden_size
    assert gathered < shape.parameters / 2


def test_logits_of_prompts_cost_memory_and_work_where_they_are_computed():
    every = read("size=qwen3vl_8b", "hardware=node8", "actor_rollout_ref.actor.fsdp_config.response_logits_only=false")
    assert RUN.loss_tokens_only and not every.loss_tokens_only
    assert every.forward_flops > RUN.forward_flops
    assert update_gib(every) > update_gib(RUN) + 10


def test_8b_fits_a_node_and_not_one_gpu():
    assert plan.problems(RUN, GPU, CONSTANTS) == []
    assert plan.problems(replace(RUN, gpus=1), GPU, CONSTANTS)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (replace(RUN, gpus=1), "hardware=gpu2"),
        (replace(RUN, rollout_sleeps=False), "gpu_memory_utilization=0.6"),
        (replace(RUN, tokens_per_micro_batch=256_000), "ppo_max_token_len_per_gpu=128000"),
    ],
)
def test_remedies_name_the_mildest_change_that_fits(run, expected):
    assert plan.problems(run, GPU, CONSTANTS)
    assert any(expected in words for words in plan.remedies(run, GPU, CONSTANTS))


@pytest.mark.parametrize(
    "words",
    [
        ["size=8b", "hardware=gpu1"],
        ["size=8b", "hardware=gpu2", "speed=fast"],
        ["size=8b", "hardware=node8", "trainer.n_gpus_per_node=4", "speed=fast"],
        ["size=4b", "hardware=node8", "trainer.n_gpus_per_node=1", "speed=fast"],
        ["size=8b", "hardware=gpu1", "data.train_batch_size=10", f"{plan.RECIPE}.actor.ppo_mini_batch_size=10"],
        ["size=8b", "hardware=gpu1", f"{plan.RECIPE}.engine.no_shard=true"],
        ["size=4b", "hardware=gpu1", "speed=fast"],
        ["size=2b", "hardware=gpu1", f"{plan.RECIPE}.rollout.free_cache_engine=false"],
        ["size=8b", "hardware=node8", f"{plan.RECIPE}.actor.ppo_max_token_len_per_gpu=200000"],
    ],
    ids=lambda words: " ".join(words).replace(plan.RECIPE, ""),
)
def test_what_a_remedy_says_can_be_typed_and_fits(words):
    gpu, (constants, _) = plan.GPUS["h100"], plan.read_constants()
    assert plan.problems(read(*words), gpu, constants)
    found = [remedy.split() for remedy in plan.remedies(read(*words), gpu, constants)]
    assert found
    for remedy in found:
        changed = {override.partition("=")[0] for override in remedy}
        typed = [*(word for word in words if word.partition("=")[0] not in changed), *remedy]
        preflight.check_numbers(plan.compose_recipe(typed))
        preflight.check_words(plan.compose_recipe(typed))
        run = read(*typed)
        assert plan.problems(run, gpu, constants) == [], remedy
        assert run.tokens_per_micro_batch >= run.longest_sequence_tokens


@given(gpus=st.sampled_from([1, 2, 4]), answer_tokens=st.integers(1, 2048), prompts=st.integers(16, 512))
def test_more_gpus_need_less_memory_and_more_work_takes_longer(gpus, answer_tokens, prompts):
    run = replace(RUN, gpus=gpus, answer_tokens=answer_tokens, prompts=prompts)
    assert update_gib(replace(run, gpus=8)) < update_gib(run)
    assert step_s(replace(run, gpus=8)) < step_s(run)
    assert step_s(replace(run, answer_tokens=answer_tokens + 1)) > step_s(run)
    assert step_s(replace(run, prompts=prompts + 16)) > step_s(run)
    assert step_s(replace(run, param_offload=False, optimizer_offload=False, ref_offload=False)) < step_s(run)


def test_every_shipped_constant_says_where_it_is_from():
    _, sources = plan.read_constants()
    assert all(source.startswith(("measured: ", "assumed: ")) for source in sources.values())


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
    offloaded = {"size": "8b", "kind": "h100", "variants": ("shipped", "fast")}  # all that is known of 8B
    files.append(measured_steps(tmp_path / "grpo_8b.json", planted, 100, gpus=2, **offloaded))
    files.append(measured_steps(tmp_path / "grpo_sglang.json", planted, 100, gpus=2, engine="sglang"))
    files += [measured_latencies(tmp_path / f"serving_{size}.json", size, planted) for size in ("2b", "8b")]
    monkeypatch.setattr(sys, "argv", ["fit_plan", *map(str, files), "--out", str(tmp_path / "constants.yaml")])
    fit_plan.main()
    found, sources = plan.read_constants(tmp_path / "constants.yaml")
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
    _, shipped = plan.read_constants()
    assert sources["network_bytes_per_s"] == shipped["network_bytes_per_s"]  # no measurement gives it
    for step in (step for path in (files[0], files[3]) for step in fit_plan.read_steps(path)):
        assert sum(plan.step_seconds(step.run, step.gpu, found).values()) == pytest.approx(step.step_s, rel=1e-3)


def test_a_fit_leaves_widths_alone_that_it_has_no_measurement_of(tmp_path, monkeypatch):
    path = measured_steps(tmp_path / "grpo_8b.json", CONSTANTS, 100, gpus=2, size="8b", variants=("shipped", "fast"))
    monkeypatch.setattr(sys, "argv", ["fit_plan", str(path), "--out", str(tmp_path / "constants.yaml")])
    fit_plan.main()
    (found, _), (shipped, _) = plan.read_constants(tmp_path / "constants.yaml"), plan.read_constants()
    for name in ("update_utilisation", "forward_utilisation", "compiled_speed"):
        assert getattr(found, name)[2048] == getattr(shipped, name)[2048]
    assert found.update_utilisation[4096] != shipped.update_utilisation[4096]


def test_a_phase_shorter_than_what_it_moves_is_named(tmp_path, monkeypatch):
    path = measured_steps(tmp_path / "grpo_8b.json", CONSTANTS, 100, gpus=2, size="8b", variants=("shipped",))
    result = json.loads(path.read_text())
    result["variants"][0]["phases_s"]["update_actor"] = always(0.1)
    path.write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["fit_plan", str(path)])
    with pytest.raises(
        InputError, match=r"grpo_8b\.json, shipped: update_actor: expected more than the .* s of moving"
    ):
        fit_plan.main()


def test_between_measured_widths_lines_are_straight_and_beyond_them_flat():
    values = {4096: 0.4, 2048: 0.2}
    assert [plan.at_width(values, width) for width in (192, 2048, 2560, 4096, 5120)] == pytest.approx(
        [0.2, 0.2, 0.25, 0.4, 0.4]
    )


def test_measurements_of_devices_without_a_data_sheet_are_refused(tmp_path, monkeypatch):
    path = measured_latencies(tmp_path / "8b.json", "8b", CONSTANTS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "CPU, x86_64"}))
    monkeypatch.setattr(sys, "argv", ["fit_plan", str(path)])
    with pytest.raises(InputError, match=r'8b.json: "device": expected one of a100, h100, h200, got CPU'):
        fit_plan.main()


def always(value: float) -> dict[str, float]:
    return {"median": value, "min": value, "max": value}


def measured_steps(
    path: Path,
    constants: plan.Constants,
    answer_tokens: int,
    gpus: int = 1,
    size: str = "2b",
    kind: str = "h200",
    engine: str = "vllm",
    variants: Sequence[str] = ("released", "resident", "resident+on-policy+encode-each", "fast"),
) -> Path:
    """What `benchmarks.grpo_step` would write on a machine that the planner describes perfectly."""
    gpu = plan.GPUS[kind]
    settings = {"size": size, "engine": engine, "hardware": f"gpu{gpus}", "gpus": gpus, "prompts": 16}
    settings |= {"samples_per_prompt": 16, "answer_tokens": answer_tokens, "steps": 3, "set": []}
    rows = []
    for name in variants:
        nowhere = [Path("none")] * 2
        config = plan.compose_recipe(grpo_step.recipe(argparse.Namespace(**settings), *nowhere, name, Path("none")))
        run = plan.read_run(config, argparse.Namespace(image=(640, 480), answer_tokens=answer_tokens, samples=1000))
        phases = plan.step_seconds(run, gpu, constants)
        seconds = sum(phases.values())
        del phases["other"]
        tokens = math.ceil(run.samples * run.sequence_tokens / run.micro_batches)
        whole = replace(run, tokens_per_micro_batch=tokens), replace(constants, reserved_gib=0)
        peak = sum(plan.update_memory_gib(*whole).values())
        parts = plan.update_memory_gib(run, constants), plan.rollout_memory_gib(run, gpu, constants)
        used = max(sum(part.values()) for part in parts)
        rows.append(
            {
                "variant": name,
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


def measured_latencies(path: Path, size: str, constants: plan.Constants) -> Path:
    read_s = BF16_BYTES * PUBLISHED[size].language_parameters / GPU.memory_bytes_per_s
    token_s = constants.decode_step_s + read_s / constants.decode_bandwidth_share
    rows = [{"answer_tokens": n, "latency_s": always(0.05 + n * token_s)} for n in (1, 15, 50, 100, 200)]
    path.write_text(json.dumps({"device": DEVICE, "size": size, "latency": rows}))
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.n_gpus_per_node=-1"], r"trainer\.n_gpus_per_node=-1: expected an integer of at least 1"),
        (["actor_rollout_ref.rollout.n=0"], r"rollout\.n=0: expected an integer"),
        (["hardware=cpu"], "trainer.device=cpu: expected cuda"),
        (["--samples", "100"], "data.train_batch_size=256: expected at most the 100 of --samples"),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=2"], "=2: expected 1, which is all"),
        (["--answer-tokens", "5000"], "--answer-tokens 5000: expected at most data.max_response_length=2048"),
    ],
)
def test_numbers_that_cannot_be_are_refused(monkeypatch, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["plan", "size=8b", *arguments])
    with pytest.raises(InputError, match=expected):
        plan.main()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--image", "640"], "expected WIDTHxHEIGHT of at least 32 px each, got 640"),
        (["--samples", "0"], "expected an integer of at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(monkeypatch, capsys, arguments, expected):
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    with pytest.raises(SystemExit):
        plan.main()
    assert expected in capsys.readouterr().err


def test_sglang_s_rollouts_take_longer():
    run = read("size=2b", "hardware=gpu1", "engine=vllm")
    assert step_s(replace(run, rollout_engine="sglang")) > step_s(run)


@pytest.mark.parametrize("overrides", [["size=9b"], ["size=tiny"], ["size=8b", "trainer.nods=2"]])
def test_what_does_not_compose_is_bad_input(overrides):
    with pytest.raises(InputError):
        read(*overrides)


def test_the_command_prints_a_plan_and_fails_where_it_does_not_fit(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan", "size=qwen3vl_8b", "hardware=node8"])
    plan.main()
    assert "it fits" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["plan", "size=qwen3vl_8b", "hardware=gpu1"])
    with pytest.raises(SystemExit) as stopped:
        plan.main()
    assert stopped.value.code == 1
    assert "it does not fit" in capsys.readouterr().out
