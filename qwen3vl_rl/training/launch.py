"""How both stages start verl with a recipe and follow it: one log, one metrics file, and a line per step on the screen.

`run_folder.py` lists what a run leaves behind.
"""

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType

from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.files import alone_in
from qwen3vl_rl.errors import ANSWERS_MISSING, FATAL
from qwen3vl_rl.training import cpu, processes
from qwen3vl_rl.training.checkpoints import signs_before
from qwen3vl_rl.training.metrics import METRICS_FILE, is_validation, print_step, read_new_rows
from qwen3vl_rl.training.page import write_page
from qwen3vl_rl.training.run_folder import LOG, RECIPE_FILE, next_metrics_file, set_earlier_run_aside

POLL_S, SNAPSHOT_S = 0.2, 15.0
FORWARDED = ("WANDB_", "HF_", "NCCL_", "VLLM_", "SGLANG_")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")
TEMPORARY = "egm-"  # begins the name of a run's temporary folder
EXTERNAL_MODULES = "VERL_USE_EXTERNAL_MODULES"  # verl imports what this variable names, in every process
REGISTER = "qwen3vl_rl.verl_ext.register"


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
    metrics, log = next_metrics_file(folder), folder / LOG
    environment = {
        EXTERNAL_MODULES: external_modules(),
        "VERL_DATAPROTO_SERIALIZATION_METHOD": "numpy",  # torch's takes ten times as long, once for every answer
        METRICS_FILE: str(metrics),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
    }
    if "ray_kwargs" in config:  # a cluster may have started Ray's workers, with its own environment
        forwarded = forwarded_variables() if os.environ.get("RAY_ADDRESS") else {}
        runtime_env = {"env_vars": forwarded | environment} | quoted_python()
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env", runtime_env, force_add=True)
    OmegaConf.save(config, folder / RECIPE_FILE)
    recipe = ["--config-path", str(folder), "--config-name", Path(RECIPE_FILE).stem]
    hydra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    begin = log.stat().st_size if log.exists() else 0
    print(f"starting; log in {log}", flush=True)
    _when_asked_to_end(_exit)
    with TemporaryDirectory(prefix=TEMPORARY, dir=_short_folder(), ignore_cleanup_errors=True) as temporary:
        environment["TMPDIR"] = temporary  # Ray and vLLM leave files behind
        child = processes.start([sys.executable, "-m", *command, *recipe, *hydra], log, environment)
        tree = processes.ProcessTree(child.pid)
        try:
            hung = _follow(child, tree, metrics, columns, config.trainer.get("step_timeout_s"))
        finally:
            _when_asked_to_end(lambda *_: None)  # a second Ctrl-C would leave half of the run behind
            tree.snapshot()  # who is an orphan once the child has ended
            processes.stop(child)
            tree.kill()
            _when_asked_to_end(_exit)
    if hung or child.returncode:
        reason = hung or _reason(child.returncode, log, begin)
        print(f"error: training stopped with {reason}; see {log}", file=sys.stderr)
        raise SystemExit(1)


def quoted_python() -> dict[str, str]:
    """Where the path of this Python has characters that mean something to a shell: Ray hands it to one as it is. A
    cluster's nodes may have another Python."""
    quoted = shlex.quote(sys.executable)
    return {"py_executable": quoted} if quoted != sys.executable and not os.environ.get("RAY_ADDRESS") else {}


def external_modules() -> str:
    """What verl has to import first: the CPU platform on a CPU, then our hooks, then what the user's shell names."""
    named = os.environ.get(EXTERNAL_MODULES, "").split(",")  # `cpu.activate` puts the platform first
    platform = [name for name in named if name == cpu.PLATFORM]
    return ",".join(dict.fromkeys([*platform, REGISTER, *filter(None, named)]))


def forwarded_variables() -> dict[str, str]:
    """The variables of this shell that the workers of a cluster should also see. No secrets: the recipe is saved."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(FORWARDED) and not any(word in name for word in SECRET)
    }


def _when_asked_to_end(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the last for a terminal that is closed
        signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # an exception, so that the child is stopped as well


def _short_folder() -> str:
    """The folder for temporary files. Ray keeps sockets there, whose paths may have 107 bytes and need 81 of them."""
    folder = gettempdir()
    return folder if len(folder) <= 107 - 81 else "/tmp"


def _reason(code: int, log: Path, begin: int) -> str:
    """Why this start ended, from its part of `log`, which begins at byte `begin`.

    A fatal line of ours counts first, then the last exception, then the exit code.
    """
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    if fatal := re.findall(rf"{FATAL} (.*)", text):
        return fatal[-1]
    exceptions = re.findall(r"^(?:\[rank\d+\]: *)?(\w[\w.]*(?:Error|Exception)\b.*)", text, re.MULTILINE)
    causes = [line for line in exceptions if "ChildFailedError" not in line]  # torchrun's own says nothing
    reason = causes[-1] if causes else exceptions[-1] if exceptions else f"exit code {code}"
    said = re.sub(r"^\S*\(\w+ pid=\d+[^)]*\)\S* ", "", text, flags=re.MULTILINE)  # without the names of Ray's workers
    dead = re.findall(r"ActorDiedError: .*\n(?:\t.*\n)*?\tname: (\w+)", said)  # Ray names the actor some lines below
    is_of_the_dead = "ActorDiedError" in reason or ANSWERS_MISSING in reason
    return f"{dead[-1]} has died" if dead and is_of_the_dead else reason


def _follow(
    child, tree: processes.ProcessTree, metrics: Path, columns: Mapping[str, str], timeout_s: float | None
) -> str | None:
    """Print a line for every step that `child` reports until it ends. Returns what to say where it hangs instead."""
    position, reported, looked = 0, time.monotonic(), 0.0
    signs = signs_before(metrics.parent)
    while True:
        ended = child.poll() is not None  # asked first: steps that were written before the end are still printed
        rows, position = read_new_rows(metrics, position)
        now = time.monotonic()
        for row in rows:
            print_step(row, columns, signs)
            reported = now
        if position and (ended or any(map(is_validation, rows))):
            _write_page(metrics.parent)
        if ended:
            return None
        if timeout_s and now - reported > timeout_s:
            return f"no step in {timeout_s:g} s (trainer.step_timeout_s)"
        if now - looked > SNAPSHOT_S:
            tree.snapshot()
            looked = now
        time.sleep(POLL_S)


def _write_page(folder: Path) -> None:
    """The page of the run as it is now. Nothing that goes wrong with it may stop the run."""
    try:
        write_page(folder)
    except Exception as error:
        print(f"no page of the run: {type(error).__name__}: {error}", flush=True)
