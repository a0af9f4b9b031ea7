"""Where an evaluation spends its time: the engine, its preprocessing, or our client.

    python -m benchmarks.eval_run --size 2b --engine vllm --in-flight 64 256 --out FILE [-- FLAGS OF THE SERVER]

Qwen3-VL shapes with random weights answer seven questions about each picture of 640x480 px, as in RefCOCO, with exactly
`--tokens` tokens. For each number of requests in flight, the result has the requests per second, the cores that the
client and each process of the server keep busy, and the share of time in which a GPU runs kernels. A process near one
full core, or a GPU near 100 %, is the bottleneck. Loads take turns, and every round shows new pictures.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from statistics import fmean

import psutil

from benchmarks.common import has_gpu, random_checkpoint, work_folder, write_result
from benchmarks.eval_client import PER_PICTURE, make_questions
from benchmarks.serving import add_arguments
from benchmarks.spread import spread
from qwen3vl_rl.data.predictions import Prediction, Question
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.predict import Target, predict
from qwen3vl_rl.evaluation.serving.server import new_server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.training.gpus import gpu_busy_percent

POLL_S = 0.25
SERVERS = ("vllm.entrypoints.cli.main", "sglang.launch_server")  # modules of the API servers
SHOWN_CORES = 0.05  # processes that keep less busy are left out


@contextmanager
def busy() -> Iterator[dict]:
    """Yields a dictionary that is filled at the end: `cores` that this process and each child process kept busy, and
    `gpu_busy_percent`, the share of time in which each GPU ran kernels."""
    found: dict = {}
    before = cpu_seconds()
    gpus, done, start = [], threading.Event(), time.perf_counter()

    def poll() -> None:
        while not done.wait(POLL_S):
            gpus.append(gpu_busy_percent())

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        wall_s = time.perf_counter() - start
        cores = {name: (cpu_s - before.get(name, 0.0)) / wall_s for name, cpu_s in cpu_seconds().items()}
        found["cores"] = {name: round(used, 2) for name, used in cores.items() if used >= SHOWN_CORES}
        found["gpu_busy_percent"] = [round(fmean(one)) for one in zip(*gpus, strict=False)]


def cpu_seconds() -> dict[str, float]:
    """CPU seconds by process: `client` is this one, and child processes have their own names, numbered in order."""
    me = psutil.Process()
    found, names = {"client": sum(me.cpu_times()[:2])}, {}
    for child in sorted(me.children(recursive=True), key=lambda process: process.pid):
        try:
            title, used = child.cmdline(), sum(child.cpu_times()[:2])
        except psutil.Error:  # the process has ended meanwhile
            continue
        is_server = any(module in title for module in SERVERS)
        name = "API server" if is_server else Path(title[0]).name.split(":")[-1] if title else child.name()
        names[name] = names.get(name, 0) + 1
        found[f"{name} {names[name]}"] = used
    return found


def one_round(target: Target, questions: Sequence[Question], in_flight: int) -> dict:
    rows: list[Prediction] = []
    start = time.perf_counter()
    with busy() as found:
        predict(target, questions, in_flight, rows.append)
    wall_s = time.perf_counter() - start
    failed = sum(row.error is not None for row in rows)
    return {"wall_s": round(wall_s, 3), "requests_per_s": len(rows) / wall_s, "failed": failed} | found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--servers-per-gpu", type=int, default=1, help="servers that share the GPUs")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--requests", type=int, default=1498, help="requests per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=100, help="tokens of an answer")
    args = parser.parse_args()
    if args.requests % PER_PICTURE:
        parser.error(f"--requests: expected a multiple of {PER_PICTURE}, the questions about a picture")
    return args


def main() -> None:
    args = parse()
    settings = load_settings(max_tokens=args.tokens)
    measured: dict[int, list[dict]] = {in_flight: [] for in_flight in args.in_flight}
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, "cuda" if has_gpu() else "cpu")
        images = work / "eval-images"
        images.mkdir(parents=True, exist_ok=True)
        warm_up = 2 * max(args.in_flight) // PER_PICTURE * PER_PICTURE  # questions about whole pictures
        questions = iter(make_questions(images, warm_up + args.requests * args.rounds * len(args.in_flight)))
        options = ENGINES[args.engine], work / "server.log", images, settings, args.server_arguments
        with new_server(args.servers_per_gpu, *options) as server:
            name = server.load(str(checkpoint))
            target = Target(server.urls, name, images, by_path=server.by_path, settings=settings)
            one_round(target, list(islice(questions, warm_up)), max(args.in_flight))
            for _ in range(args.rounds):
                for in_flight, rounds in measured.items():
                    rounds.append(one_round(target, list(islice(questions, args.requests)), in_flight))
                    print(f"{in_flight} in flight: {json.dumps(rounds[-1])}", flush=True)
                    write_result(args.out, "benchmarks.eval_run", result(args, measured))


def result(args: argparse.Namespace, measured: dict[int, list[dict]]) -> dict:
    settings = {
        name: getattr(args, name)
        for name in ("size", "engine", "servers_per_gpu", "requests", "tokens", "server_arguments")
    }
    rates = {
        str(in_flight): {"requests_per_s": spread(found["requests_per_s"] for found in rounds), "rounds": rounds}
        for in_flight, rounds in measured.items()
        if rounds
    }
    return {"settings": settings, "in_flight": rates}


if __name__ == "__main__":
    cli(main)
