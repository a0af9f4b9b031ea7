"""Serving: latency of one request by length of the answer, and throughput under load.

    python -m benchmarks.serving --size 2b --engine vllm --out FILE [-- FLAGS OF THE SERVER]

Models have Qwen3-VL shapes with random weights, images are 640x480 JPEGs, and decoding is greedy as in the evaluation.
Answers have exactly the requested number of tokens (the end of a turn is ignored). Every request shows an image that
the server has not seen. Latency is measured with one request at a time, throughput with `--concurrency` in flight.
`--dummy` writes no weights to the disk: the server makes them up.
"""

import argparse
import asyncio
import itertools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.common import SIZES, has_gpu, random_checkpoint, shapes_samples, work_folder, write_result
from benchmarks.drafts import synthetic_config
from benchmarks.spread import spread
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import render_prompt
from qwen3vl_rl.models.fp8 import fp8_config

WARM_UP = 4


@dataclass
class Client:
    """Sends requests to one server; `fresh` yields samples whose images the server has not seen."""

    http: aiohttp.ClientSession
    model: str
    images: Path
    fresh: Iterator[Sample]

    async def ask(self, tokens: int) -> float:
        """Seconds until the complete answer has arrived. Raises RuntimeError unless it has exactly `tokens` tokens."""
        sample = next(self.fresh)
        content = [
            {"type": "image_url", "image_url": {"url": (self.images / sample.image).resolve().as_uri()}},
            {"type": "text", "text": render_prompt(sample.prompt_name, sample.sent)},
        ]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        start = time.perf_counter()
        async with self.http.post("/v1/chat/completions", json=request) as response:
            reply = await response.json(content_type=None)
        latency_s = time.perf_counter() - start
        if not response.ok or reply["usage"]["completion_tokens"] != tokens:
            raise RuntimeError(f"expected an answer of {tokens} tokens, got {str(reply)[:500]}")
        self.prompt_tokens = reply["usage"]["prompt_tokens"]
        return latency_s

    async def one_at_a_time(self, tokens: int, repeats: int) -> dict:
        latencies = [await self.ask(tokens) for _ in range(repeats)]
        return {"answer_tokens": tokens, "requests": repeats, "latency_s": spread(latencies)}

    async def under_load(self, tokens: int, concurrency: int, requests: int) -> dict:
        turns = iter(range(requests))

        async def worker() -> list[float]:
            return [await self.ask(tokens) for _ in turns]

        start = time.perf_counter()
        latencies = list(itertools.chain(*await asyncio.gather(*(worker() for _ in range(concurrency)))))
        wall_s = time.perf_counter() - start
        return {
            "answer_tokens": tokens,
            "concurrency": concurrency,
            "requests": requests,
            "wall_s": wall_s,
            "requests_per_s": requests / wall_s,
            "answer_tokens_per_s": requests * tokens / wall_s,
            "latency_s": {"median": statistics.median(latencies), "p95": statistics.quantiles(latencies, n=20)[-1]},
        }


async def measure(
    args: argparse.Namespace, url: str, model: str, images: Path, samples: list[Sample], save: Callable[[dict], None]
) -> None:  # fmt: skip
    """Calls `save` after each row with all rows so far, as a run may be cut short."""
    timeout = aiohttp.ClientTimeout(total=args.timeout_s)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        client = Client(http, model, images, iter(samples))
        await client.one_at_a_time(max(args.tokens), WARM_UP)
        latency, throughput = [], []
        found = {"prompt_tokens": client.prompt_tokens, "latency": latency, "throughput": throughput}
        for tokens in args.tokens:
            latency.append(row := await client.one_at_a_time(tokens, args.repeats))
            save(found)
            print("  {answer_tokens:>4} tokens: {latency_s[median]:.3f} s".format(**row), flush=True)
        for _, concurrency, tokens in itertools.product(range(args.rounds), args.concurrency, args.load_tokens):
            requests = concurrency * args.requests_per_slot
            throughput.append(row := await client.under_load(tokens, concurrency, requests))
            save(found)
            text = "  {concurrency} in flight: {requests_per_s:.1f} requests/s, {answer_tokens_per_s:.0f} tokens/s"
            print(text.format(**row), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments shared by benchmarks that serve a model with random weights."""
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--work", type=Path, help="keep checkpoint, images and log here, and reuse the checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dummy", action="store_true", help="no weights on the disk")
    parser.add_argument("--quantize", choices=("fp8",), help="as `qwen3vl_rl.export` does; with --dummy")
    parser.add_argument("--drafts", action="store_true", help="speculation, accepted as measured (benchmarks.drafts)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 42, 50, 101, 200, 500])
    parser.add_argument("--repeats", type=int, default=8, help="requests per answer length")
    parser.add_argument("--load-tokens", type=int, nargs="+", default=[101], help="answer lengths under load")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[64, 256], help="the recipe evaluates with 64")
    parser.add_argument("--requests-per-slot", type=int, default=4, help="requests under load, for each one in flight")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions of all loads")
    parser.add_argument("--timeout-s", type=float, default=120, help="limit for one request")
    args = parser.parse_args()
    if args.quantize and not args.dummy:
        parser.error("--quantize: expected --dummy, because no weights are quantized")
    return args


def model_of(args: argparse.Namespace, work: Path) -> tuple[Path, list[str]]:
    """The checkpoint, and the flags of the server."""
    flags = list(args.server_arguments)
    if args.drafts:
        flags += ["--speculative-config", json.dumps(synthetic_config())]
    if not args.dummy:
        return random_checkpoint(args.size, work, "cuda" if has_gpu() else "cpu"), flags
    checkpoint = random_checkpoint(args.size, work, "meta")
    if args.quantize:
        checkpoint = quantized(checkpoint)
    return checkpoint, [*flags, "--load-format", "dummy"]


def quantized(shape: Path) -> Path:
    """A copy of the checkpoint `shape`, which has no weights, with the configuration of an export in 8 bits."""
    copy = shape.with_name(f"{shape.name}-fp8")
    shutil.copytree(shape, copy, dirs_exist_ok=True)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": fp8_config()}))
    return copy


def main() -> None:
    args = parse()
    settings = load_settings(max_tokens=max(args.load_tokens + args.tokens))
    loads = args.rounds * len(args.load_tokens) * sum(args.concurrency) * args.requests_per_slot
    requests = WARM_UP + len(args.tokens) * args.repeats + loads
    with work_folder(args.work) as work:
        checkpoint, flags = model_of(args, work)
        images = work / f"images-{args.engine}"
        log = work / f"server-{args.engine}-{args.size}.log"
        server = Server(ENGINES[args.engine], log, images, settings, flags)
        with ThreadPoolExecutor() as pool, server:
            drawn = pool.submit(lambda: list(shapes_samples(images, requests)))
            begin = time.perf_counter()
            model = server.load(str(checkpoint))
            start = {name: getattr(args, name) for name in ("size", "engine", "quantize", "drafts", "server_arguments")}
            start["start_s"] = round(time.perf_counter() - begin, 1)

            def save(found: dict) -> None:
                write_result(args.out, "benchmarks.serving", start | found)

            asyncio.run(measure(args, server.url, model, images, drawn.result(), save))


if __name__ == "__main__":
    cli(main)
