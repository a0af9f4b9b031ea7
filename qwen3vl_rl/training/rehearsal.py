"""What a rehearsal says of the run: time, memory and disk, beside what the planner expects, and what to change."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.expressions import read_prompt
from qwen3vl_rl.data.parquet import iter_parquet, open_parquet
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.predictions import Question, question_key
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.grounding import parse_box_1000, scale_to_px
from qwen3vl_rl.training.gpus import GPUS, gpu_memories_mib
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.timing import step_seconds
from qwen3vl_rl.training.preflight import check_steps
from qwen3vl_rl.training.preflight.machine import modelled_run
from qwen3vl_rl.training.preflight.rows import file_paths
from qwen3vl_rl.training.workload import times

NAME = "rehearsal"  # the run's name, and its folder's
STEPS = 3  # the first compiles, the second is measured, the third is resumed
FULL = 0.95  # of a GPU's memory: answers of another step are longer
SAVING = 0.1  # of the time of a run
CUT_OFF = 0.1  # of the answers
GIB = 2**30
TIMING = "timing_s/"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Seconds, bytes and MiB of one rehearsal; `config` is the run's, without what a rehearsal changes."""

    config: DictConfig
    steps: int  # of the run
    start_s: float  # until the first step was done
    step_s: float
    phases_s: Mapping[str, float]
    save_s: float
    checkpoint_bytes: int
    validate_s: float | None  # None where the run has no validation
    free_bytes: int  # on the disk of the run, with the rehearsal's checkpoints removed
    peaks_mib: tuple[int, ...]  # in use on each GPU
    cut_off: float  # share of the answers

    @classmethod
    def read(cls, folder: Path, config: DictConfig, peaks_mib: Sequence[int], saved_s: Sequence[float]) -> "Rehearsal":
        """Of the folder of a rehearsal; `saved_s`: when its first and its second step were saved."""
        metrics = read_metrics(folder)
        measured, last = metrics[STEPS - 1], metrics[STEPS]
        step_s = measured.get("timing_s/step", measured.get("perf/step_s"))
        newest = folder / f"global_step_{STEPS}"
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        rows = count_rows(config, "data.train_files")
        validated = last.get("timing_s/testing")
        if validated is not None:
            batch = config.data.val_batch_size or config.data.train_batch_size
            validated *= max(1.0, count_rows(config, "data.val_files") / batch)
        if "timing_s/save_checkpoint" in measured:  # stage 2, whose step counts it in
            save_s = measured["timing_s/save_checkpoint"]
            step_s -= save_s
        else:
            save_s = max(0.0, saved_s[1] - saved_s[0] - step_s)
        return cls(
            config=config,
            steps=check_steps(config, rows),
            start_s=saved_s[0] - save_s,
            step_s=step_s,
            phases_s={name.removeprefix(TIMING): value for name, value in measured.items() if name.startswith(TIMING)},
            save_s=save_s,
            checkpoint_bytes=size,
            validate_s=validated,
            free_bytes=shutil.disk_usage(folder).free + size * len(list(folder.glob("global_step_*"))),
            peaks_mib=tuple(peaks_mib),
            cut_off=measured.get("rollout/cut_off", 0.0),
        )

    @property
    def saves(self) -> int:
        return times(self.steps, self.config.trainer.save_freq)

    @property
    def validations(self) -> int:
        first = bool(self.config.trainer.get("val_before_train"))
        return times(self.steps, self.config.trainer.test_freq) + first if self.validate_s is not None else 0

    @property
    def total_s(self) -> float:
        beside_s = self.saves * self.save_s + self.validations * (self.validate_s or 0.0)
        return self.start_s + self.steps * self.step_s + beside_s


