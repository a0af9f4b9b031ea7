"""Convert samples to the RL parquet that verl reads, in the released schema. Images are stored as paths.

    python -m qwen3vl_rl.data.tools.rl_parquet --samples train.jsonl --images DIR --split train --out rl_train.parquet

`--no-check-images` trusts the sizes in the samples and does not open the images.
"""

import argparse

from qwen3vl_rl.data.parquet import add_arguments, add_no_referent_argument, select_samples
from qwen3vl_rl.data.rl_rows import SPLITS, write_rl_parquet
from qwen3vl_rl.errors import cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_no_referent_argument(parser)
    parser.add_argument("--split", choices=SPLITS, required=True)
    args = parser.parse_args()
    samples = (sample for _, _, sample in select_samples(args))
    print(f"{args.out}: {write_rl_parquet(args.out, samples, args.split, args.images, args.prompts)} rows")


if __name__ == "__main__":
    cli(main)
