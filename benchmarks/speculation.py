"""Speculative decoding on answers of a trained model: tokens a step, latency, and whether answers stay the same.

    python -m benchmarks.speculation --model CHECKPOINT --data EVAL_FOLDER --images IMAGES --out FILE

The same questions are asked one at a time: without drafts, with the prompt lookup of vLLM, and with our drafts of
grounding answers. A step of the model gives one token, and those of a draft that it accepts. Decoding is greedy.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.answer_draft import DRAFT_TOKENS, LOOKUP_TOKENS, speculative_config
from benchmarks.common import work_folder, write_result
from benchmarks.spread import spread
from qwen3vl_rl.data.predictions import Prediction, Question
from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.serving.engines import VLLM, on_cpu
from qwen3vl_rl.evaluation.serving.predict import Target, predict
from qwen3vl_rl.evaluation.serving.questions import read_questions
from qwen3vl_rl.evaluation.serving.server import Server
from qwen3vl_rl.evaluation.serving.settings import load_settings

WARM_UP = 4
LOOKUP = {
    "method": "ngram",
    "num_speculative_tokens": DRAFT_TOKENS,
    "prompt_lookup_max": max(LOOKUP_TOKENS),
    "prompt_lookup_min": min(LOOKUP_TOKENS),
}
WAYS = {"none": None, "prompt lookup": LOOKUP, "answer drafts": speculative_config()}
COUNTS = "vllm:spec_decode_num"


def ask(args: argparse.Namespace, questions: Sequence[Question], config: dict | None, log: Path) -> tuple[list, dict]:
    """The predictions in the order of `questions`, and the counts of `drafting` for them."""
    flags = ["--speculative-config", json.dumps(config)] if config else []
    if config and on_cpu():
        flags += ["--worker-extension-cls", "benchmarks.cpu_sampler.Worker"]
    settings, rows = load_settings(max_tokens=args.max_tokens), dict[str, Prediction]()
    with Server(VLLM, log, args.images, settings, [*flags, *args.server_arguments]) as server:
        name = server.load(str(args.model))
        target = Target(server.urls, name, args.images, server.by_path, settings)
        predict(target, questions[:WARM_UP], WARM_UP, lambda row: None)
        server.reset_caches()
        before = drafting(server.url)
        predict(target, questions, 1, lambda row: rows.__setitem__(row.key, row))
        if failed := [row.error for row in rows.values() if row.error]:
            raise InputError(f"{len(failed)} questions failed ({failed[0]})")
        after = drafting(server.url)
        return [rows[question.key] for question in questions], {name: after[name] - before[name] for name in before}


def drafting(url: str) -> dict[str, float]:
    """vLLM's counts so far: `drafts`, which are steps with a draft, and `accepted_tokens` of them."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return {
        name: sum(float(line.split()[-1]) for line in lines if line.startswith(f"{COUNTS}_{name}_total"))
        for name in ("drafts", "accepted_tokens")
    }


def measured(rows: Sequence[Prediction], counts: dict[str, float], plain: Sequence[Prediction]) -> dict:
    tokens, drafts, accepted = sum(row.tokens for row in rows), counts["drafts"], counts["accepted_tokens"]
    pairs = list(zip(plain, rows, strict=True))
    return {
        "answer_tokens": spread(row.tokens for row in rows),
        "tokens_per_step": tokens / (tokens - accepted),
        "steps_with_draft": drafts / (tokens - accepted),
        "tokens_per_step_with_draft": 1 + accepted / drafts if drafts else None,
        "latency_s": spread(row.latency_s for row in rows),
        "times_faster": spread(before.latency_s / row.latency_s for before, row in pairs),
        "differing_answers": sum(before.text != row.text for before, row in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=50, help="of each split")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--work", type=Path, help="keep the log here")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("server_arguments", nargs="*", metavar="-- SERVER_ARGUMENT")
    args = parser.parse_args()
    questions = read_questions(args.data, args.images, limit=args.questions)
    found: dict[str, dict] = {}
    plain: list[Prediction] = []
    with work_folder(args.work) as work:
        for name, config in WAYS.items():
            rows, counts = ask(args, questions, config, work / "server.log")
            plain = plain or rows
            found[name] = measured(rows, counts, plain)
            print(f"{name}: {json.dumps(found[name])}", flush=True)
            write_result(args.out, "benchmarks.speculation", {"questions": len(questions), "ways": found})


if __name__ == "__main__":
    cli(main)
