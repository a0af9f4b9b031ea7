import struct

import pytest
import torch
from safetensors.torch import save_file

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes


def test_names_and_shapes_are_read(tmp_path):
    save_file({"a": torch.zeros(5), "b": torch.zeros(2, 3)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert read_tensor_shapes(tmp_path / "model.safetensors") == {"a": [5], "b": [2, 3]}


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9)]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: expected a safetensors file"):
        read_tensor_shapes(tmp_path / "model.safetensors")
