"""Which errors are language errors? Write samples of testB in two wordings: the original one and the simplest one.

    python -m examples.longer_vs_bigger.oracle --data DATA --seed 0 --val 1000 [--world crowded]

The simplest wording names the object by its attributes alone, such as `the small red star`. A sample is left out if its
attributes also fit another object of the scene. Image and box stay the same, so what a model gains by the simple
wording is what it had lost on language and not on vision. The command writes DATA/oracle/refshapes_{asked,simple}.jsonl
for the samples that `refshapes --val` has drawn with the same seed and world.
"""

import argparse
import itertools
from pathlib import Path

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.refshapes import WORLDS, Category, Referral, evaluation_row, referrals
from qwen3vl_rl.errors import cli

SPLIT = "refshapes_testB"  # relations, ordinals and, in the world `crowded`, compositions


def simplest(referral: Referral) -> Category | None:
    """The shortest description by attributes that fits only the target, or None."""
    target = referral.target
    choices = itertools.product((None, target.size), (target.colour, None), (target.shape, None))
    fitting = (Category(*choice) for choice in choices if choice[1] or choice[2])
    return next((c for c in sorted(fitting, key=words) if c.members(referral.scene) == [referral.query.target]), None)


def words(category: Category) -> int:
    return len(str(category).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--val", type=int, required=True, help="number of samples in the split")
    parser.add_argument("--world", choices=WORLDS, default="plain")
    args = parser.parse_args()
    world, asked, simple = WORLDS[args.world], [], []
    drawn = referrals(f"{SPLIT}-{args.seed}", world.splits[SPLIT], 0.0, world)
    for referral in itertools.islice(drawn, args.val):
        if (category := simplest(referral)) is not None:
            row = evaluation_row(referral, f"{SPLIT}/{referral.scene_index:06d}.png")
            asked.append(row)
            simple.append(row | {"sent": f"the {category}", "kind": "attribute"})
    write_jsonl(args.data / "oracle" / "refshapes_asked.jsonl", asked)
    write_jsonl(args.data / "oracle" / "refshapes_simple.jsonl", simple)
    print(f"{len(asked)} of {args.val} samples have a simple wording")


if __name__ == "__main__":
    cli(main)
