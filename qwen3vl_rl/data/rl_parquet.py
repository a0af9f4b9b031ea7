"""Samples to the RL parquet that verl reads, in the released schema; images stay paths.

python -m qwen3vl_rl.data.rl_parquet --samples train.jsonl --images DIR --split train --out rl_train.parquet
"""

import argparse
from pathlib import Path

from qwen3vl_rl.data.parquet import add_arguments, select_samples, user_turn, write_parquet
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.grounding import cli, px_to_1000


def rl_row(sample: Sample, index: int, split: str, images: Path) -> dict:
    """One prompt with its ground truth, xyxy in 0..1000; `split` test means that the reward is plain accuracy."""
    prompt = user_turn(sample)
    truth_1000 = px_to_1000(sample.xyxy_px, sample.width, sample.height)
    return {
        "data_source": "grounding",
        "prompt": [prompt],
        "images": [str((images / sample.image).resolve())],
        "ability": "grounding",
        "reward_model": {"style": "rule", "ground_truth": list(truth_1000)},
        "extra_info": {
            "split": split,
            "index": index,
            "id": sample.id,
            "height": sample.height,
            "width": sample.width,
            "question": prompt["content"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", choices=("train", "test"), required=True)
    args = parser.parse_args()
    samples = select_samples(args)
    rows = [rl_row(sample, index, args.split, args.images) for index, (_, _, sample) in enumerate(samples)]
    write_parquet(args.out, rows)
    print(f"{args.out}: {len(rows)} rows")


if __name__ == "__main__":
    cli(main)
