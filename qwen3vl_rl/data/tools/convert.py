"""Convert published annotations to sample jsonl, one file per split, and compare the counts with the known ones.

    python -m qwen3vl_rl.data.tools.convert refer    --out DIR --root REFER_DATA
    python -m qwen3vl_rl.data.tools.convert tfds     --out DIR --files refcoco.json
    python -m qwen3vl_rl.data.tools.convert lmms     --out DIR --dataset refcoco --files data/val-*.parquet
    python -m qwen3vl_rl.data.tools.convert referit  --out DIR --folder DIR
    python -m qwen3vl_rl.data.tools.convert released --out DIR --files train_grounding.parquet
    python -m qwen3vl_rl.data.tools.convert ref_l4   --out DIR --files ref-l4-val.parquet
    python -m qwen3vl_rl.data.tools.convert ref_adv  --out DIR --files train-*.parquet --images IMAGES
    python -m qwen3vl_rl.data.tools.convert grounding_me --out DIR --files test-*.parquet --images IMAGES
    python -m qwen3vl_rl.data.tools.convert cocoa    --out DIR --files amodal.json --name cocoa_val --outside clip

Training splits are written to DIR, the others to DIR/eval. All sample files are replaced together at the end, or none.
Images in parquet files are written while they are read.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import orjson
from tqdm import tqdm

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.layouts import cocoa, grounding_me, lmms, ref_adv, ref_l4, refer, referit, released, tfds
from qwen3vl_rl.data.layouts.record import Record
from qwen3vl_rl.data.refcoco import describe_count
from qwen3vl_rl.data.samples import sample_row
from qwen3vl_rl.errors import InputError, cli

LAYOUTS = {
    "refer": refer,
    "tfds": tfds,
    "lmms": lmms,
    "referit": referit,
    "released": released,
    "ref_l4": ref_l4,
    "ref_adv": ref_adv,
    "grounding_me": grounding_me,
    "cocoa": cocoa,
}


def split_path(out: Path, split: str) -> Path:
    """The file of a split: training splits in `out`, all others in `out`/eval."""
    return (out if "train" in split.split("_") else out / "eval") / f"{split}.jsonl"


def write_splits(out: Path, records: Iterable[Record]) -> Counter[str]:
    """Write the samples of all records; returns their number by split. On an error no file is changed."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        files = {}
        for record in tqdm(records, desc="convert", unit="object", disable=None):
            if record.split not in files:
                part = stack.enter_context(replacing(split_path(out, record.split)))
                files[record.split] = stack.enter_context(part.open("wb"))
            for sample in record.samples():
                files[record.split].write(orjson.dumps(sample_row(sample), option=orjson.OPT_APPEND_NEWLINE))
                counts[record.split] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    layouts = parser.add_subparsers(dest="layout", required=True)
    for name, layout in LAYOUTS.items():
        command = layouts.add_parser(name, help=layout.__doc__.splitlines()[0])
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--skip-bad", action="store_true", help="leave out and count bad records")
        layout.add_arguments(command)
    args = parser.parse_args()
    left_out: Counter[str] = Counter()
    counts = write_splits(args.out, LAYOUTS[args.layout].records(args, left_out))
    if not counts:
        reasons = "".join(f"; left out {count:,}: {reason}" for reason, count in left_out.items())
        raise InputError(f"expected at least one sample in the given files, found none{reasons}")
    for split, count in counts.items():
        print(describe_count(split, count))
    for reason, count in left_out.items():
        print(f"left out {count:,}: {reason}")


if __name__ == "__main__":
    cli(main)
