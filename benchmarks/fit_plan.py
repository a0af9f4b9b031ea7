"""Fit the planner's constants on measurements, and show how well the planner then foretells them.

    python -m benchmarks.fit_plan FILE... [--out qwen3vl_rl/plan_constants.yaml]

Takes results of `benchmarks.grpo_step` and `benchmarks.serving`, each of any GPU that the planner knows: constants are
shares of its data sheet. A constant is the median of what each measurement gives for it, by width of the model where
the planner has it so; one that no measurement gives stays as it is. With `--out` they are written.
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
    gpu: plan.Gpu
    run: plan.Run
    step_s: float
    phases_s: dict[str, float]
    actor_peak_gib: float  # that torch had allocated
    gpu_peak_gib: float  # in use, as nvidia-smi counts

    @property
    def width(self) -> int:
        return self.run.shape.hidden_size


Found = Iterator[tuple[str, float | dict[int, float]]]  # a constant, and what one measurement gives for it


def read_gpu(path: Path, device: str) -> plan.Gpu:
    """The one that a result of this `device` was measured on. Raises InputError for one that the planner lacks."""
    for kind, gpu in plan.GPUS.items():
        if kind.upper() in device:
            return gpu
    raise InputError(f'{path}: "device": expected one of {", ".join(plan.GPUS)}, got {device}')


def read_steps(path: Path) -> Iterator[Measured]:
    result = json.loads(path.read_text())
    settings, gpu = argparse.Namespace(**result["settings"]), read_gpu(path, result["device"])
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
            gpu,
            replace(run, prompt_text_tokens=text),
            found["step_s"]["median"],
            phases,
            found["actor_peak_gib"]["median"],
            max(found["gpu_peak_gib"]),
        )


def fit_offload(steps: Sequence[Measured], _: plan.Constants) -> Found:
    """The pass of the old policy is the reference's, but that the actor's weights come from the host before it, and go
    back. The reference's come beside its computing, which is taken to be what is waited for."""
    for step in steps:
        if step.run.param_offload and step.run.old_log_probs and step.run.reference:
            moving = step.phases_s["old_log_prob"] - step.phases_s["ref"]
            if moving > 0:  # else the two passes differ by more
                yield "host_bytes_per_s", 2 * step.run.weight_bytes / moving


def fit_utilisation(steps: Sequence[Measured], constants: plan.Constants) -> Found:
    """Of passes that are not compiled, without the time that moving weights takes."""
    for step in (step for step in steps if not step.run.compiled):
        run, phases = step.run, step.phases_s
        work = run.forward_flops / (run.gpus * step.gpu.flops)
        loading = plan.offload_s(run, constants, params=run.param_offload)
        if not run.ref_offload and run.reference:
            yield "forward_utilisation", {step.width: work / phases["ref"]}
        if run.old_log_probs:
            yield "forward_utilisation", {step.width: work / (phases["old_log_prob"] - loading)}
        moving = plan.offload_s(run, constants, params=run.param_offload, moments=run.optimizer_offload)
        passes = 4 if run.checkpointing else 3
        yield "update_utilisation", {step.width: passes * work / (phases["update_actor"] - moving)}


def fit_compiled(steps: Sequence[Measured], constants: plan.Constants) -> Found:
    """How many times faster than foretold without compiled blocks the passes are that have them."""
    plain = replace(constants, compiled_speed={0: 1.0})
    for step in (step for step in steps if step.run.compiled):
        if not step.run.ref_offload:
            yield "compiled_speed", {step.width: plan.pass_s(step.run, step.gpu, plain) / step.phases_s["ref"]}
        yield "compiled_speed", {step.width: plan.update_s(step.run, step.gpu, plain) / step.phases_s["update_actor"]}


def fit_steps(steps: Sequence[Measured], constants: plan.Constants) -> Found:
    """What neither work nor moving weights explain, and what logits take of the memory."""
    for step in steps:
        run, phases = step.run, step.phases_s
        known = [phases[name] for name in phases if name not in ("reward", "adv")]
        yield "fixed_step_s", max(0.0, step.step_s - sum(known))  # phases may overlap
        if run.compiled:
            continue
        if not (run.param_offload or run.optimizer_offload):
            yield "sync_bytes_per_s", BF16_BYTES * run.shape.parameters / phases["update_weights"]
        tokens = math.ceil(run.samples * run.sequence_tokens / run.micro_batches)  # verl makes them equal
        counted = replace(run, tokens_per_micro_batch=tokens), replace(constants, logit_bytes=0, reserved_gib=0)
        logits_gib = step.actor_peak_gib - sum(plan.update_memory_gib(*counted).values())
        yield "logit_bytes", logits_gib * plan.GIB / (tokens * run.logit_share * run.shape.vocab_size)


