"""Predictions of the planner for the recipe, as lines of tables whose first line is the head."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from qwen3vl_rl.training.gpus import GPUS, Gpu
from qwen3vl_rl.training.memory import problems, rollout_memory_gib, update_memory_gib
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.remedies import GPU_COUNTS as PLANNED_COUNTS
from qwen3vl_rl.training.planner.remedies import hardware, less_for_rollouts
from qwen3vl_rl.training.planner.timing import step_seconds
from qwen3vl_rl.training.workload import PAPER_WORKLOAD, Run, compose_recipe, read_run

ENGINES, SIZES, SPEEDS = ("sglang", "vllm"), ("2b", "4b", "8b"), ("offload", "fast")
GPU_COUNTS = (1, 2, 4, 8, 64)  # 64: eight nodes
Lines = list[Sequence[object]]


def predictions() -> Lines:
    """Memory and time of the recipe with either engine, on several numbers of H200s."""
    gpu = GPUS["h200"]
    rows = (
        [speed, size, gpus, *_prediction(speed, size, gpus, gpu)]
        for speed, size, gpus in product(SPEEDS, SIZES, GPU_COUNTS)
    )
    head = ("speed", "size", "H200s", "GiB on each: update, generation", "fits", "step s: sglang, vLLM", "epoch h")
    return [head, *rows]


def _prediction(speed: str, size: str, gpus: int, gpu: Gpu) -> tuple[str, str, str, str]:
    """GiB on each GPU, whether it fits, and where it does seconds of a step and hours of an epoch, by engine."""
    constants = read_constants()[0]
    planned = _planned(f"speed={speed}", f"size={size}", *hardware(gpus).split())
    runs = [replace(planned, rollout_engine=name) for name in ENGINES]
    memory_gib = (
        sum(parts(planned, gpu.memory_gib, constants).values()) for parts in (update_memory_gib, rollout_memory_gib)
    )
    memory = ", ".join(f"{gib:.0f}" for gib in memory_gib)
    if problems(planned, gpu.memory_gib, constants):
        return memory, "no", "", ""
    steps_s = [sum(step_seconds(run, gpu, constants).values()) for run in runs]
    hours = [run.train_rows // run.prompts * step_s / 3600 for run, step_s in zip(runs, steps_s, strict=True)]
    step, epoch = (", ".join(f"{value:.{digits}f}" for value in found) for found, digits in ((steps_s, 0), (hours, 1)))
    return memory, "yes", step, epoch


def one_node() -> Lines:
    """For each size and speed, the fewest GPUs, and memory and time on a node of eight H200s."""
    kinds, gpus = (GPUS["h100"], GPUS["h200"]), 8
    rows = []
    for size, speed in product(SIZES, SPEEDS):
        fewest = (_fewest(gpu, f"speed={speed}", f"size={size}") for gpu in kinds)
        memory, _, step, epoch = _prediction(speed, size, gpus, GPUS["h200"])
        rows.append((size.upper(), f"`speed={speed}`", *fewest, memory, step, epoch))
    fewest_head = (f"fewest {gpu.name}s" for gpu in kinds)
    eight = "GiB on each of 8 H200s: update, generation", "step s: sglang, vLLM", "epoch h: sglang, vLLM"
    return [("model", "setting", *fewest_head, *eight), *rows]


def fewest_gpus() -> Lines:
    """The fewest GPUs on which the recipe fits, as it stands or with a smaller share for the rollout engine."""
    rows = (
        [f"{gpu.name}, `speed={speed}`", *(_fewest(gpu, f"speed={speed}", f"size={size}") for size in SIZES)]
        for gpu, speed in product((GPUS["h100"], GPUS["h200"]), SPEEDS)
    )
    return [("", *SIZES), *rows]


def _fewest(gpu: Gpu, *words: str) -> str:
    constants, found = read_constants()[0], []
    for gpus in PLANNED_COUNTS:
        run = _planned(*words, *hardware(gpus).split())
        shares = [run, *(less for _, less in less_for_rollouts(run))]
        fits = next((less for less in shares if not problems(less, gpu.memory_gib, constants)), None)
        if fits is run:
            return ", ".join([*found, str(gpus)])
        if fits and not found:
            found.append(f"{gpus} with {fits.rollout_memory_share}")
    raise ValueError(f"{' '.join(words)}: too large for {gpus} GPUs")


def _planned(*words: str) -> Run:
    """With images of 640x480 px, the paper's answer length, and its number of samples."""
    return read_run(compose_recipe(words), PAPER_WORKLOAD)
