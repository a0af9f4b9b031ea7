"""Reasoning traces for training samples, from any OpenAI-compatible endpoint.

    python -m sft.generate_reasoning --samples train.jsonl --images DIR --out traces.jsonl \\
        --base-url https://api.openai.com/v1 --model gpt-4.1 --api-key-variable OPENAI_API_KEY

The model sees the image with the target outlined in green, the expression and the box in 0..1000, under
`prompts/vanilla.txt` or, for samples with `modal_bbox`, `prompts/amodal.txt`. Temperature, length and concurrency are
the released recipe's. A trace that a check of `sft.traces` objects to goes to OUT's neighbour `NAME.rejected.jsonl`
with the check's name; `--retry-rejected` asks for these again.

Rows are written as they come. Killed at any moment, the same command goes on with what is missing. Where the endpoint
failed in every attempt, the sample stays open: it is listed in `NAME.failed.jsonl`, the exit code is 1, and the same
command asks again. Where the endpoint itself fails again and again, the run gives up early.
"""

import argparse
import asyncio
import base64
import io
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from PIL import Image, ImageDraw
from tqdm import tqdm

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.parquet import add_arguments, select_samples
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.grounding import px_to_1000
from sft.traces import RowFile, failed_check, hash_in, sample_hash

PROMPTS = Path(__file__).parent / "prompts"
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # doubled after each attempt, unless the endpoint names a time
OUTLINE = (0, 255, 0)
JPEG_QUALITY = 90
GIVE_UP = 20  # failures of the endpoint in a row
PASSING = {408, 409, 425, 429}  # HTTP codes that pass with time; besides all from 500 on
OF_THE_ENDPOINT = {401, 402, 403, 404}  # a key, an account, an address or a model, whatever the sample


class RequestFailed(Exception):
    """The endpoint failed in every attempt, or refused the request for good. `of_endpoint`: whatever the sample is."""

    def __init__(self, failure: str, of_endpoint: bool):
        super().__init__(failure)
        self.of_endpoint = of_endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint; prices in dollars per million tokens."""

    base_url: str
    model: str
    api_key: str | None
    temperature: float
    max_tokens: int
    attempts: int
    timeout_s: float
    input_price: float
    output_price: float


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int


# --- the request ----------------------------------------------------------------------------------------------------


def draw_target(sample: Sample, images: Path) -> bytes:
    """The image with the sample's box outlined, as JPEG; the line runs outside of the box where there is room."""
    with Image.open(images / sample.image) as opened:
        image = opened.convert("RGB")
    width_px = max(2, round(min(image.size) / 150))
    x1, y1, x2, y2 = sample.xyxy_px
    left, top = max(0, x1 - width_px), max(0, y1 - width_px)
    right, bottom = min(image.width, x2 + width_px) - 1, min(image.height, y2 + width_px) - 1
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline=OUTLINE, width=width_px)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


def render_request(sample: Sample) -> str:
    """The text that asks for a trace of `sample`."""
    template = (PROMPTS / ("vanilla.txt" if sample.modal_xyxy_px is None else "amodal.txt")).read_text()
    box = list(px_to_1000(sample.xyxy_px, sample.width, sample.height))
    return template.replace("{box}", str(box)).replace("{sent}", sample.sent)


def request_body(endpoint: Endpoint, sample: Sample, images: Path) -> dict:
    picture = base64.b64encode(draw_target(sample, images)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}},
        {"type": "text", "text": render_request(sample)},
    ]
    return {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
    }


async def ask(http: aiohttp.ClientSession, endpoint: Endpoint, body: dict) -> Reply:
    """One reply. Waits and tries again where that may help; raises RequestFailed where it does not, or not in time."""
    for attempt in range(1, endpoint.attempts + 1):
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        try:
            async with http.post("chat/completions", json=body) as response:
                if response.status == 200:
                    return read_reply(await response.json(content_type=None))
                failure = f"HTTP {response.status}: {(await response.text())[:200]}"
                if response.status < 500 and response.status not in PASSING:
                    raise RequestFailed(failure, response.status in OF_THE_ENDPOINT)
                wait_s = retry_after_s(response.headers.get("Retry-After")) or wait_s
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"[:200]
        if attempt < endpoint.attempts:
            await asyncio.sleep(wait_s)
    raise RequestFailed(f"{failure} (attempt {endpoint.attempts} of {endpoint.attempts})", True)


