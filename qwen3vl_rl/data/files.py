"""Replace files atomically, and lock folders and files against other writers."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen3vl_rl.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path`, which replaces `path` when the block ends.

    If the block raises, the temporary file is removed and the earlier file stays. Raises InputError if `path` cannot
    be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two processes may write the same path
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


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Create `folder` and hold an exclusive lock on it, which other callers of this function respect.

    The lock is released when the process dies. A folder that is empty at the end is removed. Raises InputError if
    another process holds the lock, or if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written ({error.strerror})") from None
    try:
        lock(descriptor, folder)
        try:
            yield
        finally:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file or folder until it is closed. Raises InputError if another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: expected no other run to be writing to it, found one") from None
