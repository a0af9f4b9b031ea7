"""How both stages hand a recipe to verl: one recipe file, one log, one metrics file, and a line per step on the screen.

Of a run in FOLDER (`trainer.default_local_dir`): `recipe.yaml` is the composed config, `train.log` all that verl and
its engines print, `metrics-*.jsonl` verl's metrics, one file per start, and `global_step_*` the checkpoints. What
`earlier-` begins is of a run before, which this one did not go on with.
"""

import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.errors import FATAL, InputError
from qwen3vl_rl.training import cpu
from qwen3vl_rl.training import processes as process

POLL_S, LOOK_S = 0.2, 15.0
FORWARDED = ("WANDB_", "HF_", "NCCL_", "VLLM_", "SGLANG_")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")
LORA = ("lora_rank", "lora_alpha", "target_modules")  # below `model` in both stages
TEMPORARY = "egm-"  # begins the name of a run's temporary folder
RECIPE, LOG, LATEST = "recipe.yaml", "train.log", "latest_checkpointed_iteration.txt"


def verl_config() -> str:
    """The folder of verl's own Hydra configs. Importing verl would take seconds, and settle its platform too early."""
    return str(Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config")


OmegaConf.register_new_resolver("verl_config", verl_config, replace=True)


def check_choices(groups: Path, overrides: Sequence[str]) -> None:
    """Raise InputError for an override `group=choice` of a config group of ours that has no such choice."""
    for group, _, choice in (override.partition("=") for override in overrides):
        choices = sorted(path.stem for path in (groups / group).glob("[!_]*.yaml")) if group.isidentifier() else []
        if choices and choice not in choices:
            raise InputError(f'{group}: expected one of {", ".join(choices)}, got "{choice}"')


def check_paths(config: DictConfig, model: str, *files: str) -> None:
    """Raise InputError for a key that is not set, or names what is not there. A model may be `owner/name` of a hub."""
    for key in (model, *files):
        value = OmegaConf.select(config, key)
        if not value:
            raise InputError(f"{key}: expected a path, got nothing")
        for path in [value] if isinstance(value, str) else value:
            if not Path(path).expanduser().exists() and not (key == model and is_hub_name(path)):
                raise InputError(f"{key}: no such file or folder: {path}")


def note_content(config: DictConfig, key: str) -> None:
    """Put a hash of the files that `key` (`data.NAME`) names into the recipe, as `trainer.NAME_sha256`: a file may be
    written anew under its old name, and a run that went on with it would mix two sets of data."""
    value, digest = OmegaConf.select(config, key), hashlib.sha256()
    for path in [value] if isinstance(value, str) else value:
        with Path(path).expanduser().open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    OmegaConf.update(config, f"trainer.{key.removeprefix('data.')}_sha256", digest.hexdigest(), force_add=True)


def is_hub_name(model: str) -> bool:
    """Whether `model` reads as `owner/name` of the Hugging Face hub, and not as a path below a folder that is here."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model)) and not Path(model).parent.exists()


def check_same_run(config: DictConfig, keys: Sequence[str]) -> None:
    """Raise InputError where the folder holds checkpoints of a run with other values of `keys`: verl would go on from
    them, and mix two runs. An earlier start that saved nothing does not count."""
    folder = Path(config.trainer.default_local_dir)
    if not _goes_on(config) or not (folder / RECIPE).exists():
        return
    earlier = OmegaConf.load(folder / RECIPE)
    for key in keys:
        old, new = OmegaConf.select(earlier, key), OmegaConf.select(config, key)
        if old != new:
            raise InputError(
                f"{folder}: holds a run with another {key}; choose a folder with trainer.default_local_dir=… "
                f"({_first_difference(key, old, new)})"
            )


def set_earlier_run_aside(config: DictConfig) -> None:
    """Metrics of a run that this start does not go on with would count for its own steps, and the record of its
    checkpoints for those of this one: they are renamed."""
    if _goes_on(config) or config.trainer.get("val_only") or not is_first_node():
        return
    for name in ("metrics-*.jsonl", LATEST):
        for path in Path(config.trainer.default_local_dir).glob(name):
            path.rename(path.with_name(f"earlier-{path.name}"))


def is_first_node() -> bool:
    """Of those on which torchrun is started by hand, all with one folder."""
    return os.environ.get("PET_NODE_RANK", "0") == "0"


def _goes_on(config: DictConfig) -> bool:
    return config.trainer.resume_mode != "disable" and (Path(config.trainer.default_local_dir) / LATEST).exists()


def _first_difference(key: str, old: object, new: object) -> str:
    """`key: old → new` of the first value below `key` that differs."""
    if isinstance(old, DictConfig) and isinstance(new, DictConfig):
        below = next(name for name in [*old, *new] if old.get(name) != new.get(name))
        return _first_difference(f"{key}.{below}", old.get(below), new.get(below))
    return f"{key}: {old} there, {new} here"


def run(config: DictConfig, command: Sequence[str], columns: Mapping[str, str]) -> None:
    """Run `python -m COMMAND` of verl on the recipe; `columns` maps the labels of the step lines to metrics. In a
    metric's name `*` stands for anything, and the line has the mean of what is found.

    Exits with code 1 where verl fails, or where it reports no step for `trainer.step_timeout_s`. Raises InputError
    where another run is at work in its folder.
    """
    each_node_launches = config.trainer.get("nnodes", 1) > 1 and "ray_kwargs" not in config  # torchrun, into one folder
    with nullcontext() if each_node_launches else alone_in(Path(config.trainer.default_local_dir)):
        _run_alone(config, command, columns)


def _run_alone(config: DictConfig, command: Sequence[str], columns: Mapping[str, str]) -> None:
    if config.trainer.device == "cpu":
        cpu.activate()
    folder = Path(config.trainer.default_local_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config.trainer.default_local_dir = str(folder)  # Ray's workers may run in another folder
    set_earlier_run_aside(config)
    metrics, log = _next_metrics_file(folder), folder / LOG
    environment = {
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
    }
    if "ray_kwargs" in config:  # Ray's workers may have been started by a cluster, with the environment of that
        forwarded = forwarded_variables() if os.environ.get("RAY_ADDRESS") else {}
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", forwarded | environment, force_add=True)
    OmegaConf.save(config, folder / RECIPE)
    recipe = ["--config-path", str(folder), "--config-name", Path(RECIPE).stem]
    hydra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    begin = log.stat().st_size if log.exists() else 0
    print(f"starting; log in {log}", flush=True)
    _when_asked_to_end(_exit)
    with TemporaryDirectory(prefix=TEMPORARY, dir=_short_folder(), ignore_cleanup_errors=True) as temporary:
        environment["TMPDIR"] = temporary  # Ray and vLLM leave files behind
        child = process.start([sys.executable, "-m", *command, *recipe, *hydra], log, environment)
        family = process.Family(child.pid)
        try:
            hung = _follow(child, family, metrics, columns, config.trainer.get("step_timeout_s"))
        finally:
            _when_asked_to_end(lambda *_: None)  # a second Ctrl-C would leave half of the run behind
            family.look()  # who is an orphan once the child has ended
            process.stop(child)
            family.end()
            _when_asked_to_end(_exit)
    if hung or child.returncode:
        reason = hung or _reason(child.returncode, log, begin)
        print(f"error: training stopped with {reason}; see {log}", file=sys.stderr)
        raise SystemExit(1)


def forwarded_variables() -> dict[str, str]:
    """Of this shell, what the workers of a cluster should see, too. No secrets: the recipe is written down."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(FORWARDED) and not any(word in name for word in SECRET)
    }