def fit_reserved(steps: Sequence[Measured], constants: plan.Constants) -> Found:
    """What a GPU holds at its worst, beside what can be counted: the most of all, as no run should end there."""
    counted, found = replace(constants, reserved_gib=0), [0.0]
    for step in steps:
        parts = plan.update_memory_gib(step.run, counted), plan.rollout_memory_gib(step.run, step.gpu, counted)
        found.append(step.gpu_peak_gib - max(sum(part.values()) for part in parts))
    yield "reserved_gib", max(found)


def fit_decoding(paths: Sequence[Path]) -> Found:
    """From latencies of single requests: a token costs a step and the reading of all weights. Takes two sizes."""
    points = []
    for path in paths:
        result = json.loads(path.read_text())
        if len(result["latency"]) < 3:  # cut short
            continue
        tokens, seconds = zip(
            *((row["answer_tokens"], row["latency_s"]["median"]) for row in result["latency"]), strict=True
        )
        read = BF16_BYTES * PUBLISHED[result["size"]].language_parameters
        read /= read_gpu(path, result["device"]).memory_bytes_per_s
        points.append((read, np.polyfit(tokens, seconds, 1)[0]))
    if len({read for read, _ in points}) > 1:
        slope, step_s = np.polyfit(*zip(*points, strict=True), 1)
        yield "decode_bandwidth_share", 1 / slope
        yield "decode_step_s", max(step_s, 0.0)


def fit_generation(steps: Sequence[Measured], constants: plan.Constants) -> Found:
    """What an answer costs an engine and its node, and what each sequence of a batch adds to a token's time, given all
    else. Takes two lengths of answers and two numbers of GPUs."""
    runs = [step.run for step in steps]
    if len({run.answer_tokens for run in runs}) < 2 or len({run.gpus for run in runs}) < 2:
        return
    names = ("request_s", "node_request_s", "sequence_step_s")
    without = replace(constants, **dict.fromkeys(names, 0.0))
    engine, node = plan.engine_samples, plan.node_samples
    shares = np.array([(engine(run), node(run), engine(run) * run.answer_tokens) for run in runs])
    rest = [step.phases_s["gen"] - plan.generation_s(step.run, step.gpu, without) for step in steps]
    found = np.zeros(len(names))
    kept = np.linalg.lstsq(shares, rest)[0] > 0  # a cost is not negative
    found[kept] = np.linalg.lstsq(shares[:, kept], rest)[0]
    yield from zip(names, map(float, found), strict=True)


def middle(values: Sequence[float | dict[int, float]]) -> float | dict[int, float]:
    """The median, of each width by itself where there are widths."""
    if not isinstance(values[0], dict):
        return float(statistics.median(values))
    widths = sorted({width for value in values for width in value})
    return {width: middle([value[width] for value in values if width in value]) for width in widths}


def rounded(value: float | dict[int, float]) -> float | dict[int, float]:
    """To four digits, to print."""
    if isinstance(value, dict):
        return {width: rounded(number) for width, number in value.items()}
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    constants, sources = plan.read_constants()
    serving = [path for path in args.results if "latency" in json.loads(path.read_text())]
    training = [path for path in args.results if path not in serving]
    steps = [step for path in training for step in read_steps(path)]
    alone = [step for step in steps if step.run.gpus == 1]  # where nothing is communicated
    with_vllm = [step for step in steps if step.engine == "vllm"]
    for fit, files in (
        (lambda c: fit_offload(steps, c), {step.file for step in steps if step.run.param_offload}),
        (lambda c: fit_utilisation(steps, c), {step.file for step in steps if not step.run.compiled}),
        (lambda c: fit_compiled(steps, c), {step.file for step in steps if step.run.compiled}),
        (lambda c: fit_steps(alone, c), {step.file for step in alone}),
        (lambda c: fit_reserved(steps, c), {step.file for step in steps}),
        (lambda _: fit_decoding(serving), {path.name for path in serving}),
        (lambda c: fit_generation(with_vllm, c), {step.file for step in with_vllm}),
    ):
        source = f"measured: {', '.join(sorted(files))}"
        found = defaultdict(list)
        for name, value in fit(constants):
            found[name].append(value)
        constants = replace(constants, **{name: middle(values) for name, values in found.items()})
        sources |= dict.fromkeys(found, source)
        for name, values in found.items():
            print(f"{name}: {rounded(middle(values))}, from {', '.join(map(str, map(rounded, values)))}")
    for step in steps:
        foretold = plan.step_seconds(step.run, step.gpu, constants)
        print(f"\n{step.file}, {step.variant}: step {step.step_s:.1f} s, foretold {sum(foretold.values()):.1f}")
        for name, seconds in foretold.items():
            print(f"  {name}: {step.phases_s.get(name, float('nan')):.2f}, foretold {seconds:.2f}")
    if args.out:
        entries = {name: {"value": value, "source": sources[name]} for name, value in asdict(constants).items()}
        args.out.write_text(yaml.safe_dump(entries, sort_keys=False, width=120))


if __name__ == "__main__":
    cli(main)
