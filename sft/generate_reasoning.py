"""Generate reasoning traces for training samples with any OpenAI-compatible endpoint.

    python -m sft.generate_reasoning --samples train.jsonl --images DIR --out traces.jsonl \\
        --base-url https://api.openai.com/v1 --model gpt-4.1 --api-key-variable OPENAI_API_KEY

The model gets the image with the target outlined in green, the expression, and the box in 0..1000. The prompt is
`prompts/vanilla.txt`, or `prompts/amodal.txt` for samples with `modal_bbox`. The defaults of temperature, length and
concurrency are those of the released recipe. A trace that fails a check of `sft.traces` is written to
`NAME.rejected.jsonl` next to OUT, with the name of the check. `--retry-rejected` asks for these samples again.

Each row is written when its reply arrives. Rerun the command to resume. A sample whose request failed in all attempts
is listed in `NAME.failed.jsonl`; the exit code is then 1, and the next run asks again. The run stops early if the
endpoint fails many times in a row.
"""

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.openai_client import Completion, EndpointFailed, OpenAIClient, RequestFailed, for_each
from qwen3vl_rl.data.parquet import add_arguments, select_samples
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.training.progress import CountProgress
from sft.trace_request import Teacher, request_body
from sft.traces import RowFile, failed_check, hash_in, sample_hash

GIVE_UP = 20  # consecutive failures of the endpoint


@dataclass
class Run:
    """The files of a run, and its counts."""

    teacher: Teacher
    images: Path
    accepted: RowFile
    rejected: RowFile
    failed: list[dict] = field(default_factory=list)
    checks: Counter = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    failures_in_a_row: int = 0  # of the endpoint, since its last reply
    gave_up: str | None = None  # the failure at which the run gave up

    def __post_init__(self) -> None:
        """Count the tokens of earlier starts."""
        for row in (*self.accepted.rows, *self.rejected.rows):
            self.input_tokens += row.get("input_tokens", 0)
            self.output_tokens += row.get("output_tokens", 0)

    async def trace(self, client: OpenAIClient, sample: Sample) -> None:
        """Ask for one trace, and write the result."""
        try:
            body = await asyncio.to_thread(request_body, self.teacher, sample, self.images)
            completion = await client.complete(body)
        except (RequestFailed, OSError) as failure:  # OSError: a truncated image
            self.failed.append({"id": sample.id, "failure": str(failure)})
            self.failures_in_a_row += isinstance(failure, EndpointFailed)
            if self.failures_in_a_row >= GIVE_UP:
                self.gave_up = self.gave_up or str(failure)
        else:
            self.failures_in_a_row = 0
            self._write(sample, completion)

    def _write(self, sample: Sample, completion: Completion) -> None:
        reply = completion.choices[0]
        text = reply.text.strip()
        cost = {"input_tokens": completion.input_tokens or 0, "output_tokens": completion.output_tokens or 0}
        self.input_tokens += cost["input_tokens"]
        self.output_tokens += cost["output_tokens"]
        name, made_by = {"id": sample.id, "sample_hash": sample_hash(sample)}, {"model": self.teacher.model, **cost}
        if check := failed_check(text, sample, reply.finish_reason):
            self.checks[check] += 1
            self.rejected.append({**name, "check": check, "text": text, **made_by})
        else:
            self.checks["accepted"] += 1
            self.accepted.append({**name, "reasoning": text, **made_by})

    def spent(self) -> str:
        tokens = f"{self.input_tokens:,} + {self.output_tokens:,} tokens"
        dollars = self.input_tokens * self.teacher.input_price + self.output_tokens * self.teacher.output_price
        return f"{tokens}, ${dollars / 1e6:.2f}" if dollars else tokens


async def trace_all(run: Run, client: OpenAIClient, samples: list[Sample], concurrency: int) -> None:
    """At most `concurrency` requests at a time."""
    progress = CountProgress("traces", "samples", len(samples))

    async def trace(sample: Sample) -> None:
        await run.trace(client, sample)
        in_a_row = run.failures_in_a_row
        latest = f", {in_a_row} in a row: {run.failed[-1]['failure'][:40]}" if in_a_row else ""
        progress.add(f"{len(run.failed)} failed{latest}, {run.spent()}")

    with progress:
        async with client:
            await for_each(takewhile(lambda _: not run.gave_up, samples), trace, min(concurrency, len(samples)))


