"""GroundingME: `data/test-*.parquet` (hub: lirang04/GroundingME, research use only), 1,005 descriptions.

A row is a description: `id`, `image` (bytes), `description`, `bbox` (xyxy px), `subtask_l1` and `subtask_l2`. In the
rows whose `subtask_l1` is Rejection (201 as counted by others), nothing in the image fits. The columns are taken from
the project's dataset card, the rule for rejections from its evaluate.py (at d07e065). Images are written to
IMAGES/grounding_me. Evaluate with the prompt `grounding_me`, which allows an answer without a box.
"""

import argparse
from collections import Counter
from collections.abc import Iterator

from qwen3vl_rl.data.boxes import check_box_px
from qwen3vl_rl.data.layouts.embedded import add_arguments as add_arguments
from qwen3vl_rl.data.layouts.embedded import write_image
from qwen3vl_rl.data.layouts.record import Record, check_sents, skipping_bad, text
from qwen3vl_rl.data.parquet import iter_parquet
from qwen3vl_rl.errors import row_error

FOLDER = SPLIT = "grounding_me"
REJECTION = "Rejection"
_COLUMNS = ("id", "image", "description", "bbox", "subtask_l1", "subtask_l2", "width", "height")


def records(args: argparse.Namespace, left_out: Counter[str]) -> Iterator[Record]:
    """Yield every description, with no box if it has no referent. Raises InputError naming file, row and field."""
    for path in args.files:
        for number, row in iter_parquet(path, _COLUMNS):
            with skipping_bad(args, left_out):
                kind, part = (text(path, number, name, row[name]) for name in ("subtask_l1", "subtask_l2"))
                identity = row["id"]
                if type(identity) is not int:
                    raise row_error(path, number, "id", "an integer", identity)
                name = f"{FOLDER}/{identity}.jpg"
                width, height = write_image(
                    path, number, row["image"], args.images / name, (row["width"], row["height"])
                )
                box = None
                if kind != REJECTION:
                    box = check_box_px(path, number, "bbox", row["bbox"], width, height)
                yield Record(
                    split=SPLIT,
                    id=f"{kind}_{part}_{identity}".lower(),
                    image=name,
                    width=width,
                    height=height,
                    xyxy_px=box,
                    sents=check_sents(path, number, [row["description"]]),
                )
