"""Rehearse a run of either stage: what would fail after hours fails within minutes, and the time is known beforehand.

    bash scripts/rehearse.sh [OVERRIDES]                                     # stage 2
    bash scripts/rehearse.sh scripts/sft_qwen3_8b_grounding.sh [OVERRIDES]   # stage 1

The recipe runs as it is, with its data and at full size, for three steps. The first compiles, the second is measured.
Then every process is killed, as by a crash of the machine. A second start resumes, validates one batch (stage 2) and
ends; its checkpoint is exported and answers one question. `training/rehearsal.py` reads the numbers.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

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
from qwen3vl_rl.training.rehearsal import NAME, STEPS, Rehearsal, advice, first_question, report
from qwen3vl_rl.training.run_folder import LOG

POLL_S = 1.0
FAILED = 1
KEPT_LOG = f"{NAME}.log"  # beside the folder, of a rehearsal that failed


class Rehearsed:
    """One start of the script in a session of its own, with the most memory in use on each GPU meanwhile."""

    def __init__(self, words: Sequence[str]):
        self.begin = time.monotonic()
        self.child = subprocess.Popen(words, start_new_session=True, env=os.environ | {"TASK_NAME": NAME})
        self.tree = processes.ProcessTree(self.child.pid)
        self.peaks_mib: list[int] = []
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until `holds()`, or until the script has ended: then False."""
        while self.child.poll() is None:
            if holds():
                return True
            self.tree.snapshot()
            time.sleep(POLL_S)
        return False

    def kill(self) -> None:
        """Kill all that the script has started, at once and without a word."""
        self.tree.snapshot()
        self.tree.kill()
        self.child.wait()

    def _watch(self) -> None:
        while self.child.poll() is None:
            used = gpu_used_mib()
            self.peaks_mib = [max(pair) for pair in zip(self.peaks_mib or used, used, strict=True)]
            time.sleep(POLL_S)


def compose(words: Sequence[str]) -> DictConfig:
    """The recipe of the script. Raises InputError where the script refuses it."""
    looked = subprocess.run([*words, "--cfg", "job"], capture_output=True, text=True)
    if looked.returncode:
        raise InputError(f"{words[1]}: it does not compose:\n{(looked.stderr or looked.stdout).strip()}")
    return OmegaConf.create(yaml.safe_load(looked.stdout))


def changes(config: DictConfig) -> list[str]:
    """Overrides that make a rehearsal of a run."""
    common = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.logger=[console,file]"]
    if "actor_rollout_ref" not in config:
        return [*common, "trainer.test_freq=-1", "data.val_files=null"]
    batch = config.data.val_batch_size or config.data.train_batch_size
    return [
        *common, f"trainer.test_freq={STEPS}", "trainer.val_before_train=false", f"data.val_max_samples={batch}",
        "trainer.rollout_data_dir=null",
    ]  # fmt: skip


def rehearse(script: str, overrides: Sequence[str]) -> None:
    words = ["bash", script, *overrides]
    for word in overrides:
        if word.startswith("trainer.default_local_dir="):
            raise InputError(f"{word}: expected OUTPUT_DIR to name the folder")
    config = compose(words)
    folder = Path(os.environ.get("OUTPUT_DIR", "outputs")).resolve() / NAME
    shutil.rmtree(folder, ignore_errors=True)  # of a rehearsal that was killed
    words += changes(config)
    try:
        done = _train(words, folder, config)
        _say("exporting the checkpoint")
        export(folder, folder / "exported")
        _say("asking it a question")
        answer = _answer(config, folder)
        print(f"\n{report(done)}\n\nan answer: {answer}")
        for line in advice(done):
            print(f"change: {line}")
    except BaseException:
        _keep_log(folder)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _train(words: Sequence[str], folder: Path, config: DictConfig) -> Rehearsal:
    """Two steps, a kill, a third."""
    first, saved_s = Rehearsed(words), []
    for step in range(1, STEPS):
        if not first.until(lambda step=step: (latest_step(folder) or 0) >= step):
            raise SystemExit(f"error: the script ended with code {first.child.returncode} before step {step} was saved")
        saved_s.append(time.monotonic() - first.begin)
    _say(f"killing everything after {saved_s[-1]:.0f} s, and resuming")
    first.kill()
    second = Rehearsed(words)
    second.until(lambda: False)
    if second.child.returncode or latest_step(folder) != STEPS:
        raise SystemExit(f"error: the resumed script ended with code {second.child.returncode}")
    peaks = [max(pair) for pair in zip(first.peaks_mib, second.peaks_mib, strict=True)]
    return Rehearsal.read(folder, config, peaks, saved_s)


def _answer(config: DictConfig, folder: Path) -> str:
    """What the exported checkpoint answers to the first question of the data, by the engine of the recipe."""
    question = first_question(config)
    name = OmegaConf.select(config, "actor_rollout_ref.rollout.name") or "vllm"
    settings = load_settings(max_tokens=config.data.get("max_response_length") or config.data.max_length)
    images = Path(question.sample.image).resolve().parent
    with Server(ENGINES[name], folder / "server.log", images, settings) as server:
        served = server.load(str(folder / "exported"))
        answers = []
        predict(Target(server.url, served, Path("/"), server.by_path, settings), [question], 1, answers.append)
    (answer,) = answers
    if answer.error:
        raise SystemExit(f"error: the server refused the question ({answer.error})")
    place = "no box" if answer.pred_xyxy_px is None else f"IoU {answer.iou:.2f}"
    return f'"{question.sample.sent}": {answer.tokens} tokens, {place}, {answer.latency_s:.1f} s'


def _keep_log(folder: Path) -> None:
    if (folder / LOG).is_file():
        kept = folder.with_name(KEPT_LOG)
        shutil.copyfile(folder / LOG, kept)
        _say(f"the log is kept as {kept}")


def _say(what: str) -> None:
    print(f"== {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", help="scripts/grounding_qwen.sh, or one of scripts/sft_qwen3_*_grounding.sh")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    args = parser.parse_args()
    rehearse(args.script, args.overrides)


if __name__ == "__main__":
    command.run(main)
