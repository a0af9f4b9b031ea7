"""jsonl files with one JSON object per line, read with row numbers, written as a whole or row by row.

A writer that appends rows can be killed at any moment. The file then ends in at most one torn row, which has no
newline. `whole_lines` skips that row, `cut_torn_row` removes it from the file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import orjson

from qwen3vl_rl.data.files import replacing
from qwen3vl_rl.errors import InputError, row_error


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write all rows. On an error the earlier file stays unchanged."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (1-based number, line) of a jsonl file. Raises InputError for a missing file.

    Only a newline ends a line: `str.splitlines` would also split at U+0085 or U+2028, which JSON strings may contain.
    Blank lines at the end of the file are skipped.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a jsonl file, found none")
    with path.open("rb") as file:
        blank: list[tuple[int, bytes]] = []
        for number, line in enumerate(file, start=1):
            if line.isspace():
                blank.append((number, line))
                continue
            yield from blank
            blank.clear()
            yield number, line


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse one line into a JSON object. Raises InputError for anything else.

    A field that occurs twice is also an error, because JSON readers silently keep the last one.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _parse_unusual(path, number, line)
    if type(row) is not dict:
        raise row_error(path, number, "(line)", "one JSON object", _shown(line))
    for name in row:
        if line.count(_quoted(name)) > 1:
            _check_names(path, number, line)
            break
    return row


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a jsonl file. Raises InputError for a missing file, broken JSON or a row that is not an object."""
    return [parse_line(path, number, line) for number, line in iter_lines(path)]


def whole_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the lines of a file, from byte `start` on, that end in a newline. A missing file has no lines.

    A last line without a newline is skipped: it is still being written, or its writer was killed. The next call may
    start where these lines end.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        yield from (line for line in file if line.endswith(b"\n"))


def cut_torn_row(path: Path) -> None:
    """Remove a last line without a newline, which a killed writer leaves behind."""
    with path.open("rb+") as file:
        end = file.read().rfind(b"\n") + 1
        if end != file.tell():
            file.truncate(end)


def append_row(file: TextIO, row: dict[str, Any]) -> None:
    """Write one row and flush it, so that killing this process does not lose it."""
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _parse_unusual(path: Path, number: int, line: bytes) -> Any:
    """Parse what orjson rejects. NaN and huge integers pass, so that the check of their field reports them."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # raises for lone surrogates
    except json.JSONDecodeError as error:
        raise row_error(path, number, "(line)", f"one JSON object ({error.msg})", _shown(line)) from None
    except UnicodeEncodeError:
        raise row_error(path, number, "(line)", "text without lone surrogates", _shown(line)) from None
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise row_error(path, number, "(line)", f"UTF-8 text ({reason})", _shown(line)) from None
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        reason = str(error).partition(";")[0]
        raise row_error(path, number, "(line)", f"one JSON object ({reason})", _shown(line)) from None
    return row


@lru_cache(1000)
def _quoted(name: str) -> bytes:
    return f'"{name}"'.encode()


def _check_names(path: Path, number: int, line: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise row_error(path, number, name, "this field once per object", f"{count} times")
        return dict(pairs)

    json.loads(line, object_pairs_hook=check)


def _shown(line: bytes) -> str:
    return line[:80].decode(errors="replace").rstrip("\n")
