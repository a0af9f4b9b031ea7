"""Writing files whole: at any moment either the earlier file is there or the new one in full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qwen3vl_rl.grounding import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end.

    On an error inside the block it is removed and the earlier file stays. Raises InputError where `path` cannot be
    written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written ({error.strerror})") from None
    if path.is_dir():
        part.unlink()
        raise InputError(f"{path}: expected a file that can be written, found a folder")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)
