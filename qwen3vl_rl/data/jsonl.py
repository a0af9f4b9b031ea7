"""jsonl files: one JSON object a line, read with its place in the file, written whole or row by row.

A writer that appends row by row can be killed at any moment. Such a file ends in at most one torn row, which has no
newline. `whole_lines` leaves it out, `cut_torn_row` takes it out of the file.
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
    """Write all rows or leave the earlier file as it was."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def iter_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a jsonl file with their 1-based number. Raises InputError for a missing file.

    A line ends at a newline alone: JSON strings may hold U+0085 or U+2028, which `str.splitlines` takes for one. Blank
    lines at the end are none.
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
    """The JSON object of one line. Raises InputError for anything else.

    That includes a field of the row that occurs twice, of which JSON readers silently take the last.
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
    """All rows of a jsonl file. Raises InputError for a missing file, broken JSON or a row that is no object."""
    return [parse_line(path, number, line) for number, line in iter_lines(path)]


def whole_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Lines of a file from byte `start` on that end in a newline; none where the file is missing.

    The last line is left out while it is being written, or where its writer was killed. The next call may start where
    these lines end.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        yield from (line for line in file if line.endswith(b"\n"))


def cut_torn_row(path: Path) -> None:
    """Cut off a last line that a killed writer left without its newline."""
    with path.open("rb+") as file:
        end = file.read().rfind(b"\n") + 1
        if end != file.tell():
            file.truncate(end)


def append_row(file: TextIO, row: dict[str, Any]) -> None:
    """Write one row and hand it to the operating system at once: killing this process then loses nothing."""
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def _parse_unusual(path: Path, number: int, line: bytes) -> Any:
    """What orjson refuses: NaN and huge integers pass, so that the check of their field can name them."""
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
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
                raise row_error(path, number, name, "this field once in an object", f"{count} of them")
        return dict(pairs)

    json.loads(line, object_pairs_hook=check)


def _shown(line: bytes) -> str:
    return line[:80].decode(errors="replace").rstrip("\n")
