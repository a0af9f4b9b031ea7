"""Rewards per second on one core, for answers as long as those of the quickstart and of the paper's models.

python -m benchmarks.reward_throughput --out benchmarks/results/reward_throughput.json
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.common import write_result
from qwen3vl_rl.grounding import target_text
from qwen3vl_rl.reward import compute_score

SENTENCE = "Counting from the left edge, the second red square is the large one that the blue triangle partly hides. "
SENT = "the second red square from the left"
INFO = {"split": "train", "id": "0", "width": 640, "height": 480}


def rewards_per_s(text: str, parser: str, calls: int = 20_000, rounds: int = 7) -> float:
    """By CPU time. The fastest round counts, because other work on the machine can only slow a round down."""
    best_s = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            compute_score(
                "grounding", text, [12, 18, 310, 390], INFO, reward_type="mix", alpha=0.5, threshold=0.5, parser=parser
            )
        best_s = min(best_s, time.process_time() - start)
    return calls / best_s


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    out = arguments.parse_args().out
    texts = {
        name: target_text(SENTENCE * sentences, (10, 20, 300, 400), SENT)
        for name, sentences in (("direct", 0), ("two sentences", 2), ("ten sentences", 10))
    }
    result = {
        "rewards_per_s": [
            {"answer": name, "words": len(text.split()), "parser": parser, "value": round(rewards_per_s(text, parser))}
            for name, text in texts.items()
            for parser in ("strict", "released_reward")
        ],
    }
    print(json.dumps(result, indent=2))
    if out:
        write_result(out, "benchmarks.reward_throughput", result)


if __name__ == "__main__":
    main()
