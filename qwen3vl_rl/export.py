"""Export a training checkpoint to a Hugging Face folder: weights, configs, tokenizer, processor, chat template, card.

    python -m qwen3vl_rl.export outputs/rl checkpoints/rl                            # the latest checkpoint
    python -m qwen3vl_rl.export outputs/rl checkpoints/rl --checkpoint latest best   # checkpoints/rl/{latest,best}
    python -m qwen3vl_rl.export outputs/rl checkpoints/rl --scores outputs/eval/rl   # with the scores of an evaluation
    python -m qwen3vl_rl.export outputs/rl checkpoints/rl_fp8 --quantize fp8         # the language model in 8 bits
    python -m qwen3vl_rl.export EGM-8B checkpoints/egm_fp8 --quantize fp8            # of a downloaded checkpoint

The first argument is a run of either stage, or one of its `global_step_*` folders. The best checkpoint of a run has the
highest accuracy on its validation set; of several equal ones, it is the earliest.

Weights that the checkpoint holds in Hugging Face format (`save_contents` with `hf_model`, the default on a CPU) are
copied without rounding. Sharded weights are merged by verl's merger, which rounds them to bfloat16.

`--quantize fp8` writes the linear layers of the language model in 8 bits, for serving with vLLM or sglang, not for
training. With this option, the first argument may also be the folder of a published checkpoint.

The model card, README.md, says what the run recorded of base model, data and recipe. `--scores` adds the accuracy that
`python -m qwen3vl_rl.evaluation` measured of an earlier export of the checkpoint; one of other weights is rejected.
"""

import argparse
import importlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from safetensors import safe_open

from qwen3vl_rl.errors import InputError, cli
from qwen3vl_rl.evaluation.reporting.card_scores import CardScores
from qwen3vl_rl.models.fp8 import check_quantizable, quantize_fp8, require_library
from qwen3vl_rl.models.lora import META, fold_adapters
from qwen3vl_rl.training.checkpoints import VALIDATION, best_step, latest_step
from qwen3vl_rl.training.model_card import write_card

STEPS = MappingProxyType({"latest": latest_step, "best": best_step})


def export(source: Path, target: Path, which: str = "latest", scores: Path | None = None, fp8: bool = False) -> None:
    """Write `target` completely or not at all, and replace an earlier checkpoint there.

    which: a key of `STEPS`.
    scores: the folder of an evaluation, for the model card.
    fp8: quantize the language model to 8 bits.

    Raises InputError if `source` holds no such checkpoint, if `target` holds other files, if `scores` is not a finished
    evaluation of these weights, or if the family cannot be quantized.
    """
    if fp8:
        require_library()
    evaluated = CardScores.read(scores) if scores else None
    checkpoint = find_checkpoint(source, which)
    if fp8:  # before the merge, which takes minutes
        check_quantizable(checkpoint / "huggingface")
    with _draft(target) as draft:
        if any(checkpoint.glob("huggingface/*.safetensors")):
            shutil.copytree(checkpoint / "huggingface", draft)
        else:
            _merge(checkpoint, draft)
        if (checkpoint / META).exists():
            fold_adapters(draft, checkpoint / META)
        _state_dtype(draft)
        if fp8:
            _quantize_in_place(draft)
        name = _model_name(source, target, which)
        write_card(draft, checkpoint, name, evaluated.markdown(name, draft) if evaluated else None)


def quantize_published(source: Path, target: Path) -> None:
    """Write the Hugging Face folder `source` to `target`, completely or not at all, quantized to 8 bits.

    Raises InputError if `source` cannot be quantized, if `target` holds other files, or if one folder holds the other.
    """
    ours, theirs = target.resolve(), source.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(f"{target}: expected a folder outside of {source}, whose weights must stay")
    with _draft(target) as draft:
        quantize_fp8(source, draft)


def is_published(source: Path) -> bool:
    """Whether `source` is a Hugging Face folder, not a training run or a checkpoint of one."""
    return (source / "config.json").is_file() and any(source.glob("*.safetensors"))


def find_checkpoint(source: Path, which: str = "latest") -> Path:
    """The folder with verl's shards, which stage 2 keeps in a subfolder `actor`. Of a run, its latest or best step."""
    step = STEPS[which](source)
    folder = source if step is None else source / f"global_step_{step}"
    for shards in (folder / "actor", folder):
        if (shards / "fsdp_config.json").exists():
            return shards
    if latest_step(source) is not None:
        raise InputError(f"{source}: expected a validated checkpoint, found none with {VALIDATION}")
    raise InputError(f"{source}: expected a training run or a global_step_* folder of one")


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """A new folder next to `target`, for the caller to create. It replaces `target` at the end.

    It is removed if an exception is raised.
    """
    if target.exists() and any(target.iterdir()) and not (target / "config.json").exists():
        raise InputError(f"{target}: expected no such folder or an earlier checkpoint, found other files")
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        for weights in draft.glob("*.safetensors"):  # safetensors lets only the owner read them
            shutil.copymode(draft / "config.json", weights)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _model_name(source: Path, target: Path, which: str) -> str:
    """The folder's name. If it says little, its parent's name comes before it: `rl/best`, `sft_8b/hf` in `sft_8b`."""
    return "/".join(target.parts[-2:]) if target.name == which or target.parent == source else target.name


def _quantize_in_place(folder: Path) -> None:
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as parent:
        quantize_fp8(folder.rename(Path(parent) / "original"), folder)


def _merge(checkpoint: Path, target: Path) -> None:
    importlib.import_module("qwen3vl_rl.verl_ext.processor")  # before the merger binds verl's look-up of processors
    from verl.model_merger.base_model_merger import ModelMergerConfig  # takes seconds to import
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(checkpoint),
        target_dir=str(target),
        hf_model_config_path=str(checkpoint / "huggingface"),
    )
    FSDPModelMerger(config).merge_and_save()


def _state_dtype(folder: Path) -> None:
    """Write the dtype of the weights into config.json, where verl always writes bfloat16."""
    with safe_open(next(folder.glob("*.safetensors")), "pt") as weights:
        dtype = weights.get_slice(next(iter(weights.keys()))).get_dtype()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a training run or one of its global_step_* folders")
    parser.add_argument("target", type=Path, help="the Hugging Face folder to write")
    parser.add_argument("--checkpoint", choices=STEPS, nargs="+", default=["latest"], help="of a run (default: latest)")
    parser.add_argument("--scores", type=Path, metavar="EVALUATION", help="folder of an evaluation, for the model card")
    parser.add_argument("--quantize", choices=["fp8"], help="the language model, for serving")
    arguments = parser.parse_args()
    if arguments.scores and len(arguments.checkpoint) > 1:
        raise InputError("--scores: expected one --checkpoint, as an evaluation has the scores of one")
    if arguments.quantize and is_published(arguments.source):
        if arguments.scores or arguments.checkpoint != ["latest"]:
            raise InputError(f"{arguments.source}: expected a training run with --checkpoint or --scores")
        quantize_published(arguments.source, arguments.target)
        print(f"wrote {arguments.target}")
        return
    for which in arguments.checkpoint:
        target = arguments.target / which if len(arguments.checkpoint) > 1 else arguments.target
        export(arguments.source, target, which, arguments.scores, arguments.quantize == "fp8")
        print(f"wrote {target}")


if __name__ == "__main__":
    cli(main)
