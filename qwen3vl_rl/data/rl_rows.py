"""Write, read and check rows of the RL parquet for verl, in the released schema. Images are stored as paths."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qwen3vl_rl.data.boxes import check_box_1000, surely_boxes_1000
from qwen3vl_rl.data.expressions import read_user_turn
from qwen3vl_rl.data.parquet import BATCH_ROWS, open_parquet, user_turn, write_parquet, write_rows
from qwen3vl_rl.data.pictures import MAX_PIXELS, MAX_RATIO, refused_size
from qwen3vl_rl.data.samples import Sample
from qwen3vl_rl.errors import row_error
from qwen3vl_rl.grounding import BOTH_BOXES, NO_REFERENT, PLAIN, Box, px_to_1000, scale_to_px

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
_INFO = RL_SCHEMA.get_field_index("extra_info")
_WITH_VISIBLE = [*RL_SCHEMA.field(_INFO).type, pa.field("modal_xyxy_1000", pa.list_(pa.int64()))]
BOTH_BOXES_SCHEMA = RL_SCHEMA.set(_INFO, pa.field("extra_info", pa.struct(_WITH_VISIBLE)))
RELEASED_SCHEMA = pa.schema(  # of the released validation file
    [
        *(RL_SCHEMA.field(name) for name in ("data_source", "prompt", "images", "ability")),
        ("reward_model", pa.struct({"style": pa.string(), "ground_truth": pa.list_(pa.float64())})),
        ("extra_info", pa.struct([field for field in RL_SCHEMA.field("extra_info").type if field.name != "id"])),
        *(("image", pa.string()), ("sent", pa.string()), ("bbox", pa.list_(pa.float64()))),
        *(("height", pa.int64()), ("width", pa.int64())),
    ]
)
COLUMNS = ("prompt", "images", "reward_model", "extra_info", "data_source")  # which verl reads
CHECK_ROWS = 4096  # rows checked together
TRUTH = "reward_model.ground_truth"
SPLITS = ("train", "test")  # test: the reward is plain accuracy
GROUNDING = "grounding"  # data source, like `NO_REFERENT`; verl reports metrics per data source


def write_rl_parquet(path: Path, samples: Iterable[Sample], split: str, images: Path, prompts: str = PLAIN) -> int:
    """Write one row per sample with its prompt and true box (xyxy in 0..1000); returns the number of rows.

    `images` is the folder that the samples' paths are relative to. The parquet contains absolute paths.
    """
    return write_parquet(path, _rl_batches(iter(samples), split, images.resolve(), prompts), rl_schema(prompts))


def rl_schema(prompts: str) -> pa.Schema:
    """The schema for this prompt format; `both_boxes` adds the boxes of the visible parts."""
    return BOTH_BOXES_SCHEMA if prompts == BOTH_BOXES else RL_SCHEMA


def write_released_validation(path: Path, samples: Iterable[Sample], images: Path) -> int:
    """Write validation rows in the form of the released file; returns the number of rows.

    They have a newline after `<image>`, true boxes that are not rounded, no ids, the plain expression as `question`,
    and the columns of the evaluation row.
    """
    root = images.resolve()
    return write_rows(path, (_released_row(*numbered, root) for numbered in enumerate(samples)), RELEASED_SCHEMA)


def _released_row(index: int, sample: Sample, images: Path) -> dict[str, Any]:
    x1, y1, x2, y2 = sample.xyxy_px
    truth = [x1 / sample.width * 1000, y1 / sample.height * 1000, x2 / sample.width * 1000, y2 / sample.height * 1000]
    size = {"height": sample.height, "width": sample.width}
    return {
        "data_source": GROUNDING,
        "prompt": [user_turn(sample, "released_rl")],
        "images": [str(images / sample.image)],
        "ability": "grounding",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "test", "index": index, "question": sample.sent, **size},
        "image": sample.image,
        "sent": sample.sent,
        "bbox": list(sample.xyxy_px),
        **size,
    }


def rl_sample(path: Path, number: int, row: dict[str, Any]) -> tuple[Sample, str]:
    """Return the sample of one row, with its box in px as precise as 0..1000 allows, and its prompt's name.

    The visible box of an amodal sample is ignored, because few files have it. Raises InputError naming file, row and
    field.
    """
    width, height, truth_1000 = read_size_and_truth(path, number, row)
    info, images, sample_id = row["extra_info"], row["images"], row["extra_info"].get("id")
    if not isinstance(images, list) or len(images) != 1 or type(images[0]) is not str or not images[0]:
        raise row_error(path, number, "images", "a list of one path", images)
    if info.get("split") not in SPLITS:
        raise row_error(path, number, "extra_info.split", " or ".join(SPLITS), info.get("split"))
    turns = row["prompt"]
    if not isinstance(turns, list) or [isinstance(turn, dict) and turn.get("role") for turn in turns] != ["user"]:
        raise row_error(path, number, "prompt", "a list of one user turn", turns)
    prompt_name, sent = read_user_turn(path, number, "prompt", turns[0].get("content"))
    sample = Sample(
        id=f"{path.stem}_{number}" if sample_id is None else str(sample_id),
        image=images[0],
        width=width,
        height=height,
        sent=sent,
        xyxy_px=scale_to_px(truth_1000, width, height) if truth_1000 else None,
    )
    return sample, prompt_name


def read_size_and_truth(path: Path, number: int, row: dict[str, Any]) -> tuple[int, int, Box | None]:
    """Return what our reward reads from a row: the image's width and height in px, and the true xyxy box in 0..1000.

    The box is None if the row's data source is `NO_REFERENT`, so nothing in the image fits the expression.
    Raises InputError naming file, row and field.
    """
    info, truth = (
        _object(path, number, row, "extra_info"),
        _object(path, number, row, "reward_model").get("ground_truth"),
    )
    for name in ("width", "height"):
        if type(size := info.get(name)) is not int or size <= 0:
            raise row_error(path, number, f"extra_info.{name}", f"the image's {name} in px", size)
    if expected := refused_size(info["width"], info["height"]):
        raise row_error(path, number, "extra_info.width", expected, "{width}x{height}".format(**info))
    size = info["width"], info["height"]
    if (visible := info.get("modal_xyxy_1000")) is not None:
        check_box_1000(path, number, "extra_info.modal_xyxy_1000", visible, *size)
    if row.get("data_source") != NO_REFERENT:
        return *size, check_box_1000(path, number, TRUTH, truth, *size)
    if truth is not None or visible is not None:
        raise row_error(path, number, TRUTH, f"null, because data_source is {NO_REFERENT}", truth)
    return *size, None


def check_size_and_truth(path: Path) -> None:
    """Check the size and true box of every row, by column for speed. Raises the error of `read_size_and_truth`."""
    with open_parquet(path) as file:
        first = 1
        for batch in file.iter_batches(CHECK_ROWS, columns=["extra_info", "reward_model", "data_source"]):
            for index in np.flatnonzero(~_has_size_and_truth(batch)):
                read_size_and_truth(path, first + int(index), batch.slice(index, 1).to_pylist()[0])
            first += len(batch)


def _has_size_and_truth(batch: pa.RecordBatch) -> np.ndarray:
    """[n]: whether each row is certain to pass `read_size_and_truth`."""
    info, model = batch.column("extra_info"), batch.column("reward_model")
    sizes = [_field(info, name) for name in ("width", "height")]
    truths = _field(model, "ground_truth")
    if not all(pa.types.is_integer(size.type) for size in sizes) or not _holds_numbers(truths.type):
        return np.zeros(len(batch), bool)
    is_box = pc.fill_null(pc.equal(pc.list_value_length(truths), 4), False).to_numpy(zero_copy_only=False)
    sources = batch.column("data_source") if "data_source" in batch.schema.names else pa.nulls(len(batch))
    absent = pc.equal(sources.cast(pa.string()), NO_REFERENT).fill_null(False)
    good = np.where(absent, truths.is_null(), is_box) & _field(info, "modal_xyxy_1000").is_null()  # others: by row
    for size in sizes:
        good &= pc.fill_null(pc.greater(size, 0), False).to_numpy(zero_copy_only=False)
    width, height = (size.fill_null(1).to_numpy(zero_copy_only=False).astype(float) for size in sizes)
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    good &= (longer <= MAX_RATIO * shorter) & (width * height <= MAX_PIXELS)
    boxes = good & is_box  # rows with an accepted size and four values
    values = pc.list_flatten(truths.filter(pa.array(boxes))).cast(pa.float64(), safe=False).fill_null(np.nan)
    sides = np.stack([width, height], axis=1)[boxes]
    good[boxes] = surely_boxes_1000(values.to_numpy(zero_copy_only=False).reshape(-1, 4), sides)
    return good


def _field(column: pa.Array, name: str) -> pa.Array:
    """A field of a struct column, null where the struct is null; all null if there is no such field."""
    if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
        return pa.nulls(len(column))
    return pc.struct_field(column, name)


def _holds_numbers(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)


def _rl_batches(samples: Iterator[Sample], split: str, images: Path, prompts: str) -> Iterator[pa.RecordBatch]:
    first_index = 0
    while batch := list(islice(samples, BATCH_ROWS)):
        yield _rl_batch(batch, first_index, split, images, prompts)
        first_index += len(batch)


def _rl_batch(samples: Sequence[Sample], first_index: int, split: str, images: Path, prompts: str) -> pa.RecordBatch:
    """Build the batch by column, which is several times faster than Arrow's conversion of nested rows."""
    count = len(samples)
    turns = [user_turn(sample, prompts) for sample in samples]
    questions = pa.array([turn["content"] for turn in turns], pa.string())
    root, paths = f"{images}/", (sample.image for sample in samples)
    truths_1000 = [s.xyxy_px and px_to_1000(s.xyxy_px, s.width, s.height) for s in samples]
    visible = {}
    if prompts == BOTH_BOXES:
        boxes_1000 = [s.modal_xyxy_px and px_to_1000(s.modal_xyxy_px, s.width, s.height) for s in samples]
        visible["modal_xyxy_1000"] = pa.array(boxes_1000, pa.list_(pa.int64()))
    columns = {
        "data_source": pa.array([GROUNDING if truth else NO_REFERENT for truth in truths_1000], pa.string()),
        "prompt": _lists(_struct(role=pa.array([turn["role"] for turn in turns]), content=questions), 1),
        "images": _lists(pa.array([path if path[0] == "/" else root + path for path in paths], pa.string()), 1),
        "ability": _repeat("grounding", count),
        "reward_model": _struct(style=_repeat("rule", count), ground_truth=pa.array(truths_1000, pa.list_(pa.int64()))),
        "extra_info": _struct(
            split=_repeat(split, count),
            index=pa.array(range(first_index, first_index + count), pa.int64()),
            id=pa.array([sample.id for sample in samples], pa.string()),
            height=pa.array([sample.height for sample in samples], pa.int64()),
            width=pa.array([sample.width for sample in samples], pa.int64()),
            question=questions,
            **visible,
        ),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rl_schema(prompts))


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
