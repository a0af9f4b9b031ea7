"""What the planner says of the recipe, as lines of tables: the head first."""

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
    """The planner's, of the recipe as it stands with either engine."""
    constants, gpu = read_constants()[0], GPUS["h200"]
    rows = []
    for speed, size, gpus in product(SPEEDS, SIZES, GPU_COUNTS):
        words = [f"speed={speed}", f"size={size}", *hardware(gpus).split()]
        planned = _planned(*words)
        runs = [replace(planned, rollout_engine=name) for name in ENGINES]
        update = sum(update_memory_gib(planned, gpu.memory_gib, constants).values())
        generation = sum(rollout_memory_gib(planned, gpu.memory_gib, constants).values())
        row = [speed, size, gpus, f"{update:.0f}, {generation:.0f}"]
        if problems(planned, gpu.memory_gib, constants):
            rows.append((*row, "no", "", ""))
            continue
        steps_s = [sum(step_seconds(run, gpu, constants).values()) for run in runs]
        hours = [run.train_rows // run.prompts * step_s / 3600 for run, step_s in zip(runs, steps_s, strict=True)]
        step, epoch = (
            ", ".join(f"{value:.{digits}f}" for value in found) for found, digits in ((steps_s, 0), (hours, 1))
        )
        rows.append((*row, "yes", step, epoch))
    head = ("speed", "size", "H200s", "GiB on each: update, generation", "fits", "step s: sglang, vLLM", "epoch h")
    return [head, *rows]


def fewest_gpus() -> Lines:
    """On which the planner lets the recipe run, as it stands or with a smaller share for the rollout engine."""
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
    """With images of 640x480, and the paper's answers and number of samples."""
    return read_run(compose_recipe(words), PAPER_WORKLOAD)
