"""What the evaluation must know about Hugging Face checkpoints, read from their files without loading weights."""

import hashlib
import json
from pathlib import Path

from qwen3vl_rl.errors import InputError
from qwen3vl_rl.models.safetensors_header import read_tensor_shapes
from qwen3vl_rl.training.recipe import is_hub_name

# Files that turn text and images into model input. Checkpoints can share a server only if these are equal.
_INPUT_FILES = ("tokenizer.json", "chat_template.jinja", "processor_config.json", "preprocessor_config.json")
_EARLIER_TEMPLATE = "chat_template.json"  # in released Qwen3-VL, which also have it in tokenizer_config.json
_DECIDING_FILES = (*_INPUT_FILES, "tokenizer_config.json", "generation_config.json")
_BLOCKS, _BLOCK_BYTES = 64, 65536


def resolve_checkpoint(model: str) -> Path:
    """The folder of `model`, which is a folder or `owner/name` on the Hugging Face hub (downloaded once).

    Raises InputError if it is neither, or if the folder is no checkpoint with safetensors weights.
    """
    checkpoint = Path(model).expanduser()
    if not checkpoint.is_dir() and is_hub_name(model):
        checkpoint = _download(model)
    _check_checkpoint(checkpoint)
    return checkpoint.resolve()


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]))
    except RepositoryNotFoundError:
        raise InputError(f"{model}: expected a checkpoint folder or a model of the hub, found neither") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{model}: no such folder, and the hub did not answer ({type(error).__name__})") from None


def _check_checkpoint(checkpoint: Path) -> None:
    if not (checkpoint / "config.json").is_file():
        raise InputError(f"{checkpoint}: expected a Hugging Face checkpoint folder, found no config.json in it")
    if not _weight_files(checkpoint):
        raise InputError(f"{checkpoint}: expected weights as *.safetensors, found none")


def fingerprint(checkpoint: Path) -> dict[str, str]:
    """Hashes of the weights, and of what forms their input: template, tokenizer, processor, config."""
    inputs = hashlib.sha256(json.dumps(_config(checkpoint), sort_keys=True).encode())
    for path in (checkpoint / name for name in _DECIDING_FILES):
        inputs.update(f"{path.name} ".encode() + (path.read_bytes() if path.is_file() else b""))
    if (template := checkpoint / _EARLIER_TEMPLATE).is_file():  # optional, so that other hashes stay the same
        inputs.update(template.read_bytes())
    return {"weights": _weights_fingerprint(checkpoint), "inputs": inputs.hexdigest()}


def _weights_fingerprint(checkpoint: Path) -> str:
    """Hash of each file's header and size, and of 64 blocks spread over its data.

    Training changes nearly every number, so blocks suffice, and 16 GB cost no more than a few megabytes.
    """
    digest = hashlib.sha256()
    for path in _weight_files(checkpoint):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} {sorted(read_tensor_shapes(path).items())}".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(max(size - _BLOCK_BYTES, 0) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def interchangeable(a: Path, b: Path) -> bool:
    """Whether a server of `a` can serve `b` after swapping weights: same tensor shapes, same input files."""
    return _structure(a) == _structure(b)


def context_length(checkpoint: Path) -> int:
    """The maximum length of prompt and answer together, in tokens, by the checkpoint's configuration."""
    config = _read_json(checkpoint / "config.json")
    length = config.get("text_config", config).get("max_position_embeddings")
    if not isinstance(length, int):
        raise InputError(f"{checkpoint}/config.json: expected max_position_embeddings, as in Qwen3-VL, found none")
    return length


def _config(checkpoint: Path) -> dict:
    config = _read_json(checkpoint / "config.json")
    return {name: _without_dtype(config.get(name)) for name in ("architectures", "text_config", "vision_config")}


def _structure(checkpoint: Path) -> dict:
    tensors = {name: shape for path in _weight_files(checkpoint) for name, shape in read_tensor_shapes(path).items()}
    files = [path for name in (*_INPUT_FILES, _EARLIER_TEMPLATE) if (path := checkpoint / name).is_file()]
    texts = {path.name: path.read_bytes() for path in files} | {"template": _tokenizer_template(checkpoint)}
    return {"config": _config(checkpoint), "tensors": tensors, "texts": texts}


def _tokenizer_template(checkpoint: Path) -> object:
    """The template in tokenizer_config.json. Other fields of the file depend on the version that wrote it."""
    path = checkpoint / "tokenizer_config.json"
    return _read_json(path).get("chat_template") if path.is_file() else None


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, as in a checkpoint")
    return content


def _without_dtype(part):
    # The server uses one dtype for all checkpoints, so the stored dtype does not matter.
    return {name: value for name, value in part.items() if name != "dtype"} if isinstance(part, dict) else part


def _weight_files(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("*.safetensors"))
