"""The report of a rehearsal: time, memory and disk of the run, next to the planner's numbers, and what to change."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from qwen3vl_rl.data.expressions import read_prompt
from qwen3vl_rl.data.parquet import iter_parquet, open_parquet
from qwen3vl_rl.data.pictures import open_picture
from qwen3vl_rl.data.predictions import Question, question_key
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.grounding import parse_box_1000, scale_to_px
from qwen3vl_rl.training.gpus import GPUS, gpu_memories_mib, gpu_names
from qwen3vl_rl.training.memory import GIB
from qwen3vl_rl.training.metrics import TIMING, read_metrics
from qwen3vl_rl.training.planner.constants import read_constants
from qwen3vl_rl.training.planner.timing import step_seconds
from qwen3vl_rl.training.preflight import check_steps
from qwen3vl_rl.training.preflight.machine import modelled_run
from qwen3vl_rl.training.preflight.rows import file_paths
from qwen3vl_rl.training.workload import times

NAME = "rehearsal"  # of the run and of its folder
STEPS = 3  # the first compiles, the second is measured, the third is resumed
FULL = 0.95  # share of a GPU's memory, since the answers of other steps may be longer
SAVING = 0.1  # share of the time of a run
CUT_OFF = 0.1  # share of the answers


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The measurements of one rehearsal."""

    config: DictConfig  # the run's, without the changes for a rehearsal
    steps: int  # of the whole run
    steps_per_epoch: int
    start_s: float  # until the first step was finished
    step_s: float
    phases_s: Mapping[str, float]
    save_s: float
    checkpoint_bytes: int
    validate_s: float | None  # None if the run has no validation
    free_bytes: int  # on the disk of the run, without the rehearsal's checkpoints
    peaks_mib: tuple[int, ...]  # the most memory in use on each GPU
    answer_tokens: float | None  # mean length of an answer, stage 2 only
    cut_off: float  # share of the answers

    @classmethod
    def read(cls, folder: Path, config: DictConfig, peaks_mib: Sequence[int], first_saved_s: float) -> "Rehearsal":
        """Read the folder of a rehearsal. `first_saved_s`: seconds from its start until its first step was saved."""
        metrics = read_metrics(folder)
        measured, last = metrics[STEPS - 1], metrics[STEPS]
        step_s, save_s = step_and_save_s(measured)
        newest = folder / f"global_step_{STEPS}"
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        return cls(
            config=config,
            steps=check_steps(config, count_rows(config, "data.train_files")),
            steps_per_epoch=count_rows(config, "data.train_files") // config.data.train_batch_size,
            start_s=first_saved_s - save_s,
            step_s=step_s,
            phases_s={name.removeprefix(TIMING): value for name, value in measured.items() if name.startswith(TIMING)},
            save_s=save_s,
            checkpoint_bytes=size,
            validate_s=validation_s(config, last),
            free_bytes=shutil.disk_usage(folder).free + size * len(list(folder.glob("global_step_*"))),
            peaks_mib=tuple(peaks_mib),
            answer_tokens=measured.get("response_length/mean"),
            cut_off=measured.get("rollout/cut_off", 0.0),
        )

    def _frequency(self, key: str) -> int:
        """The number of steps that `key` names. Stage 1 also allows `after_each_epoch`."""
        value = self.config.trainer[key]
        return value if isinstance(value, int) else self.steps_per_epoch

    @property
    def saves(self) -> int:
        return times(self.steps, self._frequency("save_freq"))

    @property
    def validations(self) -> int:
        first = bool(self.config.trainer.get("val_before_train"))
        return times(self.steps, self._frequency("test_freq")) + first if self.validate_s is not None else 0

    @property
    def total_s(self) -> float:
        between_s = self.saves * self.save_s + self.validations * (self.validate_s or 0.0)
        return self.start_s + self.steps * self.step_s + between_s


def step_and_save_s(measured: Mapping[str, float]) -> tuple[float, float]:
    """Seconds of a step without checkpoint, and of the checkpoint before or after it."""
    if "timing_s/step" in measured:  # stage 2, whose step time includes its checkpoint
        save_s = measured.get("timing_s/save_checkpoint", 0.0)
        return measured["timing_s/step"] - save_s, save_s
    between_s = measured["timing_s/data"]  # saves the step before, and loads the next batch
    return measured["perf/step_s"] - between_s, between_s


