"""Starts verl with a recipe and follows the run, for both stages: one log, one metrics file, progress on the screen.

`run_folder.py` lists the files of a run.
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
from qwen3vl_rl.training.metrics import METRICS_FILE, is_validation, read_new_rows
from qwen3vl_rl.training.page import write_page
from qwen3vl_rl.training.progress import StepProgress
from qwen3vl_rl.training.provenance import record_start
from qwen3vl_rl.training.run_folder import LOG, RECIPE_FILE, next_metrics_file, set_earlier_run_aside
from qwen3vl_rl.training.starts import SECRET, hide_secrets

POLL_S, SNAPSHOT_S = 0.2, 15.0
FORWARDED = ("WANDB_", "HF_", "NCCL_", "VLLM_", "SGLANG_")
REGISTER = "qwen3vl_rl.verl_ext.register"


def run(config: DictConfig, command: Sequence[str], columns: Mapping[str, str], steps: int) -> None:
    """Run `python -m COMMAND` of verl on the recipe, and show its progress.

    `columns` maps labels to metrics, and `steps` is the number of steps of the whole run (see `StepProgress`). Exits
    with code 1 if verl fails, or if it reports no step for `trainer.step_timeout_s`. Raises InputError if another run
    uses the folder.
    """
    each_node_launches = config.trainer.get("nnodes", 1) > 1 and "ray_kwargs" not in config  # torchrun, into one folder
    with nullcontext() if each_node_launches else alone_in(Path(config.trainer.default_local_dir)):
        _run_locked(config, command, columns, steps)


def _run_locked(config: DictConfig, command: Sequence[str], columns: Mapping[str, str], steps: int) -> None:
    if config.trainer.device == "cpu":
        cpu.activate()
    folder = Path(config.trainer.default_local_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config.trainer.default_local_dir = str(folder)  # absolute, as Ray's workers may run in another folder
    set_earlier_run_aside(config)
    metrics, log = next_metrics_file(folder), folder / LOG
    environment = {
        cpu.EXTERNAL_MODULES: external_modules(),
        "VERL_DATAPROTO_SERIALIZATION_METHOD": "numpy",  # torch's takes ten times as long for each answer
        METRICS_FILE: str(metrics),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
    }
    if "ray_kwargs" in config:  # a cluster may have started Ray's workers, with another environment
        forwarded = forwarded_variables() if os.environ.get("RAY_ADDRESS") else {}
        runtime_env = {"env_vars": forwarded | environment} | quoted_python()
        OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env", runtime_env, force_add=True)
    OmegaConf.save(hide_secrets(config), folder / RECIPE_FILE)
    record_start(config)
    hydra = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    begin = log.stat().st_size if log.exists() else 0
    print(f"starting; log in {log}", flush=True)
    _on_stop_signals(_exit)
    with TemporaryDirectory(prefix=processes.TEMPORARY, dir=_short_folder(), ignore_cleanup_errors=True) as temporary:
        environment["TMPDIR"] = temporary  # Ray and vLLM leave files behind
        OmegaConf.save(config, Path(temporary, RECIPE_FILE))  # with secrets; only this user can read the folder
        recipe = ["--config-path", temporary, "--config-name", Path(RECIPE_FILE).stem]
        child = processes.start([sys.executable, "-m", *command, *recipe, *hydra], log, environment)
        tree = processes.ProcessTree(child.pid)
        try:
            with StepProgress(steps, columns, signs_before(folder)) as progress:
                hung = _follow(child, tree, metrics, progress, config.trainer.get("step_timeout_s"))
        finally:
            _on_stop_signals(lambda *_: None)  # a second Ctrl-C would leave half of the run behind
            tree.snapshot()  # before the child ends: its children become orphans then
            processes.stop(child)
            tree.kill()
            _on_stop_signals(_exit)
    if hung or child.returncode:
        reason = hung or _reason(child.returncode, log, begin)
        print(f"error: training stopped with {reason}; see {log}", file=sys.stderr)
        raise SystemExit(1)


def quoted_python() -> dict[str, str]:
    """The option `py_executable` if the path of this Python needs quotes, since Ray passes the path to a shell
    unquoted. Not on a cluster, whose nodes may have another Python."""
    quoted = shlex.quote(sys.executable)
    return {"py_executable": quoted} if quoted != sys.executable and not os.environ.get("RAY_ADDRESS") else {}


def external_modules() -> str:
    """The modules that verl imports first: the CPU platform on a CPU, our hooks, and those that the user's shell
    names."""
    named = os.environ.get(cpu.EXTERNAL_MODULES, "").split(",")  # `cpu.activate` puts the platform first
    platform = [name for name in named if name == cpu.PLATFORM]
    return ",".join(dict.fromkeys([*platform, REGISTER, *filter(None, named)]))


def forwarded_variables() -> dict[str, str]:
    """The variables of this shell that workers of a cluster also need. No secrets, because the recipe is saved."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(FORWARDED) and not any(word in name for word in SECRET)
    }


def _on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, handler)


def _exit(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # an exception, so that the child is stopped as well


def _short_folder() -> str:
    """The folder for temporary files. Ray keeps sockets there. Their paths may have 107 bytes, of which Ray needs
    81."""
    folder = gettempdir()
    return folder if len(folder) <= 107 - 81 else "/tmp"


def _reason(code: int, log: Path, begin: int) -> str:
    """Why this start failed, from its part of `log`, which begins at byte `begin`.

    A line that begins with `FATAL` comes first, then the last exception, then the exit code.
    """
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    if fatal := re.findall(rf"{FATAL} (.*)", text):
        return fatal[-1]
    exceptions = re.findall(r"^(?:\[rank\d+\]: *)?(\w[\w.]*(?:Error|Exception)\b.*)", text, re.MULTILINE)
    causes = [line for line in exceptions if "ChildFailedError" not in line]  # torchrun's, without a cause
    reason = causes[-1] if causes else exceptions[-1] if exceptions else f"exit code {code}"
    unprefixed = re.sub(r"^\S*\(\w+ pid=\d+[^)]*\)\S* ", "", text, flags=re.MULTILINE)  # Ray's "(worker pid=…)"
    dead = re.findall(r"ActorDiedError: .*\n(?:\t.*\n)*?\tname: (\w+)", unprefixed)  # named some lines below
    is_consequence = "ActorDiedError" in reason or ANSWERS_MISSING in reason
    return f"{dead[-1]} has died" if dead and is_consequence else reason


def _follow(
    child, tree: processes.ProcessTree, metrics: Path, progress: StepProgress, timeout_s: float | None
) -> str | None:
    """Show the steps that `child` reports until it ends. Returns the reason to stop it if it hangs, else None."""
    position, reported, looked = 0, time.monotonic(), 0.0
    while True:
        ended = child.poll() is not None  # before the rows are read, so that none of the last ones is missed
        rows, position = read_new_rows(metrics, position)
        now = time.monotonic()
        for row in rows:
            progress.add(row)
            reported = now
        if position and (ended or any(map(is_validation, rows))):
            _write_page(metrics.parent, progress)
        if ended:
            return None
        if timeout_s and now - reported > timeout_s:
            return f"no step in {timeout_s:g} s (trainer.step_timeout_s)"
        if now - looked > SNAPSHOT_S:
            tree.snapshot()
            looked = now
        time.sleep(POLL_S)


def _write_page(folder: Path, progress: StepProgress) -> None:
    """Write the page of the run. A failure is reported and does not stop the run."""
    try:
        write_page(folder)
    except Exception as error:
        progress.line(f"no page of the run: {type(error).__name__}: {error}")
