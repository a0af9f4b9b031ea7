"""RL parquet in the released schema, converted back to samples for filtering, other prompts or traces."""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qwen3vl_rl.data.layouts.record import Record, skipping_bad
from qwen3vl_rl.data.parquet import iter_parquet
from qwen3vl_rl.data.rl_rows import RL_SCHEMA, rl_sample
from qwen3vl_rl.errors import row_error
from qwen3vl_rl.grounding import AMODAL_PROMPTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--files", type=Path, nargs="+", required=True, help="RL parquet")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield one record per row, with its box as precise as 0..1000 allows. Raises InputError, also for amodal rows."""
    for path in args.files:
        for number, row in iter_parquet(path, RL_SCHEMA.names):
            with skipping_bad(args, left_out):
                sample, prompt_name = rl_sample(path, number, row)
                if prompt_name in AMODAL_PROMPTS:
                    raise row_error(
                        path, number, "prompt", "no amodal sample, because the file lacks its visible box", None
                    )
                yield Record(
                    path.stem,
                    f"{path.stem}_{number}",
                    sample.image,
                    sample.width,
                    sample.height,
                    sample.xyxy_px,
                    (sample.sent,),
                )