def read_reply(reply: object) -> Reply:
    """Raises ValueError for what is no reply of a chat endpoint."""
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = choice["message"].get("content") or ""
        tokens = (int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        return Reply(text.strip(), str(choice.get("finish_reason")), *tokens)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion ({type(error).__name__}: {error})") from None


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, at most LONGEST_WAIT_S; a date in it is not read."""
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(header)))
    except (TypeError, ValueError):
        return None


# --- the run --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What a run writes to, and what it has counted."""

    endpoint: Endpoint
    images: Path
    accepted: RowFile
    rejected: RowFile
    failed: list[dict] = field(default_factory=list)
    checks: Counter = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    in_vain: int = 0  # failures of the endpoint since its last reply
    gave_up: str | None = None  # the failure at which the run ends; once said, it stays

    def __post_init__(self) -> None:
        """Earlier starts' tokens count, too."""
        for row in (*self.accepted.rows, *self.rejected.rows):
            self.input_tokens += row.get("input_tokens", 0)
            self.output_tokens += row.get("output_tokens", 0)

    async def trace(self, http: aiohttp.ClientSession, sample: Sample) -> None:
        """Ask for one trace and write down what came of it."""
        try:
            body = await asyncio.to_thread(request_body, self.endpoint, sample, self.images)
            reply = await ask(http, self.endpoint, body)
        except (RequestFailed, OSError) as failure:  # OSError: an image that breaks off behind its header
            self.failed.append({"id": sample.id, "failure": str(failure)})
            self.in_vain += getattr(failure, "of_endpoint", False)
            if self.in_vain >= GIVE_UP:
                self.gave_up = self.gave_up or str(failure)
            return
        self.in_vain = 0
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        cost = {"model": self.endpoint.model, "input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
        name = {"id": sample.id, "sample_hash": sample_hash(sample)}
        if check := failed_check(reply.text, sample, reply.finish_reason):
            self.checks[check] += 1
            self.rejected.append({**name, "check": check, "text": reply.text, **cost})
        else:
            self.checks["accepted"] += 1
            self.accepted.append({**name, "reasoning": reply.text, **cost})

    def spent(self) -> str:
        tokens = f"{self.input_tokens:,} + {self.output_tokens:,} tokens"
        dollars = self.input_tokens * self.endpoint.input_price + self.output_tokens * self.endpoint.output_price
        return f"{tokens}, ${dollars / 1e6:.2f}" if dollars else tokens


async def trace_all(run: Run, samples: list[Sample], concurrency: int) -> None:
    """At most `concurrency` requests at a time."""
    timeout = aiohttp.ClientTimeout(total=run.endpoint.timeout_s)
    headers = {"Authorization": f"Bearer {run.endpoint.api_key}"} if run.endpoint.api_key else {}
    url = run.endpoint.base_url.rstrip("/") + "/"
    bar = tqdm(total=len(samples), desc="traces", unit="sample", mininterval=1)

    async def worker(http: aiohttp.ClientSession, mine: Iterator[Sample]) -> None:
        while not run.gave_up and (sample := next(mine, None)) is not None:
            await run.trace(http, sample)
            bar.update()
            failing = f", {run.in_vain} in a row: {run.failed[-1]['failure'][:40]}" if run.in_vain else ""
            bar.set_postfix_str(f"{len(run.failed)} failed{failing}, {run.spent()}")

    connector = aiohttp.TCPConnector(limit=0)  # the number of workers is the limit
    with bar:
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, headers=headers) as http:
            queue = iter(samples)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(samples))):
                    group.create_task(worker(http, queue))


