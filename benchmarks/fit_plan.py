"""Fit the planner's constants on measurements, and show how well the planner then foretells them.

    python -m benchmarks.fit_plan FILE... [--out qwen3vl_rl/plan_constants.yaml]

Takes results of `benchmarks.grpo_step` and `benchmarks.serving`, all from GPUs of one kind. A constant is the median of
what each measurement gives for it; one that no measurement gives stays as it is. With `--out` they are written.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from benchmarks import grpo_step
from benchmarks.common import IMAGE_PX
from qwen3vl_rl import plan
from qwen3vl_rl.grounding import InputError, cli
from qwen3vl_rl.shapes import BF16_BYTES, PUBLISHED


@dataclass(frozen=True)
class Measured:
    """One variant of one result of `grpo_step`, with the run that the planner sees in its recipe."""

    file: str
    variant: str
    engine: str
    run: plan.Run
    step_s: float
    phases_s: dict[str, float]
    actor_peak_gib: float  # that torch had allocated
    gpu_peak_gib: float  # in use, as nvidia-smi counts


def read_gpu(paths: Sequence[Path]) -> plan.Gpu:
    """The one that all were measured on. Raises InputError where there are several, or one that the planner lacks."""
    devices = {path: json.loads(path.read_text())["device"] for path in paths}
    kinds = {path: next((kind for kind in plan.GPUS if kind.upper() in name), None) for path, name in devices.items()}
    first = kinds[paths[0]]
    if wrong := [path for path in paths if kinds[path] != first or not first]:
        expected = f"a device like {first}" if first else f"one of {', '.join(plan.GPUS)}"
        raise InputError(f'{wrong[0]}: "device": expected {expected}, got {devices[wrong[0]]}')
    return plan.GPUS[first]


def read_steps(path: Path) -> Iterator[Measured]:
    result = json.loads(path.read_text())
    settings = argparse.Namespace(**result["settings"])
    for found in result["variants"]:
        if "steps" not in found:
            continue
        overrides = grpo_step.recipe(settings, Path("none"), Path("none"), found["variant"], Path("none"))
        config = plan.compose_recipe(overrides)
        # Left out: phases of other steps among those of a step, prompts that are prepared for each answer.
        one_by_one = config.actor_rollout_ref.rollout.agent.default_agent_loop != "image_once"
        if config.trainer.v1.trainer_mode != "sync" or one_by_one:
            continue
        workload = argparse.Namespace(image=IMAGE_PX, answer_tokens=settings.answer_tokens, samples=settings.prompts)
        run = plan.read_run(config, workload)
        text = round(found["prompt_tokens"]["median"]) - run.image_tokens
        phases = {name: values["median"] for name, values in found["phases_s"].items()}
        yield Measured(
            path.name,
            found["variant"],
            settings.engine,
            replace(run, prompt_text_tokens=text),
            found["step_s"]["median"],
            phases,
            found["actor_peak_gib"]["median"],
            max(found["gpu_peak_gib"]),
        )


def fit_steps(steps: Sequence[Measured], gpu: plan.Gpu, constants: plan.Constants) -> Iterator[tuple[str, float]]:
    """(constant, what one measurement gives for it)."""
    for step in steps:
        run, phases = step.run, step.phases_s
        known = [phases[name] for name in phases if name not in ("reward", "adv")]
        yield "fixed_step_s", max(0.0, step.step_s - sum(known))  # phases may overlap
        if run.compiled:
            continue
        if not run.ref_offload and "ref" in phases:
            yield "forward_utilisation", run.forward_flops / (gpu.flops * phases["ref"])
        if not (run.param_offload or run.optimizer_offload):
            passes = 4 if run.checkpointing else 3
            yield "update_utilisation", passes * run.forward_flops / (gpu.flops * phases["update_actor"])
            yield "sync_bytes_per_s", BF16_BYTES * run.shape.parameters / phases["update_weights"]
        tokens = math.ceil(run.samples * run.sequence_tokens / run.micro_batches)  # verl makes them equal
        counted = replace(run, tokens_per_micro_batch=tokens), replace(constants, logit_bytes=0, reserved_gib=0)
        logits_gib = step.actor_peak_gib - sum(plan.update_memory_gib(*counted).values())
        yield "logit_bytes", logits_gib * plan.GIB / (tokens * run.logit_share * run.shape.vocab_size)


def fit_reserved(steps: Sequence[Measured], gpu: plan.Gpu, constants: plan.Constants) -> Iterator[tuple[str, float]]:
    """What a GPU holds at its worst, beside what can be counted: the most of all, as no run should end there."""
    counted, found = replace(constants, reserved_gib=0), [0.0]
    for step in steps:
        parts = plan.update_memory_gib(step.run, counted), plan.rollout_memory_gib(step.run, gpu, counted)
        found.append(step.gpu_peak_gib - max(sum(part.values()) for part in parts))
    yield "reserved_gib", max(found)


def fit_compiled(steps: Sequence[Measured], gpu: plan.Gpu, constants: plan.Constants) -> Iterator[tuple[str, float]]:
    """How many times faster than foretold without compiled blocks the passes are that have them."""
    plain = replace(constants, compiled_speed=1.0)
    for step in (step for step in steps if step.run.compiled):
        yield "compiled_speed", plan.pass_s(step.run, gpu, plain) / step.phases_s["ref"]
        yield "compiled_speed", plan.update_s(step.run, gpu, plain) / step.phases_s["update_actor"]


def fit_offload(steps: Sequence[Measured], gpu: plan.Gpu, constants: plan.Constants) -> Iterator[tuple[str, float]]:
    """What of an update is not computing, where weights and moments come from the host and go back there."""
    for step in steps:
        if step.run.param_offload and step.run.optimizer_offload:
            moving = step.phases_s["update_actor"] - plan.update_s(
                step.run, gpu, replace(constants, host_bytes_per_s=math.inf)
            )
            if moving > 0:  # else the computing is foretold too long to tell
                yield "host_bytes_per_s", 6 * step.run.weight_bytes / moving


def fit_decoding(paths: Sequence[Path], gpu: plan.Gpu) -> Iterator[tuple[str, float]]:
    """From latencies of single requests: a token costs a step and the reading of all weights. Takes two sizes."""
    points = []
    for result in (json.loads(path.read_text()) for path in paths):
        if len(result["latency"]) < 3:  # cut short
            continue
        tokens, seconds = zip(
            *((row["answer_tokens"], row["latency_s"]["median"]) for row in result["latency"]), strict=True
        )
        read = BF16_BYTES * PUBLISHED[result["size"]].language_parameters / gpu.memory_bytes_per_s
        points.append((read, np.polyfit(tokens, seconds, 1)[0]))
    if len({read for read, _ in points}) > 1:
        slope, step_s = np.polyfit(*zip(*points, strict=True), 1)
        yield "decode_bandwidth_share", 1 / slope
        yield "decode_step_s", max(step_s, 0.0)


def fit_generation(steps: Sequence[Measured], gpu: plan.Gpu, constants: plan.Constants) -> Iterator[tuple[str, float]]:
    """What an answer costs an engine and its node, and what each sequence of a batch adds to a token's time, given all
    else. Takes two lengths of answers and two numbers of GPUs."""
    runs = [step.run for step in steps]
    if len({run.answer_tokens for run in runs}) < 2 or len({run.gpus for run in runs}) < 2:
        return
    names = ("request_s", "node_request_s", "sequence_step_s")
    without = replace(constants, **dict.fromkeys(names, 0.0))
    engine, node = plan.engine_samples, plan.node_samples
    shares = np.array([(engine(run), node(run), engine(run) * run.answer_tokens) for run in runs])
    rest = [step.phases_s["gen"] - plan.generation_s(step.run, gpu, without) for step in steps]
    found = np.zeros(len(names))
    kept = np.linalg.lstsq(shares, rest)[0] > 0  # a cost is not negative
    found[kept] = np.linalg.lstsq(shares[:, kept], rest)[0]
    yield from zip(names, map(float, found), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    gpu, (constants, sources) = read_gpu(args.results), plan.read_constants()
    serving = [path for path in args.results if "latency" in json.loads(path.read_text())]
    training = [path for path in args.results if path not in serving]
    steps = [step for path in training for step in read_steps(path)]
    alone = [step for step in steps if step.run.gpus == 1]  # where nothing is communicated
    with_vllm = [step for step in steps if step.engine == "vllm"]
    for fit, files in (
        (lambda c: fit_steps(alone, gpu, c), {step.file for step in alone}),
        (lambda c: fit_reserved(steps, gpu, c), {step.file for step in steps}),
        (lambda c: fit_compiled(alone, gpu, c), {step.file for step in alone if step.run.compiled}),
        (lambda c: fit_offload(alone, gpu, c), {step.file for step in alone if step.run.param_offload}),
        (lambda _: fit_decoding(serving, gpu), {path.name for path in serving}),
        (lambda c: fit_generation(with_vllm, gpu, c), {step.file for step in with_vllm}),
    ):
        source = f"measured: {', '.join(sorted(files))}"
        found = defaultdict(list)
        for name, value in fit(constants):
            found[name].append(value)
        constants = replace(constants, **{name: float(statistics.median(values)) for name, values in found.items()})
        sources |= dict.fromkeys(found, source)
        for name, values in found.items():
            print(
                f"{name}: {statistics.median(values):.4g}, from {', '.join(f'{value:.4g}' for value in sorted(values))}"
            )
    for step in steps:
        foretold = plan.step_seconds(step.run, gpu, constants)
        print(f"\n{step.file}, {step.variant}: step {step.step_s:.1f} s, foretold {sum(foretold.values()):.1f}")
        for name, seconds in foretold.items():
            print(f"  {name}: {step.phases_s.get(name, float('nan')):.2f}, foretold {seconds:.2f}")
    if args.out:
        entries = {name: {"value": value, "source": sources[name]} for name, value in asdict(constants).items()}
        args.out.write_text(yaml.safe_dump(entries, sort_keys=False, width=120))


if __name__ == "__main__":
    cli(main)
