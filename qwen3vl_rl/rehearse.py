"""Rehearse a run of either stage, to find in minutes what would fail after hours, and to measure time and memory.

    bash scripts/rehearse.sh [OVERRIDES]                                     # stage 2
    bash scripts/rehearse.sh scripts/sft_qwen3_8b_grounding.sh [OVERRIDES]   # stage 1

The recipe runs for three steps, with its data and at full size. The first step compiles, and the second is measured.
Then every process is killed, as if the machine had crashed. A second start resumes, and in stage 2 validates one batch.
Its checkpoint is exported and answers one question. `training/rehearsal.py` reads the measurements.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from omegaconf import DictConfig, OmegaConf

from qwen3vl_rl.data.predictions import Question
from qwen3vl_rl.errors import InputError
from qwen3vl_rl.evaluation import command
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.predict import Target, predict
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.export import export
from qwen3vl_rl.training import processes
from qwen3vl_rl.training.checkpoints import latest_step
from qwen3vl_rl.training.gpus import gpu_used_mib
from qwen3vl_rl.training.metrics import read_metrics
from qwen3vl_rl.training.processes import TEMPORARY
from qwen3vl_rl.training.rehearsal import NAME, STEPS, Rehearsal, advice, first_question, report
from qwen3vl_rl.training.run_folder import LOG

POLL_S, SNAPSHOT_S = 0.2, 15.0
MARK = ".rehearsal"  # file in a rehearsal's folder with the number of its process
SERVER_LOG = "server.log"
EXPORTED_BY_STAGE_1 = "hf"  # subfolder of the run


class Start:
    """One start of the script in a new session. Leaving the context kills all processes that it has started.

    `peaks_mib`: the most memory in use on each GPU during the start.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str]):
        self.begin, self.looked = time.monotonic(), 0.0
        self.child = subprocess.Popen(words, start_new_session=True, env=environment)
        self.tree = processes.ProcessTree(self.child.pid)
        self.peaks_mib: list[int] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_) -> None:
        self.tree.snapshot()
        self.tree.kill()
        self.child.wait()

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until `holds()`. Returns False if the script ends before."""
        while self.child.poll() is None:
            if holds():
                return True
            if time.monotonic() - self.looked > SNAPSHOT_S:
                self.tree.snapshot()
                self.looked = time.monotonic()
            time.sleep(POLL_S)
        return False

    def _watch(self) -> None:
        while self.child.poll() is None:
            with suppress(ValueError):  # nvidia-smi reported no number
                self.peaks_mib = highest(self.peaks_mib, gpu_used_mib())
            time.sleep(POLL_S)


def highest(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [max(pair) for pair in zip_longest(first, second, fillvalue=0)]


def rehearse(script: str, overrides: Sequence[str]) -> None:
    for word in overrides:
        if word.startswith("trainer.default_local_dir="):
            raise InputError(f"{word}: expected OUTPUT_DIR to name the folder")
    folder = Path(os.environ.get("OUTPUT_DIR") or "outputs").resolve() / NAME
    with TemporaryDirectory(prefix=TEMPORARY, dir="/tmp", ignore_cleanup_errors=True) as temporary:
        environment = os.environ | {"TASK_NAME": NAME, "TMPDIR": temporary}  # for files that killed processes leave
        words = ["bash", script, *overrides]
        config = compose(words, environment)
        engine = choose_engine(config)
        clear(folder)
        try:
            _rehearse([*words, *changes(config)], environment, folder, config, engine)
        except BaseException:
            _keep_logs(folder)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".parquet").unlink(missing_ok=True)  # stage 1 builds it from conversations


def _rehearse(words: Sequence[str], environment: dict[str, str], folder: Path, config: DictConfig, engine: str) -> None:
    try:  # before training, so that bad data is found early
        question = first_question(config)
    except (InputError, OSError, TypeError, KeyError) as error:
        question = None  # for example, stage 1 has yet to convert conversations
        _say(f"no question will be asked: {error}")
    done = _train(words, environment, folder, config)
    print(f"\n{report(done)}", *(f"change: {line}" for line in advice(done)), sep="\n", flush=True)
    exported = folder / EXPORTED_BY_STAGE_1
    if not exported.exists():
        exported = folder / "exported"
        _say("exporting the checkpoint")
        export(folder, exported)
    if question:
        _say("asking it a question")
        print(f"\nan answer: {_answer(config, exported, question, engine)}")


def compose(words: Sequence[str], environment: dict[str, str]) -> DictConfig:
    """The recipe of the script. Raises InputError if the script rejects it."""
    printed = subprocess.run([*words, "--cfg", "job"], capture_output=True, text=True, env=environment)
    if printed.returncode:
        raise InputError(f"{words[1]}: the recipe does not compose:\n{(printed.stderr or printed.stdout).strip()}")
    return OmegaConf.create(yaml.safe_load(printed.stdout))


def choose_engine(config: DictConfig) -> str:
    """The recipe's engine; for stage 1, which has none, an installed one. Raises InputError if none is installed."""
    wanted = OmegaConf.select(config, "actor_rollout_ref.rollout.name")
    found = [name for name in ENGINES if find_spec(name)]
    if not found or (wanted and wanted not in found):
        raise InputError(f"engine={wanted or 'any'}: not installed; scripts/setup.sh installs one")
    return wanted or found[0]


