"""Rows of the RL parquet that verl reads, in the released schema; images stay paths."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from qwen3vl_rl.data.parquet import BATCH_ROWS, read_user_turn, user_turn, write_parquet
from qwen3vl_rl.data.samples import Sample, check_box_px, is_number
from qwen3vl_rl.errors import row_error
from qwen3vl_rl.grounding import Box, px_to_1000

RL_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "images": pa.list_(pa.string()),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.list_(pa.int64())}),
        "extra_info": pa.struct(
            {
                "split": pa.string(),
                "index": pa.int64(),
                "id": pa.string(),
                "height": pa.int64(),
                "width": pa.int64(),
                "question": pa.string(),
            }
        ),
    }
)
SPLITS = ("train", "test")  # test: the reward is plain accuracy


def write_rl_parquet(path: Path, samples: Iterable[Sample], split: str, images: Path) -> int:
    """One prompt per sample with its ground truth, xyxy in 0..1000; returns their number.

    `images` is the folder that the samples' paths are relative to; the parquet holds absolute paths.
    """
    return write_parquet(path, _rl_batches(iter(samples), split, images.resolve()), RL_SCHEMA)


def rl_sample(path: Path, number: int, row: dict[str, Any]) -> tuple[Sample, str]:
    """The sample of one row, its box in px as exact as 0..1000 allows, and the name of its prompt.

    The schema has no place for an amodal sample's visible box, so the sample never has one.
    Raises InputError naming file, row and field.
    """
    info, images = _object(path, number, row, "extra_info"), row["images"]
    width, height, sample_id = info.get("width"), info.get("height"), info.get("id")
    for name, size in (("width", width), ("height", height)):
        if type(size) is not int or size <= 0:
            raise row_error(path, number, f"extra_info.{name}", f"the image's {name} in px", size)
    if not isinstance(images, list) or len(images) != 1 or type(images[0]) is not str or not images[0]:
        raise row_error(path, number, "images", "one path", images)
    if info.get("split") not in SPLITS:
        raise row_error(path, number, "extra_info.split", " or ".join(SPLITS), info.get("split"))
    turns = row["prompt"]
    if not isinstance(turns, list) or [isinstance(turn, dict) and turn.get("role") for turn in turns] != ["user"]:
        raise row_error(path, number, "prompt", "one user turn", turns)
    prompt_name, sent = read_user_turn(path, number, "prompt", turns[0].get("content"))
    sample = Sample(
        id=f"{path.stem}_{number}" if sample_id is None else str(sample_id),
        image=images[0],
        width=width,
        height=height,
        sent=sent,
        xyxy_px=_truth_px(path, number, _object(path, number, row, "reward_model"), width, height),
    )
    return sample, prompt_name


def _rl_batches(samples: Iterator[Sample], split: str, images: Path) -> Iterator[pa.RecordBatch]:
    first_index = 0
    while batch := list(islice(samples, BATCH_ROWS)):
        yield _rl_batch(batch, first_index, split, images)
        first_index += len(batch)


def _rl_batch(samples: Sequence[Sample], first_index: int, split: str, images: Path) -> pa.RecordBatch:
    """Built by columns: several times faster than letting Arrow take nested rows apart."""
    count = len(samples)
    turns = [user_turn(sample) for sample in samples]
    questions = pa.array([turn["content"] for turn in turns], pa.string())
    root, paths = f"{images}/", (sample.image for sample in samples)
    truths_1000 = [v for s in samples for v in px_to_1000(s.xyxy_px, s.width, s.height)]
    columns = {
        "data_source": _repeat("grounding", count),
        "prompt": _lists(_struct(role=pa.array([turn["role"] for turn in turns]), content=questions), 1),
        "images": _lists(pa.array([path if path[0] == "/" else root + path for path in paths], pa.string()), 1),
        "ability": _repeat("grounding", count),
        "reward_model": _struct(
            style=_repeat("rule", count), ground_truth=_lists(pa.array(truths_1000, pa.int64()), 4)
        ),
        "extra_info": _struct(
            split=_repeat(split, count),
            index=pa.array(range(first_index, first_index + count), pa.int64()),
            id=pa.array([sample.id for sample in samples], pa.string()),
            height=pa.array([sample.height for sample in samples], pa.int64()),
            width=pa.array([sample.width for sample in samples], pa.int64()),
            question=questions,
        ),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=RL_SCHEMA)


def _repeat(value: str, count: int) -> pa.Array:
    return pa.array([value] * count, pa.string())


def _lists(values: pa.Array, length: int) -> pa.ListArray:
    """Lists of `length` consecutive values each."""
    return pa.ListArray.from_arrays(pa.array(range(0, len(values) + 1, length), pa.int32()), values)


def _struct(**fields: pa.Array) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))


def _object(path: Path, number: int, row: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(row[name], dict):
        raise row_error(path, number, name, "an object", row[name])
    return row[name]


def _truth_px(path: Path, number: int, reward_model: dict[str, Any], width: int, height: int) -> Box:
    field, truth = "reward_model.ground_truth", reward_model.get("ground_truth")
    if not isinstance(truth, list) or len(truth) != 4 or not all(map(is_number, truth)):
        raise row_error(path, number, field, "four numbers in 0..1000", truth)
    xyxy_px = [v * side / 1000 for v, side in zip(truth, (width, height, width, height), strict=True)]
    return check_box_px(path, number, field, xyxy_px, width, height)
