"""Quantize the language model of a Qwen3-VL checkpoint to 8 bits, for serving with vLLM and sglang.

The weights of its linear layers become float8 (e4m3) with one scale per output channel. Engines quantize the inputs of
these layers while they serve, with one scale per token. Vision tower, embeddings, norms and lm_head keep their dtype.
This is the format FP8_DYNAMIC of the library compressed-tensors, which comes with both engines and does the arithmetic.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from qwen3vl_rl.errors import InputError

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme

Tensors = dict[str, torch.Tensor]

MODEL_TYPE = "qwen3_vl"
# Modules that are not quantized. The patterns fit the names of transformers, vLLM and sglang.
IGNORED = ("re:.*lm_head$", "re:.*visual.*", "re:.*embed_tokens$")
SCALE = "weight_scale"
_FORMAT = "float-quantized"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_WEIGHT_SUFFIXES = {".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors"}


def fp8_config() -> dict:
    """What `quantize_fp8` writes to config.json as `quantization_config`.

    Raises InputError if compressed-tensors is not installed.
    """
    require_library()
    import compressed_tensors
    from compressed_tensors.base import COMPRESSION_VERSION_NAME

    return _config().model_dump(mode="json") | {COMPRESSION_VERSION_NAME: compressed_tensors.__version__}


def quantize_fp8(source: Path, target: Path) -> None:
    """Write the checkpoint in the folder `source` to the new folder `target`, quantized to 8 bits.

    Safetensors files are read, quantized and written one at a time. Other files at the top of `source` are copied.

    Raises InputError if `source` is not a complete Qwen3-VL checkpoint in bfloat16 or float32, or if compressed-tensors
    is not installed. Part of `target` may exist then.
    """
    convert = require_library()
    check_quantizable(source)
    files = [*_weight_files(source), *_other_files(source)]
    target.mkdir(parents=True)
    with TemporaryDirectory() as links, _quiet_library():
        for file in files:  # the library converts whole folders, with what git or downloads left there
            (Path(links) / file.name).symlink_to(file.resolve())
        convert(links, target, Fp8Converter(source), max_workers=1)


def require_library() -> Callable[..., None]:
    """The function that converts a folder. Raises InputError if compressed-tensors is not installed."""
    try:
        from compressed_tensors.entrypoints.convert import convert_checkpoint
    except ImportError as error:
        raise InputError(f"fp8: expected the package compressed-tensors, 0.17 or later ({error})") from None
    return convert_checkpoint


class Fp8Converter:
    """Quantizes the tensors of a file. Has the methods that compressed-tensors 0.17 (vLLM) and 0.20 (sglang) call.

    folder: of the checkpoint, for messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def validate(self, tensors: Tensors) -> Tensors:
        """Raise InputError for a weight that cannot be quantized. The tensors may have no data (device `meta`)."""
        for _, name in _linear_weights(tensors):
            weight = tensors[name]
            if weight.ndim != 2 or weight.dtype not in (torch.bfloat16, torch.float32):
                found = f"{str(weight.dtype).removeprefix('torch.')} of shape {list(weight.shape)}"
                raise InputError(f"{self._folder}: {name}: expected a matrix in bfloat16 or float32, found {found}")
        return tensors

    def process(self, tensors: Tensors) -> Tensors:
        """Replace the linear weights, and add their scales. Raises InputError for infinite and undefined numbers."""
        for module, name in _linear_weights(tensors):
            weight, scale = quantized(tensors[name])
            if not scale.isfinite().all():
                raise InputError(f"{self._folder}: {name}: expected finite numbers, found inf or nan")
            tensors |= {name: weight, f"{module}.{SCALE}": scale}
        return tensors

    def get_dependencies(self, weight_name: str) -> set[str]:
        """Other tensors that are needed to quantize this one: none."""
        return set()

    def create_config(self) -> "QuantizationConfig":
        return _config()

    def update_config(self, config: "QuantizationConfig | None") -> "QuantizationConfig":
        return _config()

    def update_model_config(self, model_config: dict) -> dict:
        return model_config


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix (out, in) in float8, and its scales (out, 1) in the dtype of `weight`, in which transformers multiplies.

    Weights are divided by their scales in float32. Division in bfloat16 would round them twice.
    """
    from compressed_tensors.quantization import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    settings = _scheme().weights
    scale, zero = calculate_qparams(*weight.aminmax(dim=1, keepdim=True), settings)
    return quantize(weight.float(), scale.float(), zero, settings, settings.pytorch_dtype()), scale


def _linear_weights(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """The names of the quantized modules and of their weights."""
    from compressed_tensors.utils.match import match_quantizable_tensors

    return match_quantizable_tensors(tensors, IGNORED)


def _scheme() -> "QuantizationScheme":
    from compressed_tensors.quantization import preset_name_to_scheme

    scheme = preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])
    return scheme.model_copy(update={"format": _FORMAT})


def _config() -> "QuantizationConfig":
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    status = QuantizationStatus.COMPRESSED
    groups = {"group_0": _scheme()}
    return QuantizationConfig(config_groups=groups, format=_FORMAT, quantization_status=status, ignore=list(IGNORED))


def check_quantizable(folder: Path) -> None:
    """Raise InputError if the config.json in `folder` is not that of a Qwen3-VL that is not quantized."""
    config = _read_json(path := folder / "config.json")
    if (found := config.get("model_type")) != MODEL_TYPE:
        raise InputError(f'{path}: field "model_type": expected {MODEL_TYPE}, found {found}')
    for place, part in (("", config), ("text_config.", config.get("text_config") or {})):
        if entry := part.get("quantization_config"):
            found = f"a checkpoint quantized by {entry.get('quant_method')}"
            raise InputError(f'{path}: field "{place}quantization_config": expected none, found {found}')


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint and their index if it has one. The files are complete."""
    index = folder / _INDEX
    if not index.exists():
        _stored(folder / _SINGLE)
        return [folder / _SINGLE]
    if not (listed := _read_json(index).get("weight_map")):
        raise InputError(f'{index}: field "weight_map": expected the files of all tensors, found none')
    files = sorted({folder / name for name in listed.values()})
    for file in files:
        if missing := {name for name, place in listed.items() if place == file.name} - _stored(file):
            raise InputError(f"{file}: expected {min(missing)}, which {_INDEX} lists, found no such tensor")
    return [*files, index]


def _stored(file: Path) -> set[str]:
    """Names of the tensors in a file."""
    try:
        with safe_open(file, "pt") as weights:
            return set(weights.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: expected a complete safetensors file ({error})") from None


def _other_files(folder: Path) -> list[Path]:
    """Everything at the top of the folder but hidden files, weights and lists of weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix not in _WEIGHT_SUFFIXES and not path.name.endswith(".index.json")]


def _read_json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path}: expected a JSON object, as in a Hugging Face checkpoint") from None


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Without compressed-tensors' log of copied files, and without its progress bars if stderr is no terminal."""
    from loguru import logger

    logger.disable("compressed_tensors")
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
            yield
    finally:
        logger.enable("compressed_tensors")
