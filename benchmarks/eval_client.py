"""Our evaluation client against a straightforward one, with the same server and the same requests.

    python -m benchmarks.eval_client --model CHECKPOINT --out benchmarks/results/eval_client_NAME.json

The straightforward client is what one writes first: `asyncio.gather` over the openai package. It opens each picture,
encodes it again into the request and scores the answer inside the event loop, and writes all rows at the end. Caches
are emptied before each run. Clients take turns, and each repeat gives one ratio of wall times. Pictures are synthetic,
640x480, with 7 requests about each, as in RefCOCO val.
"""

import argparse
import asyncio
import base64
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.common import write_result
from benchmarks.spread import spread
from qwen3vl_rl.data.predictions import Prediction, Question, append, score
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import cli
from qwen3vl_rl.evaluation.serving.engines import VLLM
from qwen3vl_rl.evaluation.serving.predict import Target, predict
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings
from qwen3vl_rl.grounding import render_prompt

WIDTH, HEIGHT, PER_PICTURE = 640, 480, 7
CLIENTS = ("straightforward", "ours", "ours, pictures in the requests")


def make_questions(folder: Path, count: int) -> list[Question]:
    """`count` questions. Writes their pictures to `folder`: smooth noise, with JPEGs as large as photographs'."""
    rng = np.random.default_rng(0)
    questions = []
    for number in range(count):
        name = f"{number // PER_PICTURE}.jpg"
        if number % PER_PICTURE == 0:
            coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
            coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / name, quality=90)
        sent = f"the {number % PER_PICTURE + 1}th thing from the left"
        questions.append(
            Question(f"noise/{number:06d}", "noise", Sample(str(number), name, WIDTH, HEIGHT, sent, (0, 0, 9, 9)))
        )
    return questions


async def straightforward(target: Target, questions: Sequence[Question], concurrency: int, out: Path) -> None:
    from openai import AsyncOpenAI  # importing it takes seconds

    gate, settings = asyncio.Semaphore(concurrency), target.settings
    extra = {"top_k": settings.top_k, "repetition_penalty": settings.repetition_penalty}

    async def answer(question: Question) -> Prediction:
        async with gate:
            buffer = io.BytesIO()
            Image.open(target.images / question.sample.image).convert("RGB").save(buffer, "JPEG")
            url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            text = render_prompt(settings.prompt, question.sample.sent)
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
            start = time.perf_counter()
            reply = await client.chat.completions.create(
                model=target.model,
                messages=[{"role": "user", "content": content}],
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_tokens,
                extra_body=extra,
            )
            seconds = time.perf_counter() - start
            tokens, choice = reply.usage.completion_tokens, reply.choices[0]
            return score(question, choice.message.content, parser="strict", tokens=tokens, latency_s=seconds)

    async with AsyncOpenAI(base_url=f"{target.urls[0]}/v1", api_key="none", timeout=target.timeout_s) as client:
        rows = await asyncio.gather(*(answer(question) for question in questions))
    out.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))


def ours(target: Target, questions: Sequence[Question], concurrency: int, out: Path) -> None:
    with out.open("w") as file:
        predict(target, questions, concurrency, lambda row: append(file, row))


def run(client: str, target: Target, questions: Sequence[Question], concurrency: int, out: Path) -> None:
    if client == "straightforward":
        asyncio.run(straightforward(target, questions, concurrency, out))
    else:
        ours(replace(target, by_path=client == "ours"), questions, concurrency, out)


def timed(client: str, target: Target, questions: Sequence[Question], concurrency: int, out: Path) -> dict:
    """Run one client. Returns wall time, CPU time of this process, tokens, and the number of failed requests."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(client, target, questions, concurrency, out)
    seconds = {"wall_s": time.perf_counter() - wall, "client_cpu_s": time.process_time() - cpu}
    rows = [json.loads(line) for line in out.open()]
    counts = {"tokens": sum(row["tokens"] for row in rows), "failed": sum(row["error"] is not None for row in rows)}
    return {name: round(value, 3) for name, value in seconds.items()} | counts


def ratios(walls: dict[str, list[dict]], client: str) -> dict[str, float]:
    """How many times as fast `client` is as the straightforward one, repeat by repeat."""
    pairs = zip(walls["straightforward"], walls[client], strict=True)
    return spread(theirs["wall_s"] / own["wall_s"] for theirs, own in pairs)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[dict]]:
    """The measurements of each client, one for each repeat. Each repeat starts with another client."""
    questions = make_questions(folder, args.requests)
    settings = load_settings(max_tokens=args.max_tokens, min_pixels=1024, max_pixels=WIDTH * HEIGHT)
    measured: dict[str, list[dict]] = {client: [] for client in CLIENTS}
    with Server(VLLM, folder / "server.log", folder, settings, args.server_arguments) as server:
        name = server.load(str(args.model))
        target = Target(server.urls, name, folder, by_path=True, settings=settings)
        for client in CLIENTS:  # warm up the server and imports
            timed(client, target, questions[: 2 * args.concurrency], args.concurrency, folder / "rows.jsonl")
        for repeat in range(args.repeats):
            first = repeat % len(CLIENTS)
            for client in CLIENTS[first:] + CLIENTS[:first]:
                server.reset_caches()  # so that no client profits from an earlier one
                measured[client].append(timed(client, target, questions, args.concurrency, folder / "rows.jsonl"))
                print(f"{client}: {measured[client][-1]}", flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        measured = measure(args, Path(folder))
    result = {
        "what": "wall time of the same requests by three clients, interleaved; ratio: straightforward / ours",
        "requests": args.requests,
        "concurrency": args.concurrency,
        "max_tokens": args.max_tokens,
        "clients": measured,
        "ratio": {client: ratios(measured, client) for client in CLIENTS[1:]},
    }
    write_result(args.out, "benchmarks.eval_client", result)
    print(json.dumps(result["ratio"], indent=2))


if __name__ == "__main__":
    cli(main)