def _when_asked_to_end(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a terminal that is closed, too
        signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # an exception, so that the child is stopped, too


def _short_folder() -> str:
    """Where temporary files go. Ray keeps sockets there; of the 107 bytes that their paths may have, 81 are taken."""
    folder = gettempdir()
    return folder if len(folder) <= 107 - 81 else "/tmp"


def read_metrics(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics of a run by step; of a metric that was logged twice, after a resume, the later value."""
    lines = (line for path in sorted(folder.glob("metrics-*.jsonl")) for line in path.open())
    steps: dict[int, dict[str, float]] = {}
    for row in (json.loads(line) for line in lines if line.endswith("\n")):  # else cut off by a kill
        steps.setdefault(row["step"], {}).update(row["data"])  # a resumed run validates its last step once more
    return steps


def _reason(code: int, log: Path, begin: int) -> str:
    """What this start wrote to `log`, from byte `begin` on, of its end: why it was ended, else its last exception, else
    the exit code."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    if fatal := re.findall(rf"{FATAL} (.*)", text):
        return fatal[-1]
    exceptions = re.findall(r"^(?:\[rank\d+\]: *)?(\w[\w.]*(?:Error|Exception)\b.*)", text, re.MULTILINE)
    causes = [line for line in exceptions if "ChildFailedError" not in line]  # torchrun's own, which tells nothing
    reason = causes[-1] if causes else exceptions[-1] if exceptions else f"exit code {code}"
    dead = re.findall(r"ActorDiedError: .*\n(?:\t.*\n)*?\tname: (\w+)", text)  # Ray names it some lines below
    return f"{dead[-1]} has died" if dead and "ActorDiedError" in reason else reason


def _next_metrics_file(folder: Path) -> Path:
    """verl empties the file that it is given, so every start gets its own, of a number that none has had."""
    taken = [int(path.stem.rpartition("-")[2]) for path in folder.glob("*metrics-*.jsonl")]
    return folder / f"metrics-{max(taken, default=-1) + 1:03d}.jsonl"


def _follow(
    child, family: process.Family, metrics: Path, columns: Mapping[str, str], timeout_s: float | None
) -> str | None:
    """Print a line for every step that `child` reports, until it ends; says so where it hangs instead."""
    position, reported, looked = 0, time.monotonic(), 0.0
    while True:
        ended = child.poll() is not None  # asked first: steps that were written before the end are still printed
        new_position = _print_steps(metrics, position, columns)
        now = time.monotonic()
        if new_position > position:
            position, reported = new_position, now
        if ended:
            return None
        if timeout_s and now - reported > timeout_s:
            return f"no step in {timeout_s:g} s (trainer.step_timeout_s)"
        if now - looked > LOOK_S:
            family.look()
            looked = now
        time.sleep(POLL_S)


def _print_steps(metrics: Path, position: int, columns: Mapping[str, str]) -> int:
    """Print the whole lines of `metrics` from byte `position` on; returns where they end."""
    if not metrics.exists():
        return position
    with metrics.open("rb") as file:
        file.seek(position)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                break
            row = json.loads(line)
            found = {label: fnmatch.filter(row["data"], name) for label, name in columns.items()}
            values = [f"{label} {fmean(row['data'][key] for key in keys):.4g}" for label, keys in found.items() if keys]
            print("  ".join([f"step {row['step']}", *values]), flush=True)
            position += len(line)
    return position