def sibling(out: Path, word: str) -> Path:
    return out.with_name(f"{out.stem}.{word}{out.suffix}")


def unique(samples: Iterable[Sample]) -> list[Sample]:
    """Raises InputError for an id that two samples share, since their traces could not be distinguished."""
    found: dict[str, Sample] = {}
    for sample in samples:
        if sample.id in found:
            raise InputError(f'--samples: expected one sample with the id "{sample.id}", found two')
        found[sample.id] = sample
    return list(found.values())


def check_same_samples(accepted: RowFile, samples: Iterable[Sample]) -> None:
    """Raises InputError if an accepted trace belongs to another sample than the one that has its id now."""
    hashes = {row["id"]: hash_in(row) for row in accepted.rows}
    for sample in samples:
        if hashes.get(sample.id) not in (None, sample_hash(sample)):
            raise InputError(
                f'--samples: the trace of "{sample.id}" in --out is of another sample; choose another --out'
            )


def rejected_ids(rejected: RowFile, samples: Iterable[Sample]) -> set[str]:
    """Ids of samples that have a rejected trace. A trace of another sample under the same id does not count."""
    hashes = {sample.id: sample_hash(sample) for sample in samples}
    return {row["id"] for row in rejected.rows if hash_in(row) in (None, hashes.get(row["id"]))}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--base-url", required=True, help="ends in /v1; for Azure, the deployment's address")
    parser.add_argument("--api-version", help="for Azure only, such as 2024-12-01-preview")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-variable", metavar="NAME", help="environment variable with the key")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=800)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=8, help="per request, with growing waits")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="per attempt")
    parser.add_argument("--input-price", type=float, default=0.0, help="dollars per million tokens")
    parser.add_argument("--output-price", type=float, default=0.0, help="dollars per million tokens")
    parser.add_argument("--retry-rejected", action="store_true", help="ask again for samples whose trace was rejected")
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
    """Returns the number of samples without a trace because their requests failed."""
    key = read_key(args.api_key_variable)
    limits = {"attempts": args.attempts, "timeout_s": args.timeout}
    client = OpenAIClient(args.base_url, **limits, api_key=key, api_version=args.api_version)
    teacher = Teacher(args.model, args.temperature, args.max_tokens, args.input_price, args.output_price)
    samples = unique(sample for _, _, sample in select_samples(args))
    run = Run(teacher, args.images, RowFile(args.out), RowFile(sibling(args.out, "rejected")))
    check_same_samples(run.accepted, samples)
    done = run.accepted.ids if args.retry_rejected else run.accepted.ids | rejected_ids(run.rejected, samples)
    missing = [sample for sample in samples if sample.id not in done]
    print(f"{args.out}: {len(samples) - len(missing)} of {len(samples)} samples done before, {len(missing)} to ask for")
    try:
        asyncio.run(trace_all(run, client, missing, args.concurrency))
    except OSError as error:  # for example a full disk
        raise InputError(f"{args.out}: {error.strerror}; run the same command again to resume") from None
    unasked = missing[len(run.failed) + run.checks.total() :] if run.gave_up else []
    write_jsonl(sibling(args.out, "failed"), run.failed)
    counts = ", ".join(f"{name} {count}" for name, count in run.checks.most_common()) or "nothing"
    print(f"{args.out}: {counts}; {len(run.failed)} failed, {len(unasked)} not asked; {run.spent()}")
    if run.gave_up:
        what = f"{GIVE_UP} failures in a row, the last one: {run.gave_up}"
        raise InputError(f"--base-url: {what}; run the same command again to resume")
    return len(run.failed)


def main() -> None:
    if generate(parse()):
        raise SystemExit(1)


if __name__ == "__main__":
    cli(main)
