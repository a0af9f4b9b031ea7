import json

import pytest
from omegaconf import OmegaConf

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.training.recipe import check_paths


def test_quantized_weights_are_rejected(tmp_path):
    """As `export --quantize fp8` writes them, for serving."""
    config = OmegaConf.create({"model": {"path": str(tmp_path)}})
    check_paths(config, "model.path")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}}))
    with pytest.raises(InputError, match=r"model\.path: .*config\.json: quantization_config: expected none"):
        check_paths(config, "model.path")


def test_a_missing_path_names_its_key(tmp_path):
    config = OmegaConf.create({"model": {"path": "Qwen/on-the-hub"}, "data": {"files": [str(tmp_path / "none")]}})
    check_paths(config, "model.path")
    with pytest.raises(InputError, match=r"data\.files: no such file or folder: .*none"):
        check_paths(config, "model.path", "data.files")
    with pytest.raises(InputError, match=r"data\.others: expected a path, got nothing"):
        check_paths(config, "model.path", "data.others")