def beside(out: Path, word: str) -> Path:
    return out.with_name(f"{out.stem}.{word}{out.suffix}")


def unique(samples: Iterable[Sample]) -> list[Sample]:
    """Raises InputError for an id that two samples share: their traces could not be told apart."""
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in found:
            raise InputError(f'--samples: expected one sample with the id "{sample.id}", found two')
        found[sample.id] = sample
    return list(found.values())


def check_same_samples(accepted: RowFile, samples: Iterable[Sample]) -> None:
    """Raises InputError where an accepted trace speaks of another sample than the one that has its id now."""
    of = {row["id"]: hash_in(row) for row in accepted.rows}
    for sample in samples:
        if (earlier := of.get(sample.id)) is not None and earlier != sample_hash(sample):
            raise InputError(
                f'--samples: the trace of "{sample.id}" in --out is of another sample; choose another --out'
            )


def rejected_ids(rejected: RowFile, samples: Iterable[Sample]) -> set[str]:
    """Ids whose sample, as it is now, has had a rejected trace."""
    of = {sample.id: sample_hash(sample) for sample in samples}
    return {row["id"] for row in rejected.rows if hash_in(row) in (None, of.get(row["id"]))}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--base-url", required=True, help="up to and with /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-variable", metavar="NAME", help="environment variable that holds the key")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=800)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=8, help="of one request, with growing waits")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="of one attempt")
    parser.add_argument("--input-price", type=float, default=0.0, help="dollars per million tokens")
    parser.add_argument("--output-price", type=float, default=0.0, help="dollars per million tokens")
    parser.add_argument(
        "--retry-rejected", action="store_true", help="ask for the rejected ones of these samples again"
    )
    args = parser.parse_args()
    if not args.base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url: expected http(s)://…/v1, got {args.base_url}")
    if min(args.concurrency, args.attempts, args.max_tokens, args.timeout) <= 0:
        raise InputError("--concurrency, --attempts, --max-tokens, --timeout: expected positive numbers")
    return args


def read_key(variable: str | None) -> str | None:
    if variable and not os.environ.get(variable):
        raise InputError(f"--api-key-variable: expected a key in the environment variable {variable}, found none")
    return os.environ.get(variable) if variable else None


def generate(args: argparse.Namespace) -> int:
    """Returns the number of samples that stay open because the endpoint failed."""
    names = ("base_url", "model", "temperature", "max_tokens", "attempts", "input_price", "output_price")
    endpoint = Endpoint(
        **{name: getattr(args, name) for name in names}, api_key=read_key(args.api_key_variable), timeout_s=args.timeout
    )
    samples = unique(sample for _, _, sample in select_samples(args))
    run = Run(endpoint, args.images, RowFile(args.out), RowFile(beside(args.out, "rejected")))
    check_same_samples(run.accepted, samples)
    done = run.accepted.ids if args.retry_rejected else run.accepted.ids | rejected_ids(run.rejected, samples)
    missing = [sample for sample in samples if sample.id not in done]
    print(f"{args.out}: {len(samples) - len(missing)} of {len(samples)} samples done before, {len(missing)} to ask for")
    try:
        asyncio.run(trace_all(run, missing, args.concurrency))
    except ExceptionGroup as group:  # of the workers; the first failure stopped the others
        if not isinstance(error := group.exceptions[0], OSError):
            raise
        raise InputError(f"{args.out}: {error.strerror}; the same command goes on from here") from None
    unasked = missing[len(run.failed) + run.checks.total() :] if run.gave_up else []
    write_jsonl(beside(args.out, "failed"), run.failed)
    counts = ", ".join(f"{name} {count}" for name, count in run.checks.most_common()) or "nothing"
    print(f"{args.out}: {counts}; {len(run.failed)} failed, {len(unasked)} not asked; {run.spent()}")
    if run.gave_up:
        raise InputError(f"--base-url: {GIVE_UP} failures in a row, at last: {run.gave_up}; the same command goes on")
    return len(run.failed)


def main() -> None:
    if generate(parse()):
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
