"""Writing files whole, where at any moment either the earlier file is there or the new one in full, and alone."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qwen3vl_rl.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end.

    On an error inside the block it is removed and the earlier file stays. Raises InputError where `path` cannot be
    written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # two may write the same at once
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
    """Make `folder`, and keep others who ask this way out of it; a process that dies lets go of it. A folder that is
    empty in the end is removed.

    Raises InputError where one is at work there, and where it cannot be made.
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
            with suppress(OSError):  # it holds something
                folder.rmdir()
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Hold an open file or folder until it is closed. Raises InputError where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: expected no other run that writes it, found one") from None
