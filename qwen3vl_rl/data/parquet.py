"""Shared by the parquet writers of both stages: row selection, the user turn, and atomic parquet writing."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.data.samples import ImageCheck, Sample, iter_samples
from qwen3vl_rl.errors import InputError, row_error
from qwen3vl_rl.grounding import PLAIN, TURNS, render_turn

BATCH_ROWS = 8192  # per parquet row group
READ_ROWS = 256  # few, because rows may contain images
Located = tuple[Path, int, Sample]  # file, 1-based row and sample; error messages name the first two


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=Path, nargs="+", required=True, help="training or evaluation jsonl")
    add_image_arguments(parser)
    add_prompts_argument(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", default=":", metavar="START:END", help="rows of each file to use, as a Python slice")


def add_no_referent_argument(parser: argparse.ArgumentParser) -> None:
    explained = "keep rows with `bbox` null, where nothing in the image fits; their answer is an empty list"
    parser.add_argument("--no-referent", action="store_true", help=explained)


def add_prompts_argument(parser: argparse.ArgumentParser) -> None:
    explained = "format of the user turn: released_sft and released_rl reproduce the release's SFT and RL stage; "
    explained += "both_boxes also asks for the visible part of amodal samples (use it in both stages; evaluate with "
    explained += "amodal_prompt: qwen3_both in the settings); grounding asks as the release does for InternVL"
    parser.add_argument("--prompts", choices=tuple(TURNS), default=PLAIN, help=explained)


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="the folder that image paths are relative to")
    parser.add_argument(
        "--check-images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open every image once and compare its size (default); --no-check-images trusts the sizes in the files",
    )


def select_samples(args: argparse.Namespace) -> Iterator[Located]:
    """Yield the rows selected by `--rows` from all files.

    Raises InputError on reaching a bad row or image, and at the end if no row was selected.
    """
    start, end = parse_rows(args.rows)
    images = ImageCheck(args.images) if args.check_images else None
    count = 0
    for path in args.samples:
        samples = iter_samples(path, allow_no_referent=getattr(args, "no_referent", False))
        for number, sample in islice(enumerate(samples, start=1), start, end):
            if images:
                images.check(path, number, sample)
            count += 1
            yield path, number, sample
    if not count:
        raise InputError(f"{args.samples[0]}: expected at least one sample in rows {args.rows}, found none")


def user_turn(sample: Sample, prompts: str = PLAIN) -> dict[str, str]:
    """The user turn: `<image>` and the prompt in the format `TURNS[prompts]`."""
    return {"role": "user", "content": render_turn(prompts, sample.prompt_name, sample.sent)}


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write all rows and return their number. On an error the earlier file stays unchanged.

    One batch is encoded while the next one is built. Memory use does not grow with the number of rows.
    """
    with (
        replacing(path) as part,
        pq.ParquetWriter(part, schema) as writer,
        ThreadPoolExecutor(1) as encoder,  # exits before the writer: closing a file during a write crashes Python
        tqdm(desc=path.name, unit="row", disable=None) as bar,
    ):
        count, writing = 0, None
        for batch in batches:
            if writing:
                writing.result()
            writing = encoder.submit(writer.write_batch, batch)
            count += len(batch)
            bar.update(len(batch))
        if writing:
            writing.result()
    return count


def write_rows(path: Path, rows: Iterable[dict], schema: pa.Schema) -> int:
    """`write_parquet` for rows given as dictionaries, where speed does not matter."""
    rows = iter(rows)
    batches = (pa.RecordBatch.from_pylist(batch, schema) for batch in iter(lambda: list(islice(rows, BATCH_ROWS)), []))
    return write_parquet(path, batches, schema)


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file. Raises InputError if it is missing, or if reading it in the block fails."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: expected a parquet file ({reason})") from None


def iter_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (1-based number, row with these columns). Raises InputError for a broken file or a missing column."""
    with open_parquet(path) as file:
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise row_error(path, 1, missing[0], "this column", file.schema_arrow.names)
        batches = file.iter_batches(READ_ROWS, columns=list(columns))
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def parse_rows(text: str) -> tuple[int | None, int | None]:
    """Parse `--rows` into (start, end). Raises InputError for anything but START:END."""
    try:
        start, end = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        start = end = -1
    if min(start or 0, end or 0) < 0:
        raise InputError(f"--rows: expected START:END, got {text!r}")
    return start, end
