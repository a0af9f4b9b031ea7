"""Point the image paths of a parquet file to another folder. The file is replaced atomically.

    python -m qwen3vl_rl.data.tools.replace_img_dir train_grounding.parquet --to DIR [--from OLD]

DIR replaces everything before the folder `coco` or `coco_flip` in a path, so the command can be repeated with another
DIR. Other relative paths are joined to DIR. With OLD, absolute paths must start with OLD, which DIR replaces. All other
columns stay unchanged.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qwen3vl_rl.data.parquet import BATCH_ROWS, open_parquet, write_parquet
from qwen3vl_rl.errors import InputError, cli, row_error


def replace_img_dir(path: Path, new: Path, old: Path | None) -> int:
    """Rewrite the column `images` of a parquet file; returns the number of rows.

    Raises InputError for a broken file, and names the row of an absolute path that cannot be replaced.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
        if "images" not in schema.names or not _holds_paths(schema.field("images").type):
            raise InputError(f'{path}: field "images": expected a column of lists of paths')
        return write_parquet(path, _moved(path, file, f"{new.resolve()}/", old and f"{old}/"), schema)


def _moved(path: Path, file: pq.ParquetFile, new: str, old: str | None) -> Iterator[pa.RecordBatch]:
    place = file.schema_arrow.get_field_index("images")
    first_row = 1
    for batch in file.iter_batches(BATCH_ROWS):
        images = batch.column(place)
        moved = _move_paths(path, first_row, images, new, old)
        columns = [*batch.columns[:place], moved, *batch.columns[place + 1 :]]
        yield pa.RecordBatch.from_arrays(columns, schema=file.schema_arrow)
        first_row += len(batch)


def _move_paths(path: Path, first_row: int, images: pa.ListArray, new: str, old: str | None) -> pa.ListArray:
    paths = images.flatten()
    if not old:
        paths = pc.replace_substring_regex(paths, r"^.*/(coco|coco_flip)/", r"\1/")  # the last match counts
    if images.null_count or paths.null_count:
        raise row_error(path, first_row, "images", f"a path in this row and the {len(images) - 1} following rows", None)
    absolute = pc.starts_with(paths, "/")
    below_old = pc.starts_with(paths, old) if old else pc.and_(absolute, False)
    astray = pc.and_(absolute, pc.invert(below_old))
    if pc.any(astray).as_py():
        index = pc.index(astray, True).as_py()
        row = first_row + pc.list_parent_indices(images)[index].as_py()
        expected = (
            f"a relative path, or one below {old}"
            if old
            else "a relative path or one with coco/ in it (--from OLD replaces others)"
        )
        raise row_error(path, row, "images", expected, paths[index].as_py())
    kept = pc.if_else(below_old, pc.utf8_slice_codeunits(paths, len(old or "")), paths)
    offsets = pc.subtract(images.offsets, images.offsets[0])
    return pa.ListArray.from_arrays(offsets, pc.binary_join_element_wise(new, kept, ""), type=images.type)


def _holds_paths(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_string(kind.value_type)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--to", type=Path, required=True, help="the new image folder")
    parser.add_argument("--from", dest="old", type=Path, help="the folder that absolute paths start with now")
    args = parser.parse_args()
    for path in args.files:
        print(f"{path}: {replace_img_dir(path, args.to, args.old)} rows")


if __name__ == "__main__":
    cli(main)