def validation_s(config: DictConfig, last: Mapping[str, float]) -> float | None:
    """Seconds of a validation on all rows, at most, assuming that they grow with the rows; None without validation."""
    if (measured := last.get("timing_s/testing")) is None:
        return None
    rows, limit = count_rows(config, "data.val_files"), config.data.val_max_samples
    rows = min(rows, limit) if limit > 0 else rows
    return measured * max(1.0, rows / (config.data.val_batch_size or config.data.train_batch_size))


def count_rows(config: DictConfig, key: str) -> int:
    total = 0
    for path in file_paths(config, key):
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def first_question(config: DictConfig) -> Question:
    """The first row of the validation data, or in stage 1 of the training data, with an absolute image path.

    Raises InputError, TypeError or KeyError for rows of another kind.
    """
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
    planned = planned_phases(done)
    lines = [f"rehearsed {STEPS} of {done.steps} steps, killed after the second and resumed"]
    lines.append(f"start with the first step: {done.start_s:.0f} s")
    expected = f", the planner expects {sum(planned.values()):.0f} s" if planned else ""
    lines.append(f"a step: {done.step_s:.1f} s{expected}")
    for name, seconds in sorted(done.phases_s.items(), key=lambda phase: -phase[1]):
        if name not in ("step", "save_checkpoint", "testing") and seconds >= 0.01 * done.step_s:
            lines.append(f"  {seconds:8.1f}  {name}" + (f" ({planned[name]:.1f})" if name in planned else ""))
    gib = done.checkpoint_bytes / GIB
    lines.append(f"a checkpoint: {done.save_s:.1f} s, {gib:.1f} GiB, of {done.free_bytes / GIB:.0f} GiB free")
    if done.validate_s is not None:
        lines.append(f"a validation of all rows: {done.validate_s:.0f} s at most")
    for number, (peak, memory) in enumerate(zip(done.peaks_mib, gpu_memories_mib(), strict=False)):
        lines.append(f"GPU {number}: at most {peak / 1024:.1f} of {memory / 1024:.1f} GiB in use")
    hours = done.total_s / 3600
    lines.append(
        f"{hours:.1f} h in total: {done.steps} steps, {done.saves} checkpoints, {done.validations} validations"
        + (f"; the planner expects {done.steps * sum(planned.values()) / 3600:.1f} h of steps" if planned else "")
    )
    return "\n".join(lines)


def planned_phases(done: Rehearsal) -> dict[str, float]:
    """The planner's seconds for each phase, at the measured length of answers. Empty in stage 1 and on unknown GPUs."""
    if "actor_rollout_ref" not in done.config or (run := modelled_run(done.config)) is None:
        return {}
    names = gpu_names()
    gpu = next((gpu for gpu in GPUS.values() if names and gpu.name in names[0]), None)
    if gpu is None or done.answer_tokens is None:
        return {}
    return step_seconds(replace(run, answer_tokens=round(done.answer_tokens)), gpu, read_constants()[0])


def advice(done: Rehearsal) -> Iterator[str]:
    """One line for each thing to change before the run."""
    stage_2 = "actor_rollout_ref" in done.config
    kept = 2 if stage_2 else done.config.trainer.max_ckpt_to_keep or done.saves  # stage 2 keeps the latest and the best
    if done.free_bytes < (kept + 1) * done.checkpoint_bytes:
        needed_gib = (kept + 1) * done.checkpoint_bytes / GIB
        yield f"free {needed_gib:.0f} GiB of disk for {kept + 1} checkpoints, or keep fewer"
    if any(peak > FULL * memory for peak, memory in zip(done.peaks_mib, gpu_memories_mib(), strict=False)):
        less = "actor_rollout_ref.rollout.gpu_memory_utilization or " if stage_2 else ""
        tokens = "ppo_max_token_len_per_gpu" if stage_2 else "data.max_token_len_per_gpu"
        yield f"GPU memory is nearly full: lower {less}{tokens}"
    if done.saves * done.save_s > SAVING * done.total_s:
        yield f"checkpoints take {done.saves * done.save_s / done.total_s:.0%} of the time: raise trainer.save_freq"
    if done.validate_s and done.validations * done.validate_s > SAVING * done.total_s:
        share = done.validations * done.validate_s / done.total_s
        yield f"validations take up to {share:.0%} of the time: raise trainer.test_freq, or set data.val_max_samples"
    if done.cut_off > CUT_OFF:
        yield f"{done.cut_off:.0%} of the answers are cut off: raise data.max_response_length"
