"""What an answer costs when a model is served: latency of one request by answer length, and throughput under load.

    python -m benchmarks.serving --size 2b --engine vllm --out FILE [-- FLAGS OF THE SERVER]

Qwen3-VL shapes with random weights, whole 640x480 JPEGs, greedy decoding as in the evaluation, answers of exactly so
many tokens (the end of a turn is ignored). Every request asks about an image that the server has not seen. One request
at a time gives latencies; `--concurrency` requests in flight give throughput.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.common import SIZES, has_gpu, random_checkpoint, shapes_samples, spread, work_folder, write_result
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.serving.engines import ENGINES
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import render_prompt

WARM_UP = 4


@dataclass
class Client:
    """Asks one server; `fresh` yields samples whose images it has not seen."""

    http: aiohttp.ClientSession
    model: str
    images: Path
    fresh: Iterator[Sample]

    async def ask(self, tokens: int) -> float:
        """Seconds until the whole answer of exactly `tokens` is here. Raises RuntimeError for any other answer."""
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

    async def alone(self, tokens: int, repeats: int) -> dict:
        latencies = [await self.ask(tokens) for _ in range(repeats)]
        return {"answer_tokens": tokens, "requests": repeats, "latency_s": spread(latencies)}

    async def loaded(self, tokens: int, concurrency: int, requests: int) -> dict:
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
    """`save` is called after each row with all that is there: a run may be cut short."""
    timeout = aiohttp.ClientTimeout(total=args.timeout_s)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        client = Client(http, model, images, iter(samples))
        await client.alone(max(args.tokens), WARM_UP)
        latency, throughput = [], []
        found = {"prompt_tokens": client.prompt_tokens, "latency": latency, "throughput": throughput}
        for tokens in args.tokens:
            latency.append(row := await client.alone(tokens, args.repeats))
            save(found)
            print("  {answer_tokens:>4} tokens: {latency_s[median]:.3f} s".format(**row), flush=True)
        for _, concurrency in itertools.product(range(args.rounds), args.concurrency):
            requests = concurrency * args.requests_per_slot
            throughput.append(row := await client.loaded(args.load_tokens, concurrency, requests))
            save(found)
            text = "  {concurrency} in flight: {requests_per_s:.1f} requests/s, {answer_tokens_per_s:.0f} tokens/s"
            print(text.format(**row), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is served and how, for every benchmark that starts a server on random weights."""
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--work", type=Path, help="keep checkpoint, images and log here, and use the first again")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 15, 50, 100, 200, 500])
    parser.add_argument("--repeats", type=int, default=8, help="requests per answer length")
    parser.add_argument("--load-tokens", type=int, default=100, help="answer length under load")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[64, 256], help="the recipe evaluates with 64")
    parser.add_argument("--requests-per-slot", type=int, default=4, help="under load")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions of the loads, by turns")
    parser.add_argument("--timeout-s", type=float, default=120, help="of one request")
    return parser.parse_args()


def main() -> None:
    args = parse()
    settings = load_settings(max_tokens=max([args.load_tokens, *args.tokens]))
    requests = WARM_UP + len(args.tokens) * args.repeats + args.rounds * sum(args.concurrency) * args.requests_per_slot
    with work_folder(args.work) as work:
        checkpoint = random_checkpoint(args.size, work, "cuda" if has_gpu() else "cpu")
        images = work / f"images-{args.engine}"
        log = work / f"server-{args.engine}-{args.size}.log"
        server = Server(ENGINES[args.engine], log, images, settings, args.server_arguments)
        with ThreadPoolExecutor() as beside, server:
            drawn = beside.submit(lambda: list(shapes_samples(images, requests)))
            begin = time.perf_counter()
            model = server.load(str(checkpoint))
            start = {"size": args.size, "engine": args.engine, "start_s": round(time.perf_counter() - begin, 1)}

            def save(found: dict) -> None:
                write_result(args.out, "benchmarks.serving", start | found)

            asyncio.run(measure(args, server.url, model, images, drawn.result(), save))


if __name__ == "__main__":
    cli(main)
