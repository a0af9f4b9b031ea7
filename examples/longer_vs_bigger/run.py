"""Longer or bigger? The paper's claim, tested on RefShapes by the project's own stages.

    python -m examples.longer_vs_bigger.run --out OUT [--gpus 2] [--limit-s 560] [KEY=VALUE of config.yaml]

trains the ladder of `config.yaml` and measures it; `--dry` prints the jobs and what each waits for. What is done is not
repeated: after `--limit-s`, Ctrl-C or a kill the same command goes on, so that an hour may come in slices.
`OUT/jobs/NAME.json` tells each job's seconds and commands, `OUT/jobs/NAME.log` what it printed.
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
POLL_S, NOTE_S = 0.5, 15.0
SLICES = "slices"  # folder beside the records of jobs: how long each start had how many GPUs
LOG_LINES = 15
# Of a dozen processes at once each would take all cores, and its threads spin while they wait for each other.
FEW_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
INPUT_ERROR = 2  # exit code of the project's commands for bad input, which stays bad


@dataclass(slots=True)
class Running:
    job: Job
    gpu: int
    command: int  # its number among the job's
    child: Popen
    start: float


class Queue:
    """Runs jobs as soon as what they need is done and a GPU has room for them, those that are `last` after all others.
    `gpus`: their names for CUDA. Raises InputError for a job that can never run."""

    def __init__(self, jobs: list[Job], folder: Path, gpus: list[str], limit_s: float, gpu_count: int | None = None):
        names = {job.name for job in jobs}
        for job in jobs:
            if unknown := sorted(set(job.needs) - names):
                raise InputError(f"{job.name}: needs {unknown[0]}, which this config does not train")
            if job.share > 1:
                raise InputError(f"{job.name}: gpu_share {job.share}: expected at most 1")
        self.folder, self.limit_s, self.begin = folder, limit_s, time.monotonic()
        self.noted = self.begin
        self.waiting = [job for job in jobs if not self.is_done(job)]
        self.done = {job.name for job in jobs} - {job.name for job in self.waiting}
        self.gpus, self.free = gpus, [1.0] * len(gpus)
        self.gpu_count = len(gpus) if gpu_count is None else gpu_count
        self.slice = folder / SLICES / f"{time.time_ns()}.json"
        self.running: list[Running] = []
        self.failures: dict[str, str] = {}  # of jobs that have failed and not been done since

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def is_done(self, job: Job) -> bool:
        """With what it needs now: an evaluation of one seed is not done once there are three."""
        try:
            return json.loads(self.record(job.name).read_text()).get("needs", [*job.needs]) == [*job.needs]
        except FileNotFoundError:
            return False

    def run(self) -> bool:
        """Whether all jobs are done; not where the limit stopped it. What fails is tried once more. Raises InputError
        for what has failed last, once all that needs none of it is done or the limit is reached."""
        try:
            self.start_ready()
            while self.running and time.monotonic() - self.begin < self.limit_s:
                time.sleep(POLL_S)
                self.look()
                self.start_ready()
                if time.monotonic() - self.noted > NOTE_S:
                    self.note_slice()
            if self.failures:
                raise InputError("\n".join(self.failures.values()))
            return not self.unfinished()
        finally:
            for running in self.running:
                process.stop(running.child)
            self.note_slice()

    def note_slice(self) -> None:
        """How long this start has had how many GPUs by now; a kill loses what came after the last note."""
        self.noted = time.monotonic()
        self.slice.parent.mkdir(parents=True, exist_ok=True)
        write(self.slice, {"seconds": round(self.noted - self.begin, 1), "gpus": self.gpu_count})

    def unfinished(self) -> int:
        return len(self.waiting) + len(self.running)

    def start_ready(self) -> None:
        ready = [job for job in self.waiting if self.done.issuperset(job.needs)]
        others = [job for job in ready if not job.last]
        if others or not all(running.job.last for running in self.running):
            ready = others
        for job in ready:
            gpu = max(range(len(self.free)), key=self.free.__getitem__)
            if job.share <= self.free[gpu] + 1e-9:
                self.free[gpu] -= job.share
                self.waiting.remove(job)
                self.running.append(self.start(job, gpu, 0, time.monotonic()))

    def start(self, job: Job, gpu: int, command: int, start: float) -> Running:
        log = self.folder / f"{job.name}.log"
        child = process.start(job.commands[command], log, FEW_THREADS | {"CUDA_VISIBLE_DEVICES": self.gpus[gpu]})
        return Running(job, gpu, command, child, start)

    def look(self) -> None:
        for running in [r for r in self.running if r.child.poll() is not None]:
            job = running.job
            self.running.remove(running)
            if running.child.returncode:
                log = self.folder / f"{job.name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
                process.stop(running.child)  # what it may have left on the GPU
                self.free[running.gpu] += job.share
                failure = f"{job.name} failed, the last lines of {log}:\n{tail}"
                print(failure, flush=True)
                if job.name not in self.failures and running.child.returncode != INPUT_ERROR:
                    self.waiting.append(job)  # a dozen runs at once may lack what one of them does not
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
    """The jobs whose names begin with one of `starts`, and what they need. Raises InputError for one with which no name
    begins."""
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
    """The first `count` of the GPUs that the caller may use, by CUDA's names. On a CPU there is one place, of a name
    that Ray accepts."""
    found = len(gpu_memories_mib())
    if not 0 <= count <= found:
        raise InputError(f"--gpus {count}: expected 0 (a CPU) to {found}, the GPUs here")
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
        raise InputError(f"seeds: expected 0 among them, whose samples all models are measured on, got {config.seeds}")
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, default=1, help="0: on a CPU, for trying it out")
    parser.add_argument(
        "--limit-s", type=float, default=float("inf"), help="stop then; what is unfinished goes on later"
    )
    parser.add_argument(
        "--only", action="append", metavar="START", help="jobs whose names begin so, and what they need; repeatable"
    )
    parser.add_argument("--dry", action="store_true", help="print the jobs and end")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    out = args.out.resolve()
    jobs = Experiment(read_config(args.changes), out, "gpu1" if args.gpus else "cpu").jobs()
    if args.only:
        jobs = with_needs(jobs, args.only)
    if args.dry:
        for job in jobs:
            needs = "all others" if job.last else ", ".join(job.needs) or "nothing"
            print(f"{job.name:<24} after {needs}")
        return
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        queue = Queue(jobs, out / "jobs", visible_gpus(args.gpus), args.limit_s, args.gpus)
        if not queue.run():
            sys.exit(
                f"stopped after {args.limit_s:.0f} s with {queue.unfinished()} jobs to go; the same command goes on"
            )
    print(f"all {len(jobs)} jobs are done")


if __name__ == "__main__":
    cli(main)
