"""Samples and their reasoning traces to the SFT parquet that `sft.dataset` reads.

    python -m sft.build_dataset --samples train.jsonl --traces train_traces.jsonl --images DIR --out sft_train.parquet

Traces are jsonl rows `id`, `reasoning`; samples without one are left out and counted. A row of the parquet holds
`messages` (user: `<image>` and the prompt; assistant: reasoning, `</think>`, the answer) and `images` (one absolute
path).
"""

import argparse
from pathlib import Path

import pyarrow as pa

from qwen3vl_rl.data.parquet import add_arguments, select_samples, user_turn, write_rows
from qwen3vl_rl.data.samples import Sample, read_jsonl
from qwen3vl_rl.grounding import InputError, cli, px_to_1000, row_error, target_text

SFT_SCHEMA = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.string()),
    }
)


def read_traces(path: Path) -> dict[str, str]:
    """Reasoning by sample id. Raises InputError for a row that is malformed, or would break the answer's format."""
    traces = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        reasoning = row.get("reasoning")
        if not isinstance(row.get("id"), str) or row["id"] in traces:
            raise row_error(path, number, "id", "the id of a sample, once", row.get("id"))
        if not isinstance(reasoning, str) or not reasoning.strip() or "think>" in reasoning:
            raise row_error(path, number, "reasoning", "a text without <think> tags", reasoning)
        traces[row["id"]] = reasoning.strip()
    return traces


def sft_row(sample: Sample, reasoning: str, images: Path) -> dict:
    """One conversation; the target is `grounding.target_text`, with the box in 0..1000."""
    target = target_text(reasoning, px_to_1000(sample.xyxy_px, sample.width, sample.height), sample.sent)
    messages = [user_turn(sample), {"role": "assistant", "content": target}]
    return {"messages": messages, "images": [str((images / sample.image).resolve())]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--traces", type=Path, required=True)
    args = parser.parse_args()
    traces = read_traces(args.traces)
    samples = list(select_samples(args))
    rows = [sft_row(sample, traces[sample.id], args.images) for _, _, sample in samples if sample.id in traces]
    if not rows:
        raise InputError(f"{args.traces}: expected traces of the chosen samples, found none")
    write_rows(args.out, rows, SFT_SCHEMA)
    print(f"{args.out}: {len(rows)} rows, {len(samples) - len(rows)} samples without a trace left out")


if __name__ == "__main__":
    cli(main)