def count_rows(config: DictConfig, key: str) -> int:
    total = 0
    for path in file_paths(config, key):
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def first_question(config: DictConfig) -> Question:
    """The first row of the validation data, else of the training data. Its picture's path is absolute."""
    key = "data.val_files" if "actor_rollout_ref" in config else "data.train_files"
    column = "prompt" if "actor_rollout_ref" in config else "messages"
    path = file_paths(config, key)[0]
    number, row = next(iter_parquet(path, [column, "images"]))
    turns = row[column]
    _, sent = read_prompt(path, number, column, turns[0]["content"])
    image = str(Path(row["images"][0]).resolve())
    width, height = open_picture(image).size
    box = parse_box_1000(turns[1]["content"]) if len(turns) > 1 else None
    if len(turns) == 1:
        box = next(iter_parquet(path, ["reward_model"]))[1]["reward_model"]["ground_truth"]
    truth = None if box is None else scale_to_px(tuple(box), width, height)
    sample = Sample(id="1", image=image, width=width, height=height, sent=sent, xyxy_px=truth)
    return Question(question_key("rehearsal", 1), "rehearsal", sample)


def report(done: Rehearsal) -> str:
    planned = planned_phases(done.config)
    lines = [f"rehearsed {STEPS} of {done.steps} steps, killed after the second and resumed"]
    lines.append(f"start, first step included: {done.start_s:.0f} s")
    beside = f", the planner expects {sum(planned.values()):.0f} s" if planned else ""
    lines.append(f"a step: {done.step_s:.1f} s{beside}")
    for name, seconds in sorted(done.phases_s.items(), key=lambda phase: -phase[1]):
        if name not in ("step", "save_checkpoint", "testing") and seconds >= 0.01 * done.step_s:
            lines.append(f"  {seconds:8.1f}  {name}" + (f" ({planned[name]:.1f})" if name in planned else ""))
    gib = done.checkpoint_bytes / GIB
    lines.append(f"a checkpoint: {done.save_s:.1f} s, {gib:.1f} GiB, of {done.free_bytes / GIB:.0f} GiB free")
    if done.validate_s is not None:
        lines.append(f"a validation of all rows: {done.validate_s:.0f} s at most")
    for number, (peak, memory) in enumerate(zip(done.peaks_mib, gpu_memories_mib(), strict=False)):
        lines.append(f"GPU {number}: {peak / 1024:.1f} of {memory / 1024:.1f} GiB in use at most")
    hours = done.total_s / 3600
    lines.append(
        f"in all {hours:.1f} h: {done.steps} steps, {done.saves} checkpoints, {done.validations} validations"
        + (f"; the planner expects {done.steps * sum(planned.values()) / 3600:.1f} h of steps" if planned else "")
    )
    return "\n".join(lines)


def planned_phases(config: DictConfig) -> dict[str, float]:
    """The planner's, for stage 2 on GPUs that it knows; else none."""
    if "actor_rollout_ref" not in config or (run := modelled_run(config)) is None:
        return {}
    memories = gpu_memories_mib()
    gpu = next((gpu for gpu in GPUS.values() if memories and abs(gpu.memory_gib - memories[0] / 1024) < 2), None)
    return step_seconds(run, gpu, read_constants()[0]) if gpu else {}


def advice(done: Rehearsal) -> Iterator[str]:
    """What to change before the run."""
    kept = OmegaConf.select(done.config, "trainer.max_ckpt_to_keep") or 2  # stage 2 keeps the latest and the best
    if done.free_bytes < (kept + 1) * done.checkpoint_bytes:
        needed_gib = (kept + 1) * done.checkpoint_bytes / GIB
        yield f"free {needed_gib:.0f} GiB of disk for {kept + 1} checkpoints, or keep fewer"
    if any(peak > FULL * memory for peak, memory in zip(done.peaks_mib, gpu_memories_mib(), strict=False)):
        yield (
            "GPU memory is nearly full: lower actor_rollout_ref.rollout.gpu_memory_utilization, or the tokens of a "
            "micro-batch (ppo_max_token_len_per_gpu, data.max_token_len_per_gpu)"
        )
    if done.saves * done.save_s > SAVING * done.total_s:
        yield f"checkpoints take {done.saves * done.save_s / done.total_s:.0%} of the time: raise trainer.save_freq"
    if done.validate_s and done.validations * done.validate_s > SAVING * done.total_s:
        share = done.validations * done.validate_s / done.total_s
        yield f"validations take up to {share:.0%} of the time: raise trainer.test_freq, or set data.val_max_samples"
    if done.cut_off > CUT_OFF:
        yield f"{done.cut_off:.0%} of the answers are cut off: raise data.max_response_length"
