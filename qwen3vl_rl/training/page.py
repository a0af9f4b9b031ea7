"""The page of a training run, one HTML file: warnings, curves and, for stage 2, phases and validation answers.

`launch.py` rewrites it at every validation and at the end. `python -m qwen3vl_rl.monitor RUN` writes it at any time.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from omegaconf import OmegaConf

from qwen3vl_rl.data.drawing import Drawing, lines, svg
from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.checkpoints import VALIDATION
from qwen3vl_rl.training.metrics import TIMING, read_metrics
from qwen3vl_rl.training.run_folder import RECIPE_FILE
from qwen3vl_rl.training.signs import Signs

PAGE = "monitor.html"
COLORS = ("#2b5d9b", "#d9302c", "#c77700", "#7a3e9d", "#00838f", "#8d6e63", "#7f8fa6", "#12804a")
CURVES = {  # verl's metric: title. The page draws those that a run has, and every part of the reward
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "critic/score/mean": "reward",
    "response_length/mean": "tokens per answer",
    "rollout/alike_groups": "prompts with all answers right or all wrong",
    "rollout/cut_off": "answers that are cut off",
    "actor/kl_loss": "KL from the start, nats per token",
    "actor/entropy": "entropy, nats per token",
    "training/rollout_probs_diff_mean": "difference between engine's and actor's probabilities",
    "actor/grad_norm": "gradient norm",
    "train/grad_norm": "gradient norm",
    "perf/tokens_per_s": "tokens per second",
    "actor/perf/max_memory_allocated_gb": "GPU memory of the actor, GiB",
    "perf/max_memory_allocated_gb": "GPU memory, GiB",
}
PARTS = "reward/"
WHOLE = "reward/score"  # already drawn as critic/score/mean
NOT_PHASES = ("step", "testing")  # the whole step, and the validation after it
SETTINGS = {  # key of the recipe of either stage: title
    "actor_rollout_ref.model.path": "model",
    "model.path": "model",
    "data.train_files": "data",
    "data.train_batch_size": "batch size",
    "reward.custom_reward_function.reward_kwargs.reward_type": "reward",
    "actor_rollout_ref.rollout.name": "engine",
    "actor_rollout_ref.rollout.n": "answers per prompt",
    "actor_rollout_ref.actor.optim.lr": "learning rate",
    "optim.lr": "learning rate",
    "trainer.n_gpus_per_node": "GPUs per node",
    "trainer.nnodes": "nodes",
}

Metrics = Mapping[int, Mapping[str, float]]  # by step


def write_page(folder: Path) -> Path:
    """Write the page of the run in `folder` and return its path. Raises InputError if the run has no metrics."""
    metrics = dict(sorted(read_metrics(folder).items()))
    if not metrics:
        raise InputError(f"{folder}: expected a training run with metrics-*.jsonl")
    environment = Environment(
        loader=PackageLoader("qwen3vl_rl", "training"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("page.html.j2").render(
        name=folder.resolve().name,
        step=max(metrics),
        settings=list(settings(folder)),
        warnings=list(warnings(metrics)),
        drawings=[*curves(metrics), *phases(metrics)],
        validation=latest_validation(folder, max(metrics)),
    )
    with replacing(folder / PAGE) as draft:
        draft.write_text(page, encoding="utf-8")
    return folder / PAGE


def settings(folder: Path) -> Iterator[tuple[str, str]]:
    recipe = OmegaConf.load(folder / RECIPE_FILE) if (folder / RECIPE_FILE).exists() else OmegaConf.create()
    for key, title in SETTINGS.items():
        if (value := OmegaConf.select(recipe, key)) is not None:
            yield title, str(value)


def warnings(metrics: Metrics) -> Iterator[str]:
    """The warnings of `signs.py`, each with the step at which it appeared."""
    signs = Signs()
    for step, row in metrics.items():
        yield from (f"step {step}: {line.removeprefix('warning: ')}" for line in signs.look(row))


def curves(metrics: Metrics) -> Iterator[Drawing]:
    parts = sorted({name for row in metrics.values() for name in row if name.startswith(PARTS)} - {WHOLE})
    validated = sorted({name for row in metrics.values() for name in fnmatch.filter(row, VALIDATION)})
    titles = {name: f"validation accuracy, {name.split('/')[1]}" for name in validated} | CURVES
    titles |= {part: f"reward: {part.removeprefix(PARTS)}" for part in parts}
    nonzero = {name: title for name, title in titles.items() if any(row.get(name) for row in metrics.values())}
    yield from lines(metrics, nonzero, COLORS[0])


def phases(metrics: Metrics) -> Iterator[Drawing]:
    """The seconds of each step by phase. Only the largest phases are shown."""
    rows = {step: row for step, row in metrics.items() if f"{TIMING}step" in row}
    names = {name for row in rows.values() for name in row if name.startswith(TIMING)}
    names -= {f"{TIMING}{name}" for name in NOT_PHASES}
    total = {name: sum(row.get(name, 0.0) for row in rows.values()) for name in names}
    shown = sorted(total, key=total.__getitem__, reverse=True)[: len(COLORS)]
    if len(rows) < 2:
        return

    def stack(axes) -> None:
        values = [[row.get(name, 0.0) for row in rows.values()] for name in shown]
        labels = [name.removeprefix(TIMING) for name in shown]
        axes.stackplot(list(rows), values, labels=labels, colors=COLORS)
        axes.set_axisbelow(True)
        axes.legend(fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), reverse=True)

    yield Drawing("seconds per step, by phase", svg(stack, "step"))


def latest_validation(folder: Path, step: int) -> tuple[int, str] | None:
    """The last step up to `step` with a page of validation answers, and that page. None if the run has none.

    A run that has resumed from an earlier step leaves the pages of later ones.
    """
    found = {int(path.stem): path for path in (folder / "validation").glob("*.html") if path.stem.isdecimal()}
    pages = {number: path for number, path in found.items() if number <= step}
    return (max(pages), pages[max(pages)].read_text(encoding="utf-8")) if pages else None
