"""Files whose boxes, taken together, follow another convention than their format's."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwen3vl_rl.data.jsonl import write_jsonl
from qwen3vl_rl.data.rl_rows import write_rl_parquet
from qwen3vl_rl.data.samples import Sample

CONVENTIONS = {
    "xyxy in px": lambda box, size: box,
    "xywh in px": lambda box, size: [box[0], box[1], box[2] - box[0], box[3] - box[1]],
    "yxyx in px": lambda box, size: [box[1], box[0], box[3], box[2]],
    "centre, width, height in px": lambda box, size: [
        (box[0] + box[2]) / 2,
        (box[1] + box[3]) / 2,
        box[2] - box[0],
        box[3] - box[1],
    ],
    "xyxy in 0..1": lambda box, size: [v / side for v, side in zip(box, size * 2, strict=True)],
    "xyxy in 0..1000": lambda box, size: [round(1000 * v / side) for v, side in zip(box, size * 2, strict=True)],
}


def boxes(size: tuple[int, int], count: int = 40) -> list[list[int]]:
    draw = random.Random(0)
    pairs = [[sorted(draw.sample(range(side), 2)) for side in size] for _ in range(count)]
    return [[x1, y1, x2 + 2, y2 + 2] for (x1, x2), (y1, y2) in pairs if x2 + 2 <= size[0] and y2 + 2 <= size[1]]


@pytest.mark.parametrize("size", [(640, 480), (2000, 1600)], ids=str)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_evaluation_rows_in_another_convention_are_named(run, tmp_path, convention, size):
    row = {"image": "a.png", "sent": "cat", "width": size[0], "height": size[1]}
    write_jsonl(tmp_path / "a.jsonl", [row | {"bbox": CONVENTIONS[convention](box, size)} for box in boxes(size)])
    done = run("check", tmp_path / "a.jsonl", "--show", 100)
    if convention == "xyxy in px":
        assert done.code == 0, done.out
    else:
        assert done.code == 1 and f"distinct boxes look like {convention}" in done.out, done.out


def test_rl_truths_in_px_are_named(run, tmp_path):
    # Write px of a 640 x 480 image as 0..1000, by pretending that the image has 1000 x 1000 px.
    for name, scale in (("right", (640, 480)), ("px", (1000, 1000))):
        samples = [Sample(str(k), "a.png", *scale, "cat", tuple(box)) for k, box in enumerate(boxes((640, 480)))]
        path = tmp_path / f"{name}.parquet"
        write_rl_parquet(path, samples, "train", tmp_path)
        if name == "px":
            _set_size(path, 640, 480)
        done = run("check", path)
        assert ("look like xyxy in px" in done.out) == (name == "px"), done.out


def test_few_boxes_are_not_judged(run, tmp_path):
    row = {"image": "a.png", "sent": "cat", "width": 640, "height": 480}
    write_jsonl(tmp_path / "a.jsonl", [row | {"bbox": [9, 9, 20 + k, 20]} for k in range(19)] * 3)
    assert run("check", tmp_path / "a.jsonl").code == 0


def _set_size(path, width: int, height: int) -> None:

    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        row["extra_info"] |= {"width": width, "height": height}
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
