"""The header of a safetensors file, which lists its tensors without their data."""

import json
import struct
from pathlib import Path

from qwen3vl_rl.errors import InputError


def read_tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Tensor names and shapes from the header: its length as a little-endian uint64, then JSON.

    Raises InputError if the file has no such header, such as the pointer file that git checks out without git-lfs.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, AttributeError, TypeError, KeyError):
        raise InputError(f"{path}: expected a safetensors file, found something else or a part of one") from None
