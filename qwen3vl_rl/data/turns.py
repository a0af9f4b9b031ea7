"""Check that no turn of a training parquet contains special tokens or marks that a tokenizer or verl interprets."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qwen3vl_rl.data.expressions import ALL_MARKS, IMAGE_MARK, THINK_MARKS, check_tokens
from qwen3vl_rl.data.parquet import open_parquet
from qwen3vl_rl.errors import InputError, row_error

CHECK_ROWS = 4096  # rows checked together
END_OF_REASONING = THINK_MARKS[1]


def check_turns(path: Path, column: str, own_tokens: Iterable[str] = ()) -> None:
    """Check that no turn contains a special token.

    Allowed are one `<image>` per image in user turns and one `</think>` in assistant turns. `own_tokens`: see
    `expressions.added_tokens`. Other types of turns, such as lists of parts, are not checked. Raises InputError naming
    file, row, field and token.
    """
    tokens = {*ALL_MARKS, *own_tokens}
    allowed = {"user": IMAGE_MARK, "assistant": END_OF_REASONING}
    with open_parquet(path) as file:
        first = 1
        for batch in file.iter_batches(CHECK_ROWS, columns=[column, "images"]):
            turns = batch.column(column)
            if not _holds_turns(turns.type):
                return
            rows, flat = pc.list_parent_indices(turns).to_numpy(zero_copy_only=False), pc.list_flatten(turns)
            roles, contents = (pc.struct_field(flat, name) for name in ("role", "content"))
            wrong = np.zeros(len(flat), bool)
            for role, mark in allowed.items():
                found = pc.and_(pc.equal(roles, role), _holds(contents, tokens - {mark}))
                wrong |= found.fill_null(False).to_numpy(zero_copy_only=False)
            for index in np.flatnonzero(wrong):
                refused = sorted(tokens - {allowed[roles[index].as_py()]})
                check_tokens(path, first + int(rows[index]), column, contents[index].as_py(), refused)
            _check_counts(path, first, column, batch, rows, roles, contents)
            first += len(batch)


def _check_counts(
    path: Path, first: int, column: str, batch: pa.RecordBatch, rows: np.ndarray, roles: pa.Array, contents: pa.Array
) -> None:
    ends = pc.and_(pc.equal(roles, "assistant"), pc.greater(pc.count_substring(contents, END_OF_REASONING), 1))
    for index in np.flatnonzero(ends.fill_null(False).to_numpy(zero_copy_only=False)):
        raise _error(path, first + int(rows[index]), column, f"at most one {END_OF_REASONING}", contents[index])
    images = batch.column("images")
    if not _is_list(images.type):
        return
    marks = pc.count_substring(contents, IMAGE_MARK).fill_null(0).to_numpy(zero_copy_only=False)
    found = np.bincount(rows, marks, minlength=len(batch))
    named = pc.list_value_length(images).fill_null(0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(found != named):
        expected = f"{named[row]} {IMAGE_MARK}, one per image of the row, not {int(found[row])}"
        raise _error(path, first + int(row), column, expected, batch.column(column)[int(row)])


def _error(path: Path, number: int, column: str, expected: str, got: pa.Scalar) -> InputError:
    return row_error(path, number, column, expected, got.as_py())


def _holds(contents: pa.Array, tokens: set[str]) -> pa.Array:
    return pc.match_substring_regex(contents, "|".join(map(_quoted, sorted(tokens))))


def _quoted(token: str) -> str:
    r"""Escape a token for Arrow's regular expressions, which do not support all escapes of `re`."""
    return "".join(c if c.isalnum() or c in "<>_/" else f"[{c}]" if c not in r"[]^\\" else f"\\{c}" for c in token)


def _holds_turns(kind: pa.DataType) -> bool:
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return all(_is_text(fields.get(name)) for name in ("role", "content"))


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))
