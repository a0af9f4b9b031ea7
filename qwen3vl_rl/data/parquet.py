"""What the parquet writers of both stages share: choosing samples, the user turn, and writing whole files."""

import argparse
import os
from pathlib import Path

import pandas as pd

from qwen3vl_rl.data.samples import Sample, check_images, read_samples
from qwen3vl_rl.grounding import InputError, render_prompt

Located = tuple[Path, int, Sample]  # a sample with its file and 1-based row, for messages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=Path, nargs="+", required=True, help="training or evaluation jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", default=":", metavar="START:END", help="of each file, as in a Python slice")


def select_samples(args: argparse.Namespace) -> list[Located]:
    """The chosen rows of all files. Raises InputError for bad rows, bad images and an empty choice."""
    try:
        start, end = args.rows.split(":")
        chosen = slice(int(start) if start else None, int(end) if end else None)
    except ValueError:
        raise InputError(f"--rows: expected START:END, got {args.rows!r}") from None
    located = []
    for path in args.samples:
        located += [(path, number, sample) for number, sample in enumerate(read_samples(path), start=1)][chosen]
    if not located:
        raise InputError(f"{args.samples[0]}: expected at least one sample in rows {args.rows}, found none")
    check_images(located, args.images)
    return located


def user_turn(sample: Sample) -> dict[str, str]:
    """`<image>` and the prompt, the same text in SFT and RL."""
    return {"role": "user", "content": "<image>" + render_prompt(sample.prompt_name, sample.sent)}


def write_parquet(path: Path, rows: list[dict]) -> None:
    """Write all rows or leave the earlier file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pd.DataFrame(rows).to_parquet(part, index=False)
    os.replace(part, path)
