"""Write a RefShapes data set.

    python -m qwen3vl_rl.data.refshapes --out DIR --train 3000 --val 100 --seed 0 [--world crowded]

writes what RefCOCO preparation writes: `refshapes_train.jsonl`, `refshapes_train_traces.jsonl`, `images/` and
`eval/refshapes_{val,testA,testB,amodal_val}.jsonl`.

Scenes hold 3 to 5 coloured shapes of three sizes that may hide one another, so that every object has a visible and an
amodal box. Expressions use attributes, superlatives, relations and ordinals. The world `crowded` has more objects, and
ordinals among the objects on one side of another object.

Traces are thorough: they list what has to be compared, and pick one. `--brief 0.65` makes 65 % of them as short as an
annotator's who is in a hurry, `--rationalised` plausible but of no help. `--no-amodal-traces` leaves amodal samples
without one: traces list visible boxes. Samples and pictures stay the same. `--no-referent 0.1` adds a tenth as many
expressions that nothing in their picture fits, to the training samples and to `refshapes_val`; their `bbox` is null.
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
    parser.add_argument("--brief", type=float, default=0.0, metavar="SHARE", help="of the traces, 0 to 1")
    parser.add_argument("--rationalised", type=float, default=0.0, metavar="SHARE", help="of the traces, 0 to 1")
    parser.add_argument("--no-amodal-traces", action="store_true")
    explained = "expressions that nothing fits, for each sample, 0 to 1"
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
