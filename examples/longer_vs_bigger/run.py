"""Longer or bigger? Test the paper's claim on RefShapes with the stages of this project.

    python -m examples.longer_vs_bigger.run --out OUT [--gpus 2] [--limit-s 560] [KEY=VALUE of config.yaml]

This trains and evaluates the models of `config.yaml`. `--dry` prints the jobs and their dependencies. To resume after
`--limit-s`, Ctrl-C or a kill, rerun the command: finished jobs are not repeated. `OUT/jobs/NAME.json` records the
seconds and the commands of each job, `OUT/jobs/NAME.log` holds its output.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from omegaconf import DictConfig, OmegaConf

from examples.longer_vs_bigger.jobs import Experiment, Job
from qwen3vl_rl.data.files import alone_in, replacing
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.training import processes as process
from qwen3vl_rl.training.gpus import gpu_memories_mib

CONFIG = Path(__file__).with_name("config.yaml")
POLL_S, RECORD_S = 0.5, 15.0
SLICES = "slices"  # folder next to the records of jobs, with the seconds and the GPUs of each run of this command
LOG_LINES = 15
# By default each of a dozen processes would use all cores, with threads that spin while they wait for each other.
FEW_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
INPUT_ERROR = 2  # exit code of the project's commands for bad input; such a job is not retried


@dataclass(slots=True)
class Running:
    job: Job
    gpu: int
    command: int  # index into the job's commands
    child: Popen
    start: float


class Queue:
    """Runs each job once the jobs that it needs are done and a GPU has room for it.

    `gpus`: names of the GPUs for CUDA. Raises InputError for a job that can never run.
    """

    def __init__(self, jobs: list[Job], folder: Path, gpus: list[str], limit_s: float, gpu_count: int | None = None):
        names = {job.name for job in jobs}
        for job in jobs:
            if unknown := sorted(set(job.needs) - names):
                raise InputError(f"{job.name}: needs {unknown[0]}, which this config does not train")
            if job.share > 1:
                raise InputError(f"{job.name}: gpu_share {job.share}: expected at most 1")
        self.folder, self.limit_s, self.begin = folder, limit_s, time.monotonic()
        self.recorded = self.begin
        self.waiting = [job for job in jobs if not self.is_done(job)]
        self.done = {job.name for job in jobs} - {job.name for job in self.waiting}
        self.gpus, self.free = gpus, [1.0] * len(gpus)
        self.gpu_count = len(gpus) if gpu_count is None else gpu_count
        self.slice = folder / SLICES / f"{time.time_ns()}.json"
        self.running: list[Running] = []
        self.failures: dict[str, str] = {}  # by job, for jobs that have failed and not succeeded since

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def is_done(self, job: Job) -> bool:
        """Whether the job has run with its present needs. An evaluation of one seed is redone when there are three."""
        try:
            return json.loads(self.record(job.name).read_text()).get("needs", [*job.needs]) == [*job.needs]
        except FileNotFoundError:
            return False

    def run(self) -> bool:
        """Returns whether all jobs are done, which is False at the time limit. A job that fails is retried once, unless
        its input was bad.

        Raises InputError for jobs that have failed, at the time limit or after all jobs that do not need them.
        """
        try:
            self.start_ready()
            while self.running and time.monotonic() - self.begin < self.limit_s:
                time.sleep(POLL_S)
                self.collect_finished()
                self.start_ready()
                if time.monotonic() - self.recorded > RECORD_S:
                    self.record_slice()
            if self.failures:
                raise InputError("\n".join(self.failures.values()))
            return not self.unfinished()
        finally:
            for running in self.running:
                process.stop(running.child)
            self.record_slice()

    def record_slice(self) -> None:
        """Record the seconds and the GPUs of this run so far. A kill loses the time since the last record."""
        self.recorded = time.monotonic()
        self.slice.parent.mkdir(parents=True, exist_ok=True)
        write(self.slice, {"seconds": round(self.recorded - self.begin, 1), "gpus": self.gpu_count})

    def unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    def start_ready(self) -> None:
        for job in [job for job in self.waiting if self.done.issuperset(job.needs)]:
            gpu = max(range(len(self.free)), key=self.free.__getitem__)
            if job.share <= self.free[gpu] + 1e-9:
                self.free[gpu] -= job.share
                self.waiting.remove(job)
                self.running.append(self.start(job, gpu, 0, time.monotonic()))

    def start(self, job: Job, gpu: int, command: int, start: float) -> Running:
        log = self.folder / f"{job.name}.log"
        child = process.start(job.commands[command], log, FEW_THREADS | {"CUDA_VISIBLE_DEVICES": self.gpus[gpu]})
        return Running(job, gpu, command, child, start)

    def collect_finished(self) -> None:
        for running in [r for r in self.running if r.child.poll() is not None]:
            job = running.job
            self.running.remove(running)
            if running.child.returncode:
                log = self.folder / f"{job.name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
                process.stop(running.child)  # it may have left processes on the GPU
                self.free[running.gpu] += job.share
                failure = f"{job.name} failed, the last lines of {log}:\n{tail}"
                print(failure, flush=True)
                if job.name not in self.failures and running.child.returncode != INPUT_ERROR:
                    self.waiting.append(job)  # it may succeed when fewer jobs run at the same time
                self.failures[job.name] = failure
                continue
            if running.command + 1 < len(job.commands):
                self.running.append(self.start(job, running.gpu, running.command + 1, running.start))
                continue
            self.free[running.gpu] += job.share
            self.done.add(job.name)
            self.failures.pop(job.name, None)
            seconds = round(time.monotonic() - running.start, 1)
            write(
                self.record(job.name),
                {"seconds": seconds, "share": job.share, "needs": job.needs, "commands": job.commands},
            )
            print(f"{time.monotonic() - self.begin:6.0f} s  {job.name} took {seconds} s", flush=True)


def with_needs(jobs: list[Job], starts: list[str]) -> list[Job]:
    """The jobs whose names begin with one of `starts`, and all jobs that they need.

    Raises InputError for a start that no name begins with.
    """
    for start in starts:
        if not any(job.name.startswith(start) for job in jobs):
            raise InputError(f"--only {start}: expected the beginning of a job's name; --dry lists them")
    wanted = {job.name for job in jobs if job.name.startswith(tuple(starts))}
    while needed := {need for job in jobs if job.name in wanted for need in job.needs} - wanted:
        wanted |= needed
    return [job for job in jobs if job.name in wanted]


def write(path: Path, content: dict) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")


def visible_gpus(count: int) -> list[str]:
    """The first `count` of the visible GPUs, by their names for CUDA.

    A count of 0 is a CPU, which counts as one GPU with a name that Ray accepts.
    """
    found = len(gpu_memories_mib())
    if not 0 <= count <= found:
        raise InputError(f"--gpus {count}: expected 0 (a CPU) to {found}, the number of visible GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible and count else [str(number) for number in range(max(1, count))]
    return names[: max(1, count)]


def read_config(changes: list[str]) -> DictConfig:
    config = OmegaConf.load(CONFIG)
    for key in (change.partition("=")[0] for change in changes):
        if OmegaConf.select(config, key) is None:
            raise InputError(f"{key}: expected a key of {CONFIG.name}")
    config = OmegaConf.merge(config, OmegaConf.from_dotlist(changes))
    if 0 not in config.seeds:
        raise InputError(f"seeds: expected 0 among them, because its samples are the test set, got {config.seeds}")
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, default=1, help="0: run on a CPU, to try it out")
    parser.add_argument(
        "--limit-s", type=float, default=float("inf"), help="stop after so many seconds; rerun to resume"
    )
    parser.add_argument(
        "--only", action="append", metavar="START", help="run jobs with this prefix and what they need; repeatable"
    )
    parser.add_argument("--dry", action="store_true", help="print the jobs and exit")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    out = args.out.resolve()
    jobs = Experiment(read_config(args.changes), out, "gpu1" if args.gpus else "cpu").jobs()
    if args.only:
        jobs = with_needs(jobs, args.only)
    if args.dry:
        for job in jobs:
            print(f"{job.name:<24} after {', '.join(job.needs) or 'nothing'}")
        return
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        queue = Queue(jobs, out / "jobs", visible_gpus(args.gpus), args.limit_s, args.gpus)
        if not queue.run():
            sys.exit(f"stopped after {args.limit_s:.0f} s, {queue.unfinished()} jobs left; rerun the command to resume")
    print(f"all {len(jobs)} jobs are done")


if __name__ == "__main__":
    cli(main)
