"""Fit the planner's constants on measurements, and print what the planner then predicts for them.

    python -m benchmarks.planner.fit FILE... [--out qwen3vl_rl/training/planner/constants.yaml]

FILE is a result of `benchmarks.grpo_step` or `benchmarks.serving`, on any GPU that the planner knows: constants are
shares of the GPU's data sheet. A constant is the median of the values that the measurements give for it, for each width
of the model where the planner keeps it by width. A constant without a measurement is not changed. `--out` writes them.
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
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.models.families import SIZES
from qwen3vl_rl.models.shapes import BF16_BYTES
from qwen3vl_rl.training.gpus import GPUS, Gpu
from qwen3vl_rl.training.memory import GIB, rollout_memory_gib, update_memory_gib
from qwen3vl_rl.training.planner import timing
from qwen3vl_rl.training.planner.constants import Constants, read_constants
from qwen3vl_rl.training.workload import Run, Workload, compose_recipe, read_run


@dataclass(frozen=True)
class Measured:
    """One variant of one result of `grpo_step`, with the `Run` that the planner reads from its recipe."""

    file: str
    variant: str
    gpu: Gpu
    run: Run
    step_s: float
    phases_s: dict[str, float]
    actor_peak_gib: float  # allocated by torch
    gpu_peak_gib: float  # in use, as nvidia-smi counts it

    @property
    def width(self) -> int:
        return self.run.shape.hidden_size

    @property
    def other_s(self) -> float:
        """Seconds of the step outside of the phases that the planner knows. Phases may overlap."""
        return max(0.0, self.step_s - sum(s for name, s in self.phases_s.items() if name not in ("reward", "adv")))


Value = float | dict[int, float]  # by width of the model
Found = Iterator[tuple[str, Value, str]]  # a constant, the value that a measurement gives for it, and its files


def read_gpu(path: Path, device: str) -> Gpu:
    """The GPU of a result with this `device`. Raises InputError for a GPU that the planner does not know."""
    for kind, gpu in GPUS.items():
        if kind.upper() in device:
            return gpu
    raise InputError(f'{path}: "device": expected one of {", ".join(GPUS)}, got {device}')


def read_steps(path: Path) -> Iterator[Measured]:
    result = json.loads(path.read_text())
    settings, gpu = argparse.Namespace(**result["settings"]), read_gpu(path, result["device"])
    for found in result["variants"]:
        if "steps" not in found:
            continue
        variant = found["variant"].replace("encode-each", "prompt-per-answer")
        variant = variant.removesuffix("+bfloat16")  # of rollouts: the default now
        overrides = grpo_step.recipe(settings, Path("none"), Path("none"), variant, Path("none"))
        config = compose_recipe(overrides)
        # Skipped: asynchronous runs, whose phases belong to several steps, and prompts prepared for each answer.
        one_by_one = config.actor_rollout_ref.rollout.agent.default_agent_loop != "image_once"
        if config.trainer.v1.trainer_mode != "sync" or one_by_one:
            continue
        workload = Workload(IMAGE_PX, settings.answer_tokens, settings.prompts)
        run = read_run(config, workload)
        if "share_prompts" not in found:  # older results: images were shared, prompts were not
            run = replace(run, share_prompts=False, head_tokens=math.inf)
        text = round(found["prompt_tokens"]["median"]) - run.image_tokens
        phases = {name: values["median"] for name, values in found["phases_s"].items()}
        yield Measured(
            path.name,
            found["variant"],
            gpu,
            replace(run, prompt_text_tokens=text),
            found["step_s"]["median"],
            phases,
            found["actor_peak_gib"]["median"],
            max(found["gpu_peak_gib"]),
        )


def fit_offload(steps: Sequence[Measured], constants: Constants) -> Found:
    """The pass of the old policy differs from the reference's in that the actor's weights come from the host before it
    and go back after it. The reference's weights load while it computes, and are assumed to cost no time: a single run
    cannot separate the two."""
    for step in steps:
        if step.run.param_offload and step.run.old_log_probs and step.run.reference:
            moving = step.phases_s["old_log_prob"] - step.phases_s["ref"]
            if moving > 0:  # else something else made the passes differ
                yield "host_bytes_per_s", 2 * step.run.weight_bytes / moving, step.file


def fit_utilisation(steps: Sequence[Measured], constants: Constants) -> Found:
    """From passes that are not compiled, without the time that weights take to and from the host. Between GPUs, weights
    move while GPUs compute, and waiting for them counts as computing. Raises InputError where no time is left."""
    for step in (step for step in steps if not step.run.compiled):
        run, phases = step.run, step.phases_s
        work = run.forward_flops / (run.gpus * step.gpu.flops)
        loading = timing.offload_s(run, constants, params=run.param_offload)
        moving = timing.offload_s(run, constants, params=run.param_offload, moments=run.optimizer_offload)
        passes = 4 if run.checkpointing else 3
        for name, phase, amount, moving_s in (
            ("forward_utilisation", "ref", work, None if run.ref_offload else 0.0),
            ("forward_utilisation", "old_log_prob", work, loading if run.old_log_probs else None),
            ("update_utilisation", "update_actor", passes * work, moving),
        ):
            if moving_s is None or phase not in phases:
                continue
            if phases[phase] <= moving_s:
                raise InputError(
                    f"{step.file}, {step.variant}: {phase}: expected more than the {moving_s:.1f} s of moving weights"
                )
            yield name, {step.width: amount / (phases[phase] - moving_s)}, step.file


def fit_compiled(steps: Sequence[Measured], constants: Constants) -> Found:
    """How many times as fast passes with compiled blocks are as predicted without them."""
    plain = replace(constants, compiled_speed={0: 1.0})
    for step in (step for step in steps if step.run.compiled):
        phases = {"update_actor": timing.update_s(step.run, step.gpu, plain)}
        if step.run.reference and not step.run.ref_offload:
            phases["ref"] = timing.pass_s(step.run, step.gpu, plain)
        for phase, predicted in phases.items():
            yield "compiled_speed", {step.width: predicted / step.phases_s[phase]}, step.file


def fit_steps(steps: Sequence[Measured], constants: Constants) -> Found:
    """From one GPU, where nothing is communicated: seconds that neither computing nor moving weights explains, the rate
    at which vLLM receives new weights, and the memory of logits."""
    for step in (step for step in steps if step.run.gpus == 1):
        run = step.run
        yield "fixed_step_s", step.other_s, step.file
        if run.compiled:
            continue
        if run.rollout_engine == "vllm" and not (run.param_offload or run.optimizer_offload):
            bytes_per_s = BF16_BYTES * run.shape.parameters / step.phases_s["update_weights"]
            yield "sync_bytes_per_s", bytes_per_s, step.file
        tokens = math.ceil(run.trained_tokens / run.micro_batches)  # verl balances micro-batches
        counted = replace(run, tokens_per_micro_batch=tokens)
        without = replace(constants, logit_bytes=0, reserved_gib=0)
        logits_gib = step.actor_peak_gib - sum(update_memory_gib(counted, step.gpu.memory_gib, without).values())
        logits = min(run.head_tokens, tokens * run.logit_share) * run.shape.vocab_size
        yield "logit_bytes", logits_gib * GIB / logits, step.file


def fit_reserved(steps: Sequence[Measured], constants: Constants) -> Found:
    """The largest memory in use beyond what can be counted, over all steps, so that no run exceeds it."""
    counted, found = replace(constants, reserved_gib=0), []
    for step in steps:
        parts = (memory(step.run, step.gpu.memory_gib, counted) for memory in (update_memory_gib, rollout_memory_gib))
        found.append(step.gpu_peak_gib - max(sum(part.values()) for part in parts))
    if found:
        yield "reserved_gib", max(0.0, *found), names(steps)


def fit_decoding(paths: Sequence[Path], constants: Constants) -> Found:
    """From latencies of single requests: a token costs a constant and the time to read all weights. Needs two sizes."""
    points, used = [], []
    for path in paths:
        result = json.loads(path.read_text())
        if len(result["latency"]) < 3 or result.get("quantize") or result.get("drafts"):
            continue  # cut short, or other bytes per weight, or several tokens per step
        used.append(path.name)
        tokens, seconds = zip(
            *((row["answer_tokens"], row["latency_s"]["median"]) for row in result["latency"]), strict=True
        )
        read = BF16_BYTES * SIZES[result["size"]][1].language_parameters
        read /= read_gpu(path, result["device"]).memory_bytes_per_s
        points.append((read, np.polyfit(tokens, seconds, 1)[0]))
    if len({read for read, _ in points}) > 1:
        slope, step_s = np.polyfit(*zip(*points, strict=True), 1)
        files = ", ".join(sorted(used))
        yield "decode_bandwidth_share", 1 / slope, files
        yield "decode_step_s", max(step_s, 0.0), files


def fit_generation(steps: Sequence[Measured], constants: Constants) -> Found:
    """With vLLM, and all other constants given: the seconds that an answer costs its engine and its node. It needs two
    numbers of GPUs. With two lengths of answers it also finds the time that each sequence of a batch adds to a token.
    Older results, in which every answer was a separate request, are left out."""
    steps = [step for step in steps if step.run.rollout_engine == "vllm" and step.run.share_prompts]
    runs = [step.run for step in steps]
    if len({run.gpus for run in runs}) < 2:
        return
    engine, node = timing.answers_per_engine, timing.answers_per_node
    costs = {"request_s": engine, "node_request_s": node}
    if len({run.answer_tokens for run in runs}) > 1:
        costs["sequence_step_s"] = lambda run: engine(run) * run.answer_tokens
    unknown = tuple(costs)
    without = replace(constants, **dict.fromkeys(unknown, 0.0))
    shares = np.array([[share(run) for share in costs.values()] for run in runs])
    rest = [step.phases_s["gen"] - timing.generation_s(step.run, step.gpu, without) for step in steps]
    found = np.zeros(len(unknown))
    kept = np.linalg.lstsq(shares, rest)[0] > 0  # a cost is not negative
    found[kept] = np.linalg.lstsq(shares[:, kept], rest)[0]
    for name, value in zip(unknown, map(float, found), strict=True):
        yield name, value, names(steps)


def fit_sglang(steps: Sequence[Measured], constants: Constants) -> Found:
    """How many times as long sglang takes. Older results are left out, as above."""
    as_vllm = replace(constants, sglang_generation=1.0)
    for step in (step for step in steps if step.run.rollout_engine == "sglang" and step.run.share_prompts):
        predicted = timing.generation_s(step.run, step.gpu, as_vllm)
        yield "sglang_generation", step.phases_s["gen"] / predicted, step.file


def names(steps: Sequence[Measured]) -> str:
    return ", ".join(sorted({step.file for step in steps}))


def middle(values: Sequence[Value]) -> Value:
    """The median, for each width where values are by width."""
    if not isinstance(values[0], dict):
        return float(statistics.median(values))
    widths = sorted({width for value in values for width in value})
    return {width: middle([value[width] for value in values if width in value]) for width in widths}


def rounded(value: Value) -> Value:
    """Rounded to four significant digits, to print."""
    if isinstance(value, dict):
        return {width: rounded(number) for width, number in value.items()}
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    constants, sources = read_constants()
    serving = [path for path in args.results if "latency" in json.loads(path.read_text())]
    steps = [step for path in args.results if path not in serving for step in read_steps(path)]
    for fit, measured in (
        (fit_offload, steps),
        (fit_utilisation, steps),
        (fit_compiled, steps),
        (fit_steps, steps),
        (fit_reserved, steps),
        (fit_decoding, serving),
        (fit_generation, steps),
        (fit_sglang, steps),
    ):
        found = defaultdict(list)
        for name, value, file in fit(measured, constants):
            found[name].append((value, file))
        for name, pairs in found.items():
            values, files = zip(*pairs, strict=True)
            value = middle(values)
            if isinstance(value, dict):  # keep widths without a measurement
                value = getattr(constants, name) | value
            constants = replace(constants, **{name: value})
            sources[name] = f"measured: {', '.join(sorted(set(files)))}"
            print(f"{name}: {rounded(value)}, from {', '.join(map(str, map(rounded, values)))}")
    for step in steps:
        predicted = timing.step_seconds(step.run, step.gpu, constants)
        print(f"\n{step.file}, {step.variant}: step {step.step_s:.1f} s, predicted {sum(predicted.values()):.1f}")
        for name, seconds in predicted.items():
            print(f"  {name}: {(step.phases_s | {'other': step.other_s})[name]:.2f}, predicted {seconds:.2f}")
    if args.out:
        entries = {name: {"value": value, "source": sources[name]} for name, value in asdict(constants).items()}
        args.out.write_text(yaml.safe_dump(entries, sort_keys=False, width=120))


if __name__ == "__main__":
    cli(main)