def clear(folder: Path) -> None:
    """Make `folder` an empty folder for this rehearsal. Raises InputError if it belongs to a run, or to another
    rehearsal that is still running."""
    if folder.exists():
        mark = folder / MARK
        if not mark.exists():
            raise InputError(f"{folder}: expected no such folder, found a run; choose another OUTPUT_DIR")
        if Path("/proc", mark.read_text()).exists():
            raise InputError(f"{folder}: another rehearsal is running there")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).write_text(str(os.getpid()))


def changes(config: DictConfig) -> list[str]:
    """Overrides that turn a run into a rehearsal."""
    common = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.logger=[console,file]"]
    if "actor_rollout_ref" not in config:
        return [*common, "trainer.test_freq=-1", "data.val_files=null"]
    batch = config.data.val_batch_size or config.data.train_batch_size
    return [
        *common, f"trainer.test_freq={STEPS}", "trainer.val_before_train=false", f"data.val_max_samples={batch}",
        "trainer.rollout_data_dir=null",
    ]  # fmt: skip


def _train(words: Sequence[str], environment: dict[str, str], folder: Path, config: DictConfig) -> Rehearsal:
    """Train two steps, kill the run, and train the third."""
    saved_s = []
    with Start(words, environment) as first:
        for step in range(1, STEPS):  # verl writes the metrics a moment after the checkpoint
            if not first.until(lambda n=step: (latest_step(folder) or 0) >= n and n in read_metrics(folder)):
                code = first.child.returncode
                raise SystemExit(f"error: the script ended with code {code} before step {step} was saved")
            saved_s.append(time.monotonic() - first.begin)
        if sys.stdout.isatty():
            print()  # the progress bar has not ended its line
        _say(f"killing everything after {saved_s[-1]:.0f} s, and resuming")
    with Start(words, environment) as second:
        second.until(lambda: False)
        code = second.child.returncode
    if code or latest_step(folder) != STEPS:
        raise SystemExit(f"error: the resumed script ended with code {code}")
    return Rehearsal.read(folder, config, highest(first.peaks_mib, second.peaks_mib), saved_s[0])


def _answer(config: DictConfig, checkpoint: Path, question: Question, engine: str) -> str:
    """Ask the exported checkpoint a question, and describe its answer."""
    settings = load_settings(max_tokens=config.data.get("max_response_length") or config.data.max_length)
    images = Path(question.sample.image).resolve().parent
    with Server(ENGINES[engine], checkpoint.with_name(SERVER_LOG), images, settings) as server:
        served = server.load(str(checkpoint))
        answers = []
        predict(Target(server.urls, served, Path("/"), server.by_path, settings), [question], 1, answers.append)
    (answer,) = answers
    if answer.error:
        raise SystemExit(f"error: the server refused the question ({answer.error})")
    place = "no box" if answer.pred_xyxy_px is None else "a box" if answer.iou is None else f"IoU {answer.iou:.2f}"
    return f'"{question.sample.sent}": {answer.tokens} tokens, {place}, {answer.latency_s:.1f} s'


def _keep_logs(folder: Path) -> None:
    for name in (LOG, SERVER_LOG):
        if (folder / name).is_file():
            kept = folder.with_name(f"{NAME}.{name}")
            shutil.copyfile(folder / name, kept)
            _say(f"kept {kept}")


def _say(what: str) -> None:
    print(f"== {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", help="scripts/grounding_qwen.sh, or one of scripts/sft_qwen3_*_grounding.sh")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # sys.exit raises, so that all started processes are killed
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        rehearse(args.script, args.overrides)
    except KeyboardInterrupt:
        sys.exit("stopped; nothing is left running")


if __name__ == "__main__":
    command.run(main)
