"""How both stages hand a recipe to verl: one recipe file, one log, one metrics file, and a line per step on the screen.

Of a run in FOLDER (`trainer.default_local_dir`): `recipe.yaml` is the composed config, `train.log` all that verl and
its engines print, `metrics-*.jsonl` verl's metrics, one file per start, and `global_step_*` the checkpoints.
"""

import importlib.util
import json
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.engine import cpu, process
from qwen3vl_rl.grounding import InputError

POLL_S = 0.2


def verl_config() -> str:
    """The folder of verl's own Hydra configs. Importing verl would take seconds, and settle its platform too early."""
    return str(Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config", verl_config, replace=True)


def check_choices(groups: Path, overrides: Sequence[str]) -> None:
    """Raise InputError for an override `group=choice` of a config group of ours that has no such choice."""
    for group, _, choice in (override.partition("=") for override in overrides):
        choices = sorted(path.stem for path in (groups / group).glob("*.yaml")) if group.isidentifier() else []
        if choices and choice not in choices:
            raise InputError(f'{group}: expected one of {", ".join(choices)}, got "{choice}"')


def check_paths(config: DictConfig, model: str, *files: str) -> None:
    """Raise InputError for a key that is not set, or names what is not there. A model may be `owner/name` of a hub."""
    for key in (model, *files):
        value = OmegaConf.select(config, key)
        if not value:
            raise InputError(f"{key}: expected a path, got nothing")
        for path in [value] if isinstance(value, str) else value:
            on_hub = key == model and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not Path(path).parent.exists()
            if not on_hub and not Path(path).expanduser().exists():
                raise InputError(f"{key}: no such file or folder: {path}")


def run(config: DictConfig, command: Sequence[str], columns: Mapping[str, str]) -> None:
    """Run `python -m COMMAND` of verl on the recipe; `columns` maps the labels of the step lines to metrics.

    Exits with code 1 where verl fails.
    """
    if config.trainer.device == "cpu":
        cpu.activate()
    folder = Path(config.trainer.default_local_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "recipe.yaml")
    recipe = ["--config-path", str(folder), "--config-name", "recipe"]
    hydra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    metrics = _next_metrics_file(folder)
    log = folder / "train.log"
    print(f"starting; log in {log}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the child is stopped, too
    with TemporaryDirectory(prefix="egm-", ignore_cleanup_errors=True) as temporary:  # Ray and vLLM leave files behind
        environment = {"VERL_FILE_LOGGER_PATH": str(metrics), "TMPDIR": temporary}
        child = process.start([sys.executable, "-m", *command, *recipe, *hydra], log, environment)
        try:
            _follow(child, metrics, columns)
        finally:
            process.stop(child)
    if child.returncode:
        print(f"error: training stopped with {_reason(child.returncode, log)}; see {log}", file=sys.stderr)
        raise SystemExit(1)


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics of a run by step. Of a step that was trained again after a resume, the later ones."""
    rows = (json.loads(line) for path in sorted(folder.glob("metrics-*.jsonl")) for line in path.open())
    return {row["step"]: row["data"] for row in rows}


def _reason(code: int, log: Path) -> str:
    """The last exception that `log` names, else the exit code."""
    exceptions = re.findall(r"^\w[\w.]*(?:Error|Exception)\b.*", log.read_text(errors="replace"), re.MULTILINE)
    return exceptions[-1] if exceptions else f"exit code {code}"


def _next_metrics_file(folder: Path) -> Path:
    """verl empties the file that it is given, so every start gets its own."""
    taken = [int(path.stem.removeprefix("metrics-")) for path in folder.glob("metrics-*.jsonl")]
    return folder / f"metrics-{max(taken, default=-1) + 1:03d}.jsonl"


def _follow(child, metrics: Path, columns: Mapping[str, str]) -> None:
    """Print a line for every step that `child` reports, until it ends."""
    while child.poll() is None and not metrics.exists():
        time.sleep(POLL_S)
    if metrics.exists():
        with metrics.open() as file:
            while child.poll() is None:
                _print_steps(file, columns)
                time.sleep(POLL_S)
            _print_steps(file, columns)


def _print_steps(file: IO[str], columns: Mapping[str, str]) -> None:
    position = file.tell()
    while (line := file.readline()).endswith("\n"):
        row = json.loads(line)
        values = [f"{label} {row['data'][key]:.4g}" for label, key in columns.items() if key in row["data"]]
        print("  ".join([f"step {row['step']}", *values]), flush=True)
        position = file.tell()
    file.seek(position)  # a line that is still being written
