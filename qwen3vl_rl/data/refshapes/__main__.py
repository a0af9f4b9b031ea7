"""Write a RefShapes data set.

    python -m qwen3vl_rl.data.refshapes --out DIR --train 3000 --val 100 --seed 0 [--world crowded]

writes the same kinds of files as the preparation of RefCOCO: `refshapes_train.jsonl`, `refshapes_train_traces.jsonl`,
`images/` and `eval/refshapes_{val,testA,testB,amodal_val}.jsonl`.

Scenes have 3 to 5 coloured shapes of three sizes that may hide one another, so every object has a visible and an
amodal box. Expressions use attributes, superlatives, relations and ordinals. The world `crowded` has more objects, and
ordinals among the objects on one side of another object.

Traces are thorough: they list the objects to compare, and pick one. `--brief 0.65` makes 65 % of them short, as written
by an annotator in a hurry. `--rationalised` makes a share of them plausible but unhelpful. `--no-amodal-traces` writes
no traces for amodal samples, because traces list visible boxes. These options do not change samples and pictures.
`--no-referent 0.1` adds a tenth as many expressions that nothing in their picture fits, to the training samples and to
`refshapes_val`; their `bbox` is null.
"""

import argparse
import json
from pathlib import Path

from qwen3vl_rl.data.refshapes.files import build
from qwen3vl_rl.data.refshapes.scenes import WORLDS
from qwen3vl_rl.errors import InputError, cli


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m qwen3vl_rl.data.refshapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=3000, help="training samples")
    parser.add_argument("--val", type=int, default=100, help="samples in each evaluation split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=WORLDS, default="plain")
    parser.add_argument("--brief", type=float, default=0.0, metavar="SHARE", help="share of brief traces, 0 to 1")
    parser.add_argument(
        "--rationalised", type=float, default=0.0, metavar="SHARE", help="share of rationalised traces, 0 to 1"
    )
    parser.add_argument("--no-amodal-traces", action="store_true")
    explained = "expressions without a referent to add per sample, 0 to 1"
    parser.add_argument("--no-referent", type=float, default=0.0, metavar="SHARE", help=explained)
    args = parser.parse_args()
    for name in ("train", "val"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    shares = {"brief": args.brief, "rationalised": args.rationalised}
    world = WORLDS[args.world]
    options = {"amodal_traces": not args.no_amodal_traces, "no_referent": args.no_referent}
    counts = build(args.out, args.train, args.val, args.seed, world, shares, **options)
    print(json.dumps({"out": str(args.out), "samples": counts}))


if __name__ == "__main__":
    cli(main)
