"""The checkpoints of a run: the latest, the best, and those to remove.

verl writes the folder `global_step_N`, and then N into `latest_checkpointed_iteration.txt`. So the checkpoint that
the file names is complete.
"""

import json
import shutil
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.training.metrics import matching, read_metrics
from qwen3vl_rl.training.run_folder import FETCHED_FILE, LATEST, resumes_latest
from qwen3vl_rl.training.signs import Signs

# verl's metric of accuracy for each data source of the validation set. The number after @ is that of the answers per
# question.
VALIDATION = "val-core/*/acc/mean@*"


def latest_step(run: Path) -> int | None:
    """The step of the newest complete checkpoint, None if there is none.

    A run that was killed while it wrote the record leaves an empty file. The checkpoint was complete by then, so the
    newest folder counts.
    """
    if not (run / LATEST).exists():
        return None
    written = (run / LATEST).read_text().strip()
    return int(written) if written else max(_steps(run), default=None)


def signs_before(run: Path) -> Signs:
    """Signs that have already seen the steps up to the latest checkpoint."""
    kept = latest_step(run) or 0  # later steps are repeated
    return Signs(row for step, row in sorted(read_metrics(run).items()) if step <= kept)


def best_step(run: Path) -> int | None:
    """The step of the complete checkpoint with the highest validation accuracy, averaged over data sources.

    The earliest of several equal ones; None if none was validated.
    """
    latest, metrics = latest_step(run), read_metrics(run)
    validated = {step: matching(metrics.get(step, {}), VALIDATION) for step in _steps(run)}
    accuracy = {step: fmean(metrics[step][name] for name in names) for step, names in validated.items() if names}
    complete = [step for step in accuracy if latest is not None and step <= latest]
    return max(complete, key=lambda step: (accuracy[step], -step), default=None)


def is_trained(config: DictConfig, steps: int) -> bool:
    """Whether the run that a recipe would resume is finished.

    It is after `steps` steps. A run that filters groups is also finished if too few prompts are left for a step.
    """
    if not resumes_latest(config):
        return False
    folder = Path(config.trainer.default_local_dir)
    step = latest_step(folder) or 0
    return step >= steps or _has_fetched_all(folder / f"global_step_{step}" / FETCHED_FILE, config, steps)


def _has_fetched_all(path: Path, config: DictConfig, steps: int) -> bool:
    filters = OmegaConf.select(config, "algorithm.filter_groups.enable")
    if not filters or config.trainer.total_training_steps or not path.exists():
        return False
    return json.loads(path.read_text())["prompts"] > (steps - 1) * config.data.train_batch_size


def remove_others(run: Path) -> None:
    """Remove all checkpoints except the latest and the best."""
    keep = {latest_step(run), best_step(run)}
    for step in _steps(run):
        if step not in keep:
            shutil.rmtree(run / f"global_step_{step}")


def keep_newest(run: Path, count: int) -> None:
    """Remove all complete checkpoints except the `count` newest. verl counts only those that the same start has
    saved."""
    latest = latest_step(run)
    complete = [step for step in _steps(run) if latest is not None and step <= latest]
    for step in complete[:-count]:
        shutil.rmtree(run / f"global_step_{step}")


def repair_checkpoint_record(run: Path) -> None:
    """Write the record that a killed run left empty (see `latest_step`). verl cannot read an empty one."""
    if (step := latest_step(run)) is not None and not (run / LATEST).read_text().strip():
        (run / LATEST).write_text(str(step))


def _steps(run: Path) -> list[int]:
    names = (path.name.removeprefix("global_step_") for path in run.glob("global_step_*"))
    return sorted(int(name) for name in names if name.isdecimal())  # users may keep copies under other names
