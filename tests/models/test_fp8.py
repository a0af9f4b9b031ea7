"""Checkpoints in 8 bits: their tensors and configuration, that transformers and vLLM read them, and their export."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.export import export, quantize_published
from qwen3vl_rl.models.fp8 import fp8_config, quantize_fp8, quantized

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
HALF_STEP = 2**-4  # largest relative rounding error of e4m3, which has 3 bits of mantissa
HALF_SMALLEST = 2**-10  # half the distance of its numbers below 2^-6


@pytest.fixture(scope="module")
def fp8(starter, tmp_path_factory) -> Path:
    """`starter` in 8 bits."""
    folder = tmp_path_factory.mktemp("fp8") / "checkpoint"
    quantize_fp8(starter, folder)
    return folder


@pytest.fixture
def copy(starter, tmp_path) -> Path:
    """A copy of `starter`, to be damaged."""
    return Path(shutil.copytree(starter, tmp_path / "copy"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_linear_layers_of_the_language_model_and_no_others_have_8_bits(starter, fp8):
    before, after = weights(starter), weights(fp8)
    layers = {name.removesuffix(".weight") for name in before if name.split(".")[-2] in LINEAR}
    assert len(layers) == 4 * len(LINEAR) and all(".language_model.layers." in name for name in layers)
    assert after.keys() == before.keys() | {f"{name}.weight_scale" for name in layers}
    for name in layers:
        weight, scale = after[f"{name}.weight"], after[f"{name}.weight_scale"]
        assert weight.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
        assert weight.shape == before[f"{name}.weight"].shape and scale.shape == (len(weight), 1)
    for name in before.keys() - {f"{name}.weight" for name in layers}:
        assert torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype


def test_the_other_files_stay_but_for_the_configuration(starter, fp8):
    before, after = ({path.name: path for path in folder.iterdir()} for folder in (starter, fp8))
    assert after.keys() == before.keys() | {"model.safetensors.index.json"}
    for name in before.keys() - {"config.json", "model.safetensors"}:
        assert after[name].read_bytes() == before[name].read_bytes()
    config = json.loads((starter / "config.json").read_text()) | {"quantization_config": fp8_config()}
    assert json.loads((fp8 / "config.json").read_text()) == config
    assert not any(path.is_symlink() for path in fp8.iterdir())


def test_the_configuration_names_method_and_format():
    config = fp8_config()
    [group] = config["config_groups"].values()
    assert config["quant_method"] == "compressed-tensors" and config["format"] == "float-quantized"
    assert (group["weights"]["num_bits"], group["weights"]["type"]) == (8, "float")
    assert (group["weights"]["strategy"], group["weights"]["dynamic"]) == ("channel", False)
    assert (group["input_activations"]["strategy"], group["input_activations"]["dynamic"]) == ("token", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_rounded_to_the_nearest_number(dtype):
    spread = torch.logspace(-4, 1, 24)[:, None]  # of the rows
    weight = (torch.randn(24, 40, generator=torch.Generator().manual_seed(0)) * spread).to(dtype)
    weight[3] = 0
    rounded, scale = quantized(weight)
    assert rounded.dtype == torch.float8_e4m3fn and scale.dtype == dtype and scale.shape == (24, 1)
    error = (rounded.float() * scale.float() - weight.float()).abs()
    slack = 1 + torch.finfo(dtype).eps  # a rounded scale may be too small for the largest weight of its row
    assert (error <= slack * torch.maximum(HALF_STEP * weight.float().abs(), HALF_SMALLEST * scale.float())).all()
    assert rounded.float().abs().amax(dim=1).tolist() == [448.0 if row != 3 else 0.0 for row in range(24)]


def test_transformers_loads_it_and_its_logits_are_close(starter, fp8):
    full, small = (AutoModelForImageTextToText.from_pretrained(folder) for folder in (starter, fp8))
    assert small.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.float8_e4m3fn
    assert small.lm_head.weight.data_ptr() == small.model.language_model.embed_tokens.weight.data_ptr()
    tokens = torch.randint(0, 640, (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = (model(input_ids=tokens).logits for model in (full, small))
    error = (found - expected).square().mean().sqrt() / expected.std()
    assert 0.01 < error < 0.15  # measured: 0.09, with the rounded inputs of 4 layers of random weights


@pytest.mark.slow
def test_vllm_finds_the_same_layers():
    linear = pytest.importorskip("vllm.model_executor.layers.linear")
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration

    config = CompressedTensorsConfig.from_config(fp8_config())
    config.packed_modules_mapping = Qwen3VLForConditionalGeneration.packed_modules_mapping
    config.apply_vllm_mapper(Qwen3VLForConditionalGeneration.hf_to_vllm_mapper)

    def in_8_bits(layer: type, name: str) -> bool:
        scheme = config.get_scheme_dict(layer.__new__(layer), name)
        return scheme is not None and config._is_fp8_w8a8(scheme["weights"], scheme["input_activations"])

    block, vision = "language_model.model.layers.0", "visual.blocks.0"
    assert in_8_bits(linear.QKVParallelLinear, f"{block}.self_attn.qkv_proj")
    assert in_8_bits(linear.RowParallelLinear, f"{block}.self_attn.o_proj")
    assert in_8_bits(linear.MergedColumnParallelLinear, f"{block}.mlp.gate_up_proj")
    assert in_8_bits(linear.RowParallelLinear, f"{block}.mlp.down_proj")
    assert not in_8_bits(linear.QKVParallelLinear, f"{vision}.attn.qkv")
    assert not in_8_bits(linear.ColumnParallelLinear, f"{vision}.mlp.linear_fc1")
    assert not in_8_bits(linear.RowParallelLinear, "visual.merger.linear_fc2")
    assert not in_8_bits(VocabParallelEmbedding, "language_model.model.embed_tokens")
    assert not in_8_bits(ParallelLMHead, "lm_head")


def test_files_of_a_large_checkpoint_are_quantized_one_by_one(starter, fp8, copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").touch()
    (copy / ".git").mkdir()
    tensors = weights(starter)
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in places if places[name] == file}, copy / file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    quantize_fp8(copy, tmp_path / "fp8")
    index = json.loads((tmp_path / "fp8" / "model.safetensors.index.json").read_text())["weight_map"]
    expected, found = weights(fp8), {file: load_file(tmp_path / "fp8" / file) for file in set(places.values())}
    assert index.keys() == expected.keys()
    assert all(torch.equal(found[file][name], expected[name]) for name, file in index.items())
    assert not {"pytorch_model.bin", ".git"} & {path.name for path in (tmp_path / "fp8").iterdir()}
    (copy / "model-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-1\.safetensors: expected a complete safetensors file"):
        quantize_fp8(copy, tmp_path / "again")


def test_what_cannot_be_quantized_is_rejected(starter, fp8, copy, tmp_path):
    with pytest.raises(InputError, match=r'config\.json: field "quantization_config": expected none, found .*-tensors'):
        quantize_fp8(fp8, tmp_path / "twice")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    for weight, message in (
        (torch.zeros(4, 4, dtype=torch.int8), "expected a matrix in bfloat16 or float32, found int8 of shape"),
        (torch.full((4, 4), torch.nan), "expected finite numbers"),
    ):
        save_file(weights(starter) | {name: weight}, copy / "model.safetensors")
        with pytest.raises(InputError, match=f"copy: {name}: {message}"):
            quantize_fp8(copy, tmp_path / message)
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"model\.safetensors: expected a complete safetensors file"):
        quantize_fp8(copy, tmp_path / "pointer")
    change(copy / "config.json", model_type="qwen3_vl_moe")
    with pytest.raises(InputError, match='field "model_type": expected qwen3_vl, found qwen3_vl_moe'):
        quantize_fp8(copy, tmp_path / "moe")


def test_the_missing_library_is_named(starter, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "compressed_tensors.entrypoints.convert", None)
    for use in (
        fp8_config,
        lambda: quantize_fp8(starter, tmp_path / "fp8"),
        lambda: export(tmp_path, starter, fp8=True),
    ):
        with pytest.raises(InputError, match="expected the package compressed-tensors"):
            use()


def test_a_run_is_exported_in_8_bits(starter, fp8, tmp_path):
    shards = tmp_path / "run" / "global_step_1"
    shards.mkdir(parents=True)
    (shards / "fsdp_config.json").touch()
    shutil.copytree(starter, shards / "huggingface")
    export(shards, tmp_path / "out", fp8=True)
    expected, found = weights(fp8), weights(tmp_path / "out")
    assert all(torch.equal(found[name], expected[name]) for name in expected.keys() | found.keys())
    assert "| weights | quantized by compressed-tensors |" in (tmp_path / "out" / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


def test_a_published_checkpoint_is_written_completely_or_not_at_all(starter, copy, tmp_path):
    for target in (copy, copy / "fp8", tmp_path):
        with pytest.raises(InputError, match=r"expected a folder outside of .*copy"):
            quantize_published(copy, target)
    (copy / "model.safetensors").write_bytes((starter / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError, match="expected a complete safetensors file"):
        quantize_published(copy, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


@pytest.mark.long
@pytest.mark.slow
def test_the_command_quantizes_a_published_checkpoint_without_noise(starter, fp8, tmp_path):
    command = [sys.executable, "-m", "qwen3vl_rl.export", starter, tmp_path / "out"]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == 2 and "expected a training run" in plain.stderr
    done = subprocess.run([*command, "--quantize", "fp8"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {tmp_path / 'out'}\n", "")
    assert weights(tmp_path / "out").keys() == weights(fp8).keys()
    both = subprocess.run([*command, "--quantize", "fp8", "--checkpoint", "best"], capture_output=True, text=True)
    assert both.returncode == 2 and "expected a training run with --checkpoint or --scores" in both.stderr
